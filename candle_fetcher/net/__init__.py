"""Floor 1: the only place that sends anything. A Call goes in, a Reply comes out."""
