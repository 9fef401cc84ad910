"""geomae."""
