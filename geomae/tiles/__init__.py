"""Tiles: which windows there are, in what order they are read, and their statistics; and a landscape to read."""
