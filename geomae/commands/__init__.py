"""One module per command, which holds all that the command does."""
