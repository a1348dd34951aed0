"""What is asked again and again: quotes of now, and streams."""
