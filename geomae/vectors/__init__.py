"""Points and polygons that people collected: the only place that opens vector files."""
