"""What a process runs on: devices, precision, ranks, memory, signals, and the terminal."""
