"""Rasterise polygons in windows of a scene's grid: each pixel gets the polygon that contains its centre.

N polygons of a layer, M of them near a scene (including copies shifted by 360 degrees), H W pixels of a window
"""

from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from geomae.rasters import Grid, Window
from geomae.rasters.outlines import burn
from geomae.vectors.projection import TURN, Floats, corners, in_degrees, transformer
from geomae.vectors.shapes import Geometries, areas_m2, mended, polygonal, reprojected

NONE = -1  # value of a pixel in no polygon
MARGIN = 0.02  # margin as a fraction of a scene's extent, since its edges are curved in another CRS
TOLERANCE = 0.005  # largest error of an edge in pixels
EDGE_POINTS = 21  # points per edge of a scene, to find its extent in another CRS
LONG = 1000  # polygons with more vertices are cut to the window before they are rasterised
Numbers = NDArray[np.int32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """Valid polygons (N) in their CRS, with a spatial index; None for a feature that is not to be rasterised."""

    geometries: Geometries
    crs: str
    tree: shapely.STRtree = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", shapely.STRtree(self.geometries))


@dataclass(frozen=True)
class ScenePolygons:
    """The polygons near a scene in pixel coordinates (column, row), in drawing order: later ones cover earlier ones.

    `feature_M` are their indices in the layer; `lost` counts those that could not be transformed to the scene's CRS.
    """

    shapes_M: Geometries
    feature_M: NDArray[np.int64]
    lost: int
    tree: shapely.STRtree = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", shapely.STRtree(self.shapes_M))

    def features(self, window: Window, *, all_touched: bool = False) -> Numbers:
        """The feature (H, W) that contains each pixel, the smallest where there are several; -1 for none."""
        near = self._near(window)
        feature_HW = np.full((window.height, window.width), NONE, dtype=np.int32)
        if len(near):
            place_HW = _burnt(self.shapes_M[near], near, window, all_touched=all_touched)
            feature_HW[place_HW >= 0] = self.feature_M[place_HW[place_HW >= 0]]
        return feature_HW

    def contested(self, window: Window, code_N: Numbers) -> Bools:
        """Which pixels (H, W) have their centre in polygons of different classes; `code_N` is the class by feature."""
        near = self._near(window)
        code_M = code_N[self.feature_M[near]]
        classes_HW = np.zeros((window.height, window.width), dtype=np.int32)
        one, other = shapely.STRtree(self.shapes_M[near]).query(self.shapes_M[near])
        differ = np.unique(one[code_M[one] != code_M[other]])
        for code in np.unique(code_M[differ]).tolist():
            own = near[differ[code_M[differ] == code]]
            classes_HW += _burnt(self.shapes_M[own], np.zeros(len(own), np.int64), window, all_touched=False) >= 0
        return np.asarray(classes_HW > 1)

    def _near(self, window: Window) -> NDArray[np.int64]:
        box = shapely.box(window.col, window.row, window.col + window.width, window.row + window.height)
        return np.sort(self.tree.query(box))


def scene_polygons(layer: Layer, grid: Grid) -> ScenePolygons:
    """Select the polygons of a layer near a scene with a CRS, and transform them to its pixels."""
    feature_M, near_M = _cut(layer, grid)
    a, b, c, d, e, f = grid.transform
    per_unit_22: Floats = np.linalg.inv(
        np.array(((a, b), (d, e)), dtype=np.float64)
    )  # columns and rows per unit of x and of y

    def to_pixels(points_V2: Floats) -> Floats:
        return np.asarray((points_V2 - (c, f)) @ per_unit_22.T)

    if not len(feature_M):
        return ScenePolygons(near_M, feature_M, 0)
    shapes_M, reached_M = reprojected(near_M, layer.crs, str(grid.crs), to_pixels, TOLERANCE)
    if in_degrees(str(grid.crs)) and not in_degrees(layer.crs):
        shapes_M = _turned(shapes_M, grid, np.array(TURN * per_unit_22[:, 0]))
    long_M = shapely.get_num_coordinates(shapes_M) > LONG  # these are cut later, which requires valid polygons
    shapes_M[long_M], _ = mended(shapes_M[long_M])
    area_M = areas_m2(layer.geometries[feature_M], layer.crs)
    order = np.lexsort((-feature_M, -area_M))  # of equal areas, the first in the file is drawn last
    order = order[reached_M[order]]
    return ScenePolygons(shapes_M[order], feature_M[order], int((~reached_M).sum()))


def meets(layer: Layer, grid: Grid) -> bool:
    """Whether the extent of any polygon overlaps that of a scene."""
    return any(len(layer.tree.query(box)) for box, _ in _boxes(layer.crs, grid))


def _boxes(crs: str, grid: Grid) -> list[tuple[shapely.Polygon, float]]:
    """Extents of a scene in the CRS of a layer, each with the shift of x from the layer to the scene.

    In degrees there are three, shifted by -360, 0 and 360, since longitudes may run from 0 to 360 or from -180 to 180.
    """
    own, corners_42 = str(grid.crs), corners(grid)
    (left, bottom), (right, top) = corners_42.min(axis=0).tolist(), corners_42.max(axis=0).tolist()
    if own != crs:
        change = transformer(own, crs)
        if change is None:
            return []
        try:
            left, bottom, right, top = change.transform_bounds(left, bottom, right, top, densify_pts=EDGE_POINTS)
        except ProjError:
            return []
        if not np.isfinite([left, bottom, right, top]).all():
            return []
        if in_degrees(crs) and right < left:  # across longitude 180
            right += TURN
    wide, high = MARGIN * (right - left), MARGIN * (top - bottom)
    turns = (-TURN, 0.0, TURN) if in_degrees(crs) else (0.0,)
    return [(shapely.box(left - wide - turn, bottom - high, right + wide - turn, top + high), turn) for turn in turns]


def _cut(layer: Layer, grid: Grid) -> tuple[NDArray[np.int64], Geometries]:
    """Features near a scene, cut to its surroundings: distant parts may have no coordinates in the scene's CRS."""
    features: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    pieces: list[Geometries] = [np.zeros(0, dtype=object)]
    for box, turn in _boxes(layer.crs, grid):
        near = np.sort(layer.tree.query(box, predicate="intersects"))
        parts = layer.geometries[near]
        left, bottom, right, top = box.bounds
        own = shapely.bounds(parts)
        leaves = ~((own[:, :2] >= (left, bottom)) & (own[:, 2:] <= (right, top))).all(axis=1)
        parts[leaves] = polygonal(shapely.intersection(parts[leaves], box))
        if turn:
            parts = _moved(parts, np.broadcast_to((turn, 0.0), (len(parts), 2)))
        there = ~shapely.is_empty(parts)
        features.append(near[there])
        pieces.append(parts[there])
    return np.concatenate(features), np.concatenate(pieces)


def _turned(shapes_M: Geometries, grid: Grid, turn_2: Floats) -> Geometries:
    """Shift shapes by whole turns of 360 degrees (`turn_2` in pixels) as near as possible to the scene's centre."""
    middle_2 = np.array([grid.width, grid.height]) / 2
    bounds_M4 = shapely.bounds(shapes_M)
    away_M2 = middle_2 - (bounds_M4[:, :2] + bounds_M4[:, 2:]) / 2
    turns_M = np.round(away_M2 @ turn_2 / (turn_2 @ turn_2))
    if not turns_M.any():
        return shapes_M
    return _moved(shapes_M, turns_M[:, None] * turn_2)


def _moved(shapes_M: Geometries, by_M2: Floats) -> Geometries:
    points_V2, own_V = shapely.get_coordinates(shapes_M, return_index=True)
    return np.asarray(shapely.set_coordinates(shapes_M.copy(), points_V2 + by_M2[own_V]))


def _burnt(shapes_M: Geometries, value_M: NDArray[np.int64], window: Window, *, all_touched: bool) -> Numbers:
    """The value of the last shape that contains each pixel (H, W); -1 for none."""
    long_M = shapely.get_num_coordinates(shapes_M) > LONG
    if long_M.any():
        near = shapely.box(
            window.col - 1, window.row - 1, window.col + window.width + 1, window.row + window.height + 1
        )
        shapes_M = shapes_M.copy()
        shapes_M[long_M] = polygonal(shapely.intersection(shapes_M[long_M], near))
    there = ~shapely.is_empty(shapes_M)
    return burn(shapes_M[there].tolist(), value_M[there].tolist(), window, fill=NONE, all_touched=all_touched)
