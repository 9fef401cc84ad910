"""Points and polygons of field and reference data: the only package that opens vector files."""
