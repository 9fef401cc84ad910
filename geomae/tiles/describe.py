"""What is known of each tile beside its place: identity, centre, group, domain, label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geomae.catalog import Catalog
from geomae.catalog.source import Source
from geomae.rasters import Grid
from geomae.tiles.labels import raster_labels


def describe(
    catalog: Catalog,
    name: str,
    source: Source,
    grids: Sequence[Grid | None],
    tiles: pd.DataFrame,
    attributes: pd.DataFrame,
) -> pd.DataFrame:
    """Add identity, place, group, domain and label."""
    entry = catalog.entry(name)
    ids = [source.scenes[scene].id for scene in tiles["scene"]]
    tiles = tiles.reset_index(drop=True)
    tiles.insert(0, "tile_id", [f"{i}:{r}:{c}" for i, r, c in zip(ids, tiles["row"], tiles["col"], strict=True)])
    centres = [
        _centre(grids[scene], row, col, size)
        for scene, row, col, size in tiles[["scene", "row", "col", "size"]].itertuples(index=False)
    ]
    tiles["x"], tiles["y"] = np.array(centres, dtype=np.float64).T

    def column(key: str) -> "pd.Series[Any]":
        return _texts(attributes[key])

    nothing = _kept([None] * len(tiles))
    tiles["group"] = column(entry.group.column) if entry.group else nothing
    folds = entry.group.folds if entry.group else None
    tiles["fold"] = column(folds) if folds else tiles["group"]
    if entry.domain is None or isinstance(entry.domain, str):
        tiles["domain"] = entry.domain or name
    else:
        domain = column(entry.domain.column)
        tiles["domain"] = [value if value else "unspecified" for value in domain]
    if entry.label is None:
        tiles["label"] = nothing
    elif entry.label.folder:
        folders = [source.scenes[scene].attributes["label"] for scene in tiles["scene"]]  # the catalogue put them there
        tiles["label"] = _kept(folders)
    elif entry.label.column is not None:
        tiles["label"] = column(entry.label.column)
    else:
        tiles["label"] = _kept(raster_labels(entry.label, source, grids, tiles).tolist())
    return tiles


def _centre(grid: Grid | None, row: int, col: int, size: int) -> tuple[float, float]:
    if grid is None or grid.crs is None:
        return float("nan"), float("nan")
    a, b, c, d, e, f = grid.transform
    x, y = col + size / 2, row + size / 2
    return a * x + b * y + c, d * x + e * y + f


def _kept(values: Sequence[Any]) -> "pd.Series[Any]":
    """A column of these values; among text pandas would make NaN of None."""
    return pd.Series(values, dtype="object")


def _texts(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Values as text, missing ones as None; whole numbers without a decimal point."""

    def text(value: Any) -> str | None:
        if value is None or value != value or value == "":
            return None
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    return _kept([text(value) for value in values.tolist()])
