"""GeoParquet: one row per tile with its columns, its embedding and its footprint in longitude and latitude.

T tiles, D features of an embedding, E points of an outline
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import xarray
from numpy.typing import NDArray
from pyproj import CRS
from shapely.affinity import translate

from geomae.embeddings.store import ABOUT, batches
from geomae.files import publish_file
from geomae.rasters.grids import crs_label
from geomae.tiles.earth import frames_of
from geomae.tiles.index import TileIndex

ROWS = 16_384  # rows of a row group
WIDE = 5.0  # degrees of longitude; a wider outline lies near a pole, or is large, and gets more points
WIDE_PER_EDGE = 32  # points per edge of such an outline
SLIVER = 1e-9  # fraction of a footprint; smaller parts are rounding errors at longitude 180


def footprints(index: TileIndex) -> NDArray[Any]:
    """The outline (T) of each tile in EPSG:4326, None where its position on Earth is unknown.

    Longitudes are -180 to 180. An outline that crosses longitude 180 is split into parts; one around a pole includes
    the pole.
    """
    place_T4 = index.tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
    outlines_T = np.full(len(place_T4), None, dtype=object)
    frames = frames_of(index.grids)
    for first in range(0, len(place_T4), ROWS):
        here = np.arange(first, min(first + ROWS, len(place_T4)))
        turned_TE2 = _unwrapped(frames.outlines(place_T4[here]))
        known_T = np.isfinite(turned_TE2).all(axis=(1, 2))
        wide_T = known_T & (np.ptp(turned_TE2[:, :, 0], axis=1) > WIDE)
        plain_T = known_T & ~wide_T & (np.abs(turned_TE2[:, :, 0]) <= 180).all(axis=1)
        outlines_T[here[plain_T]] = shapely.polygons(turned_TE2[plain_T, :-1])
        split_T = known_T & ~wide_T & ~plain_T
        outlines_T[here[split_T]] = _footprints(turned_TE2[split_T])
        dense_TE2 = _unwrapped(frames.outlines(place_T4[here[wide_T]], per_edge=WIDE_PER_EDGE))
        outlines_T[here[wide_T]] = _footprints(dense_TE2)
    return outlines_T


def without_footprint(index: TileIndex, footprints_T: NDArray[Any]) -> str | None:
    """A remark on how many tiles with a CRS have no footprint, and why; None where all have one."""
    lost = [
        (scene, grid.crs)
        for scene, footprint in zip(index.tiles["scene"].tolist(), footprints_T, strict=True)
        if footprint is None and (grid := index.grids[scene]) is not None and grid.crs is not None
    ]
    if not lost:
        return None
    scene, crs = lost[0]
    return (
        f"{index.name}: {len(lost)} of {len(index)} tiles have no geometry in the table, because the CRS of "
        f"{index.source.scenes[scene].files[0]} ({crs_label(crs)}) has no position on Earth; x and y are in that CRS"
    )


def write_geoparquet(dataset: xarray.Dataset, footprints_T: NDArray[Any], path: Path) -> None:
    """Publish tile columns, `embedding` (a list of D float32) and `geometry` of a store as GeoParquet 1.1.

    The geometry column is always written, since geopandas refuses a file without one.
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


def write_tiles(columns: Mapping[str, Sequence[Any]], footprints_T: NDArray[Any], path: Path) -> None:
    """Publish columns of tiles and `geometry` as GeoParquet 1.1; unknown values are null."""
    arrays = {name: pa.array(values) for name, values in columns.items()}
    # A column of nulls only has no type; it is written as text, which all readers of tables accept.
    arrays = {name: one.cast(pa.string()) if pa.types.is_null(one.type) else one for name, one in arrays.items()}
    arrays["geometry"] = pa.array(shapely.to_wkb(footprints_T), type=pa.binary())
    table = pa.table(arrays).replace_schema_metadata({"geo": json.dumps(_geo(footprints_T))})
    with publish_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS)


def _unwrapped(degrees_TE2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Closed outlines (T, E + 1, 2) with continuous longitudes; around a pole, first and last differ by 360."""
    closed_TE2 = np.concatenate([degrees_TE2, degrees_TE2[:, :1]], axis=1)
    closed_TE2[..., 0] = np.unwrap(closed_TE2[..., 0], period=360, axis=1)
    # Outlines with longitudes above 180, as in a raster of longitudes 0 to 360, are moved back by whole turns.
    closed_TE2[..., 0] -= 360 * np.round(closed_TE2[..., 0].mean(axis=1, keepdims=True) / 360)
    return closed_TE2


def _footprints(turned_TE2: NDArray[np.float64]) -> NDArray[Any]:
    result_T = np.full(len(turned_TE2), None, dtype=object)
    result_T[:] = [_footprint(turned_E2) for turned_E2 in turned_TE2]
    return result_T


def _footprint(turned_E2: NDArray[np.float64]) -> Any:
    """A valid polygon, split where it crosses longitude 180; None where GEOS cannot make one."""
    ring_E2 = turned_E2
    if abs(turned_E2[-1, 0] - turned_E2[0, 0]) > 180:  # the pole is inside
        pole = np.copysign(90.0, turned_E2[:, 1].mean())
        ring_E2 = np.concatenate([turned_E2, [(turned_E2[-1, 0], pole), (turned_E2[0, 0], pole)]])
    try:
        whole = shapely.make_valid(shapely.Polygon(ring_E2))
        low, _, high, _ = whole.bounds
        parts = []
        for turn in range(round(low / 360), round(high / 360) + 1):
            part = whole.intersection(shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
            parts += [translate(one, -360 * turn) for one in _polygons(part)]
        least = SLIVER * whole.area
        return shapely.union_all([part for part in parts if part.area > least]) if parts else None
    except (shapely.errors.ShapelyError, ValueError):  # embeddings must not be lost for want of a geometry
        return None


def _polygons(geometry: Any) -> list[Any]:
    """All polygons in a geometry of any kind."""
    return [one for one in shapely.get_parts(shapely.get_parts(geometry)) if one.geom_type == "Polygon"]


def _geo(footprints_T: Sequence[Any] | NDArray[Any]) -> dict[str, Any]:
    """The `geo` metadata that GeoParquet requires."""
    known = [one for one in footprints_T if one is not None]
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted({one.geom_type for one in known}),
        "crs": CRS.from_epsg(4326).to_json_dict(),
    }
    if known:
        column["bbox"] = [float(edge) for edge in shapely.total_bounds(np.array(known, dtype=object))]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
