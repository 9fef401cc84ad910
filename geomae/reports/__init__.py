"""Figures, pictures of maps, and HTML reports."""
