"""Embeddings on disk: a Zarr store that is whole or absent, and GeoParquet for everything else."""

from geomae.embeddings.geoparquet import write_geoparquet
from geomae.embeddings.store import batches, open_embeddings, tile_columns

__all__ = ["batches", "open_embeddings", "tile_columns", "write_geoparquet"]
