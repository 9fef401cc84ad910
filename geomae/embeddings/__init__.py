"""Embeddings on disk: a Zarr store that is either complete or absent, and GeoParquet for other programs."""

from geomae.embeddings.geoparquet import write_geoparquet
from geomae.embeddings.store import batches, open_embeddings, tile_columns

__all__ = ["batches", "open_embeddings", "tile_columns", "write_geoparquet"]
