"""Tiles: windows of scenes, the order in which they are read, their labels and statistics; a synthetic landscape."""
