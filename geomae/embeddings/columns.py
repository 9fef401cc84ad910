"""What is stored of each tile beside its embedding.

T tiles
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.tiles.index import TileIndex

Columns = Mapping[str, NDArray[Any]]
ABOUT = {
    "tile_id": "identity of the tile within its data set",
    "file": "scene that the tile is a window of",
    "row": "first row of the window, in pixels of the scene's grid",
    "col": "first column of the window, in pixels of the scene's grid",
    "size": "side of the window in pixels",
    "x": "centre of the tile in its CRS, NaN without one",
    "y": "centre of the tile in its CRS, NaN without one",
    "crs": "CRS of the scene, empty without one",
    "dataset": "data set of the catalogue",
    "split": "split of the catalogue",
    "domain": "domain",
    "group": "group of tiles that are not independent",
    "fold": "group by which folds are made",
    "label": "label, empty without one",
    "valid_share": "share of valid pixels",
}


def tile_columns(index: TileIndex) -> dict[str, NDArray[Any]]:
    """One array (T) for each name of ABOUT. Text is of fixed length, and empty where there is none."""
    tiles, scenes = index.tiles, index.source.scenes
    numbers = tiles["scene"].tolist()
    grids = [index.grids[number] for number in numbers]
    texts = {name: tiles[name].tolist() for name in ("tile_id", "split", "domain", "group", "fold", "label")}
    texts |= {
        "file": [scenes[number].id for number in numbers],
        "crs": [grid.crs if grid is not None else None for grid in grids],
        "dataset": [index.name] * len(tiles),
    }
    columns: dict[str, NDArray[Any]] = {name: _text(values) for name, values in texts.items()}
    columns |= {name: tiles[name].to_numpy(dtype=np.int64) for name in ("row", "col", "size")}
    columns |= {name: tiles[name].to_numpy(dtype=np.float64) for name in ("x", "y")}
    columns["valid_share"] = index.survey.valid_share_T.astype(np.float64)
    return {name: columns[name] for name in ABOUT}


def join_columns(parts: Sequence[Columns]) -> dict[str, NDArray[Any]]:
    """The columns of several indexes, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in ABOUT}


def _text(values: Sequence[Any]) -> NDArray[np.str_]:
    return np.array(["" if value is None or value != value else str(value) for value in values], dtype=np.str_)
