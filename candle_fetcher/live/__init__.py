"""Live calls: quotes now and as they change, and candles as they close.

Line (one thread, one connection) -> Link (states of a connection) -> events -> a board -> the user's loop
"""
