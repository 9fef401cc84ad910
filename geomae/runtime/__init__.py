"""The environment of a process: devices, precision, ranks, memory, signals and the terminal."""
