"""GeoParquet: one row per tile with its columns, its embedding and its footprint in longitude and latitude.

T tiles, D features of an embedding
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import xarray
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from geomae.embeddings.store import ABOUT, batches
from geomae.files import publish_file
from geomae.rasters import Grid
from geomae.tiles.index import TileIndex

ROWS = 16_384  # of a row group
POINTS_PER_EDGE = 4  # an edge that is straight in the tile's CRS is bent in another


def footprints(index: TileIndex) -> NDArray[Any]:
    """The outline (T) of each tile in EPSG:4326, None without a CRS; in two parts where it crosses longitude 180."""
    place = index.tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
    outlines = np.full(len(place), None, dtype=object)
    for scene in np.unique(place[:, 0]).tolist():
        grid = index.grids[scene]
        if grid is not None and grid.crs is not None:
            here = np.flatnonzero(place[:, 0] == scene)
            outlines[here] = _outlines(grid, grid.crs, place[here, 1:])
    return outlines


def write_geoparquet(dataset: xarray.Dataset, footprints_T: NDArray[Any], path: Path) -> None:
    """Publish the tile columns, `embedding` (a list of D float32) and `geometry` of a store as GeoParquet 1.1.

    There is always a geometry column, without which geopandas refuses the file.
    """
    columns = {name: dataset[name].to_numpy() for name in ABOUT}
    fields = [(name, pa.array(values[:0]).type) for name, values in columns.items()]
    fields += [("embedding", pa.list_(pa.float32(), dataset.sizes["feature"])), ("geometry", pa.binary())]
    schema = pa.schema(fields, metadata={"geo": json.dumps(_geo(footprints_T))})
    with publish_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for part, embedding_TD in batches(dataset, ROWS):
            arrays = [pa.array(values[part]) for values in columns.values()]
            arrays.append(pa.FixedSizeListArray.from_arrays(embedding_TD.ravel(), embedding_TD.shape[1]))
            arrays.append(pa.array(shapely.to_wkb(footprints_T[part]), type=pa.binary()))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROWS)


def _outlines(grid: Grid, crs: str, place_T3: NDArray[np.int64]) -> list[Any]:
    a, b, c, d, e, f = grid.transform
    around_E2 = np.array(list(_around()))
    cols_TE = place_T3[:, 1:2] + around_E2[:, 0] * place_T3[:, 2:]
    rows_TE = place_T3[:, :1] + around_E2[:, 1] * place_T3[:, 2:]
    to_degrees = Transformer.from_crs(CRS.from_user_input(crs), CRS.from_epsg(4326), always_xy=True)
    lon_TE, lat_TE = to_degrees.transform(a * cols_TE + b * rows_TE + c, d * cols_TE + e * rows_TE + f)
    return [_outline(lon_E, lat_E) for lon_E, lat_E in zip(lon_TE, lat_TE, strict=True)]


def _around() -> Iterator[tuple[float, float]]:
    """Points on the edge of a unit square (column, row)."""
    corners = [(0, 1), (1, 1), (1, 0), (0, 0), (0, 1)]
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        for step in range(POINTS_PER_EDGE):
            share = step / POINTS_PER_EDGE
            yield x0 + share * (x1 - x0), y0 + share * (y1 - y0)


def _outline(lon_E: NDArray[np.float64], lat_E: NDArray[np.float64]) -> Any:
    """A polygon; None where the projection does not reach."""
    if not (np.isfinite(lon_E).all() and np.isfinite(lat_E).all()):
        return None
    if np.ptp(lon_E) <= 180:
        return shapely.Polygon(np.stack([lon_E, lat_E], axis=1))
    whole = shapely.Polygon(np.stack([np.where(lon_E < 0, lon_E + 360, lon_E), lat_E], axis=1))
    east, west = (whole.intersection(shapely.box(low, -90, low + 180, 90)) for low in (0, 180))
    return shapely.MultiPolygon([east, shapely.transform(west, lambda points: points - [360, 0])])


def _geo(footprints_T: Sequence[Any] | NDArray[Any]) -> dict[str, Any]:
    """The metadata of the format."""
    known = [one for one in footprints_T if one is not None]
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted({one.geom_type for one in known}),
        "crs": CRS.from_epsg(4326).to_json_dict(),
    }
    if known:
        column["bbox"] = [float(edge) for edge in shapely.total_bounds(np.array(known, dtype=object))]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
