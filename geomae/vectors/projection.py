"""Transformations between coordinate reference systems, with cached transformers, and extents for messages.

N points, or N groups of E points near each other; coordinates are (x, y), east before north, float64
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from geomae.rasters import Grid
from geomae.rasters.grids import crs_label

Floats = NDArray[np.float64]
LONGITUDE_LATITUDE = "EPSG:4326"
TURN = 360.0  # degrees


@lru_cache(maxsize=512)
def transformer(source: str, target: str) -> Transformer | None:
    """The transformer between two CRS; None where `source` has no known position on Earth (a local one, the Moon's)."""
    try:
        crs = CRS.from_user_input(source)
        if not (crs.is_geographic or crs.is_projected):
            return None
        return Transformer.from_crs(crs, target, always_xy=True)
    except (CRSError, ProjError):
        return None


@lru_cache(maxsize=512)
def in_degrees(crs: str) -> bool:
    """Whether a CRS is geographic: coordinates are longitude and latitude in degrees."""
    return bool(CRS.from_user_input(crs).is_geographic)


def transform(source: str, target: str, points_N2: Floats) -> Floats:
    """Transform points (N, 2) from `source` to `target`; NaN where a point cannot be transformed."""
    if source == target:
        return points_N2
    change = transformer(source, target)
    if change is None or not len(points_N2):
        return np.full(points_N2.shape, np.nan)
    result_N2 = np.stack(change.transform(*points_N2.T), axis=-1)
    result_N2[~np.isfinite(result_N2).all(axis=1)] = np.nan
    return result_N2


def extents(name: str, crs: str, points_N2: Floats, grids: Sequence[Grid | None]) -> str:
    """Describe the extents of a vector layer and of the scenes, each in both CRS, for a message that none overlap."""
    placed = [grid for grid in grids if grid is not None and grid.crs is not None]
    if not placed:
        return f"{name} lies at {_extent(points_N2)} ({crs_label(crs)}), and no scene has a CRS"
    own = str(placed[0].crs)
    corners_N2 = np.concatenate([transform(str(grid.crs), own, corners(grid)) for grid in placed])
    layer = f"{name} lies at {_extent(points_N2)} ({crs_label(crs)})"
    scenes = f"the scenes at {_extent(corners_N2)} ({crs_label(own)})"
    if crs == own:
        return f"{layer}, {scenes}"
    there, here = transform(crs, own, points_N2), transform(own, crs, corners_N2)
    return f"{layer}, or {_extent(there)} in the CRS of the scenes; {scenes}, or {_extent(here)} in the other"


def corners(grid: Grid) -> Floats:
    """The corners (4, 2) of a grid in its CRS."""
    a, b, c, d, e, f = grid.transform
    pixels_42 = np.array([(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)], dtype=np.float64)
    return np.stack([a * pixels_42[:, 0] + b * pixels_42[:, 1] + c, d * pixels_42[:, 0] + e * pixels_42[:, 1] + f], 1)


def pixels_of(grid: Grid, crs: str, points_NE2: Floats) -> tuple[Floats, Floats]:
    """Fractional rows and columns (N, E) in a grid with a CRS of points in `crs`; NaN where they are unknown.

    Longitudes are equal modulo 360. Each group is taken as near to the middle of the grid as can be, as a whole, so
    that it is found in grids from 0 to 360 and across longitude 180, and one on a border keeps its shape.
    """
    assert grid.crs is not None
    a, b, c, d, e, f = grid.transform
    east_NE, north_NE = np.moveaxis(transform(crs, grid.crs, points_NE2.reshape(-1, 2)).reshape(points_NE2.shape), 2, 0)
    if in_degrees(grid.crs):
        first_N1 = east_NE[:, :1]
        east_NE = first_N1 + np.mod(east_NE - first_N1 + TURN / 2, TURN) - TURN / 2
        off_N1 = (east_NE.max(1) + east_NE.min(1))[:, None] / 2 - corners(grid)[:, 0].mean()
        east_NE = east_NE - TURN * np.floor(off_N1 / TURN + 0.5)
    x_NE, y_NE = east_NE - c, north_NE - f
    scale = a * e - b * d
    return (a * y_NE - d * x_NE) / scale, (e * x_NE - b * y_NE) / scale


def _extent(points_N2: Floats) -> str:
    known_N2 = points_N2[np.isfinite(points_N2).all(axis=1)]
    if not len(known_N2):
        return "no place"
    (left, bottom), (right, top) = known_N2.min(axis=0).tolist(), known_N2.max(axis=0).tolist()
    return f"x {left:.7g} to {right:.7g}, y {bottom:.7g} to {top:.7g}"
