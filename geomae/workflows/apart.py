"""Whether two domains share pixels: a model that has learned a tile says nothing about tiles that it has not.

T tiles, U tiles of the other domain
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from geomae.errors import ConfigError
from geomae.tiles.index import TileIndex

SHOWN = 3  # tiles named in an error
Boxes = NDArray[np.float64]


def check_apart(one: TileIndex, other: TileIndex, where: str) -> None:
    """Raise ConfigError where tiles of `one` overlap tiles of `other` in the same file, of whatever data set."""
    other_boxes = _boxes(other)
    shared: list[str] = []
    for file, (ids, box_T4) in _boxes(one).items():
        if file in other_boxes:
            hits = np.flatnonzero(_overlap(box_T4, other_boxes[file][1]).any(1))
            shared += [ids[place] for place in hits]
    if shared:
        more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise ConfigError(
            f"{where}: {len(shared)} of its tiles overlap tiles of the target ({', '.join(shared[:SHOWN])}{more}); "
            "choose selectors that share no pixels"
        )


def _boxes(index: TileIndex) -> Mapping[str, tuple[list[str], Boxes]]:
    """By file the tiles and their boxes (T, 4), as shares of the scene: grids of one file may differ."""
    found = {}
    table = index.tiles
    for scene in table["scene"].unique().tolist():
        rows, grid = table[table["scene"] == scene], index.grids[scene]
        if grid is None:
            continue
        row, col, size = (rows[name].to_numpy(np.float64) for name in ("row", "col", "size"))
        box_T4 = np.stack([row / grid.height, col / grid.width, (row + size) / grid.height, (col + size) / grid.width])
        found[index.source.scenes[scene].files[0]] = (rows["tile_id"].tolist(), box_T4.T)
    return found


def _overlap(box_T4: Boxes, box_U4: Boxes) -> NDArray[np.bool_]:
    """Which boxes meet which: (T, U). Those that only touch do not."""
    low = np.maximum(box_T4[:, None, :2], box_U4[None, :, :2])
    high = np.minimum(box_T4[:, None, 2:], box_U4[None, :, 2:])
    return np.asarray((high - low > 1e-9).all(-1))
