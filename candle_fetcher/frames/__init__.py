"""What is made of frames that calls returned: coarser candles, and several series side by side."""
