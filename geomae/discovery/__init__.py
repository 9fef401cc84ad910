"""A first catalogue inferred from what lies in a folder."""
