"""Floor 0: pure values and functions. No sockets, files, threads, clocks, sleeps or logs."""
