"""Tile indexes without files: the grids, the tiles and the places are given.

T tiles, S scenes
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from geomae.rasters import Grid
from geomae.tiles.index import TileIndex


class NoSurvey:
    """Of pixels that nobody reads."""

    def take(self, positions):
        return self


def grid(height, width, crs=None, left=0.0, top=0.0, step=10.0, *, gsd_m=None):
    """A grid with its upper left corner at (left, top)."""
    return Grid(height, width, gsd_m, crs, (step, 0.0, left, 0.0, -step, top))


def tile_index(grids, tiles_T4, places=None, key="places", name="d", files=None):
    """Tiles (scene, row, col, size); `places` are values by scene, read from the column `site` that `key` names."""
    files = files or [f"{name}/{number}.tif" for number in range(len(grids))]
    scenes = tuple(SimpleNamespace(id=path, files=(path,)) for path in files)
    tiles = pd.DataFrame(np.asarray(tiles_T4), columns=["scene", "row", "col", "size"])
    values = [None if places is None else places[scene] for scene in tiles["scene"]]
    tiles = tiles.assign(place=pd.Series(values, dtype="object"))
    column = None if places is None else ("site", key)
    source = SimpleNamespace(scenes=scenes)
    return TileIndex(name, source, tiles, tiles[[]], tuple(grids), None, NoSurvey(), {}, column)


def regular(height, width, size, stride, scene=0):
    """Tiles on a regular grid over a scene."""
    starts = (range(0, side - size + 1, stride) for side in (height, width))
    rows, cols = starts
    return [(scene, row, col, size) for row in rows for col in cols]


def painted(index):
    """The training ground as pixels, scene by scene."""
    masks = [np.zeros((one.height, one.width), dtype=bool) for one in index.grids]
    for scene, row, col, size in index.tiles[["scene", "row", "col", "size"]].to_numpy().tolist():
        masks[scene][row : row + size, col : col + size] = True
    return masks


def covered(mask_HW, row, col, height, width):
    """Whether a window lies in a mask, pixel by pixel."""
    if min(row, col) < 0 or row + height > mask_HW.shape[0] or col + width > mask_HW.shape[1]:
        return False
    part = mask_HW[row : row + height, col : col + width]
    return bool(part.size and part.all())
