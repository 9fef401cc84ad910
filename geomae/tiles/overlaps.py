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


def check_no_pixel_overlap(one: TileIndex, other: TileIndex, where: str) -> None:
    """Raise ConfigError where tiles of `one` overlap tiles of `other` in the same file, of whatever data set."""
    ids = one.tiles["tile_id"].tolist()
    shared = [ids[place] for place in np.flatnonzero(overlapping(one, other))]
    if shared:
        more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise ConfigError(
            f"{where}: {len(shared)} of its tiles overlap tiles of the target ({', '.join(shared[:SHOWN])}{more}); "
            "choose selectors that share no pixels"
        )


def overlapping(one: TileIndex, other: TileIndex) -> NDArray[np.bool_]:
    """Which tiles (T,) of `one` share pixels of a file with a tile of `other`."""
    found_T = np.zeros(len(one), dtype=bool)
    other_boxes = _boxes(other)
    for file, (places, box_T4) in _boxes(one).items():
        if file in other_boxes:
            found_T[places] |= _overlap(box_T4, other_boxes[file][1]).any(1)
    return found_T


def _boxes(index: TileIndex) -> Mapping[str, tuple[NDArray[np.int64], Boxes]]:
    """By file the positions of tiles and their boxes (T, 4), as shares of the scene: grids of one file may differ.

    Where bands lie in files of their own, a tile is in each of them.
    """
    found: dict[str, tuple[NDArray[np.int64], Boxes]] = {}
    scene_T = index.tiles["scene"].to_numpy()
    row_T, col_T, size_T = (index.tiles[name].to_numpy(np.float64) for name in ("row", "col", "size"))
    for scene in np.unique(scene_T).tolist():
        grid, here = index.grids[scene], np.flatnonzero(scene_T == scene)
        if grid is None:
            continue
        row, col, size = row_T[here], col_T[here], size_T[here]
        box_T4 = np.stack([row / grid.height, col / grid.width, (row + size) / grid.height, (col + size) / grid.width])
        found |= dict.fromkeys(index.source.scenes[scene].files, (here, box_T4.T))
    return found


def _overlap(box_T4: Boxes, box_U4: Boxes) -> NDArray[np.bool_]:
    """Which boxes meet which: (T, U). Those that only touch do not."""
    low = np.maximum(box_T4[:, None, :2], box_U4[None, :, :2])
    high = np.minimum(box_T4[:, None, 2:], box_U4[None, :, 2:])
    return np.asarray((high - low > 1e-9).all(-1))
