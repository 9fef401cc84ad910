"""Positions of labels in a tile: outlines of polygons, and points, in pixels of the tile.

V corners
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from geomae.rasters import Window
from geomae.tiles.index import TileIndex
from geomae.tiles.points import PIXEL_COL, PIXEL_ROW
from geomae.tiles.polygon_labels import PolygonLabels


@dataclass(frozen=True)
class Mark:
    """A line through the corners `xy_V2`, or a point where there is one; (0, 0) is the tile's upper left corner.

    `name` is its class, None where it has none.
    """

    name: str | None
    xy_V2: NDArray[np.float64]


def tile_marks(index: TileIndex, position: int) -> list[Mark]:
    """The polygons that touch a tile, or the points whose pixel lies in it."""
    scene, row, col, size = (int(index.tiles[one].iloc[position]) for one in ("scene", "row", "col", "size"))
    marks = []
    if isinstance(index.labels, PolygonLabels):
        for name, shape in index.labels.shapes(scene, Window(row, col, size, size)):
            for polygon in shapely.get_parts(shape):
                rings = (polygon.exterior, *polygon.interiors)
                marks += [Mark(name, shapely.get_coordinates(ring) - [col, row]) for ring in rings]
    elif PIXEL_ROW in index.tiles:
        places_T2 = index.tiles[[PIXEL_COL, PIXEL_ROW]].to_numpy(dtype=np.float64) + 0.5 - [col, row]
        here_T = (index.tiles["scene"].to_numpy() == scene) & ((places_T2 > 0) & (places_T2 < size)).all(axis=1)
        labels = index.tiles["label"].tolist()
        marks = [Mark(labels[one], places_T2[[one]]) for one in np.flatnonzero(here_T).tolist()]
    return marks


def with_marks(index: TileIndex) -> NDArray[np.int64]:
    """Positions of the tiles that polygons touch; of all tiles where there are no polygons or none touches a tile."""
    everything = np.arange(len(index))
    if not isinstance(index.labels, PolygonLabels):
        return everything
    touched = [one for one in everything.tolist() if tile_marks(index, one)]
    return np.array(touched, dtype=np.int64) if touched else everything
