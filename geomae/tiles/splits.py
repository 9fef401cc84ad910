"""Splits of the tiles of an index, as the catalogue deals them, and the tiles that pretraining holds out.

T tiles
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyproj import Transformer

from geomae.catalog.catalog import Catalog
from geomae.catalog.splits import LEFT_OUT, TRAIN, block_splits, group_splits, hold_out, random_splits
from geomae.errors import CatalogError
from geomae.rasters import Grid

EQUAL_AREA = "EPSG:6933"  # metres everywhere, so that blocks are of one size from the equator to the poles


def assign_splits(
    catalog: Catalog, name: str, grids: Sequence[Grid | None], tiles: pd.DataFrame, attributes: pd.DataFrame
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Add the columns `split` and `block` (None without blocks); tells which tiles (T,) stay in the index."""
    split = catalog.entry(name).split
    block = np.full(len(tiles), None, dtype=object)
    try:
        if split is None:
            labels = np.full(len(tiles), TRAIN, dtype=object)
        elif split.column is not None:
            labels = _named(catalog, name, split.column, attributes)
        elif split.block_km is not None:
            corners_m = _corners_m(grids, tiles)
            centre_m = corners_m.mean(1)
            x_m, y_m = centre_m.T
            labels, _ = block_splits(x_m, y_m, corners_m, split.block_km, split.fractions or {}, split.seed)
            cells = np.floor(centre_m / (split.block_km * 1000)).astype(np.int64)
            block = np.array([f"{column},{row}" for column, row in cells.tolist()], dtype=object)
        elif split.group is not None:
            labels = group_splits(tiles["group"].to_numpy(), split.group, split.seed)
        else:
            labels = random_splits(tiles["tile_id"].to_numpy(), split.random or {}, split.seed)
    except CatalogError as error:
        text = str(error)
        place = catalog.place(name, "split")
        raise CatalogError(text if text.startswith(str(catalog.path)) else f"{place}: {text}") from error
    tiles = tiles.assign(split=labels, block=block)
    return tiles, np.asarray(labels != LEFT_OUT, dtype=bool)


def validation_tiles(tiles: pd.DataFrame, share: float, seed: int) -> NDArray[np.bool_]:
    """Tiles (T,) to hold out of training: whole groups, else whole blocks, else single tiles, about `share` of all."""
    for column in ("group", "block", "tile_id"):
        if tiles[column].isna().any():
            continue
        held = hold_out(tiles[column].to_numpy(), share, seed)
        if held.any() and not held.all():
            return held
    return np.zeros(len(tiles), dtype=bool)


def _named(catalog: Catalog, name: str, column: str, attributes: pd.DataFrame) -> NDArray[np.object_]:
    values = attributes[column]
    if values.isna().any():
        place = catalog.place(name, "split", "column")
        raise CatalogError(f"{place}: {int(values.isna().sum())} tiles have no {column!r}; fill the column")
    return np.array([str(value) for value in values.tolist()], dtype=object)


def _corners_m(grids: Sequence[Grid | None], tiles: pd.DataFrame) -> NDArray[np.float64]:
    """Corners (T, 4, 2) of the tiles on the equal-area grid; NaN where a scene has no CRS."""
    corners = np.full((len(tiles), 4, 2), np.nan)
    place = tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
    for scene in np.unique(place[:, 0]):
        grid, rows = grids[scene], np.flatnonzero(place[:, 0] == scene)
        if grid is None or grid.crs is None:
            continue
        a, b, c, d, e, f = grid.transform
        _, top, left, size = place[rows].T
        col = np.stack([left, left + size, left + size, left], axis=1).astype(np.float64)
        row = np.stack([top, top, top + size, top + size], axis=1).astype(np.float64)
        project = Transformer.from_crs(grid.crs, EQUAL_AREA, always_xy=True)
        x_m, y_m = project.transform(a * col + b * row + c, d * col + e * row + f)
        corners[rows] = np.stack([x_m, y_m], axis=-1)
    return corners
