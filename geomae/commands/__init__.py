"""One module per command: what it does, start to end."""
