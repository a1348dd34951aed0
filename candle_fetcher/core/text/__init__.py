"""Text that holds candles, read into columns and written from them, a whole column at a time."""
