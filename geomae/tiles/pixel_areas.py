"""How much ground each pixel of a scene covers, measured on an equal-area grid.

h rows of a strip, W columns, M columns that are measured
"""

import numpy as np
from numpy.typing import NDArray

from geomae.rasters import Grid
from geomae.tiles.earth import Floats
from geomae.vectors.projection import in_degrees, transformer

EQUAL_AREA = "EPSG:6933"  # equal-area cylindrical, of the whole Earth: a pixel's area there is that on the ellipsoid
STEP = 256  # columns between two that are measured; areas in between are interpolated
AROUND = 34_735_060.890322745  # metres from longitude -180 to 180 on that grid
HECTARE = 10_000.0  # square metres
POLE = 90.0  # degrees


def pixel_hectares(grid: Grid, rows: slice) -> Floats | None:
    """The area of each pixel of some rows in hectares, float64 (h, W); None where their size is unknown.

    Every row is measured, because pixels in degrees shrink from row to row; so is every STEP-th column, because the
    scale of a projection changes along a row, too. Without a CRS the area of a pixel is `gsd_m` squared.
    """
    row_h = np.arange(rows.start or 0, grid.height if rows.stop is None else rows.stop)
    if grid.crs is None or transformer(grid.crs, EQUAL_AREA) is None:
        return None if grid.gsd_m is None else np.full((len(row_h), grid.width), grid.gsd_m**2 / HECTARE)
    column_M = np.unique(np.append(np.arange(0, grid.width, STEP), grid.width - 1))
    area_hM = _measured(grid, row_h, column_M) / HECTARE
    return np.stack([np.interp(np.arange(grid.width), column_M, area_M) for area_M in area_hM])


def _measured(grid: Grid, row_h: NDArray[np.int64], column_M: NDArray[np.int64]) -> Floats:
    """Areas (h, M) of pixels in square metres: of the quadrangles between their corners."""
    assert grid.crs is not None
    to_equal_area = transformer(grid.crs, EQUAL_AREA)
    assert to_equal_area is not None
    a, b, c, d, e, f = grid.transform
    corners = []
    for down, right in ((0, 0), (0, 1), (1, 1), (1, 0)):
        row_h1, column_1M = row_h[:, None] + down, column_M[None] + right
        x_hM, y_hM = a * column_1M + b * row_h1 + c, d * column_1M + e * row_h1 + f
        if in_degrees(grid.crs):  # grids with pixel centres on the poles end half a pixel beyond, where no ground is
            y_hM = np.clip(y_hM, -POLE, POLE)
        corners.append(to_equal_area.transform(x_hM, y_hM))
    x_4hM, y_4hM = np.moveaxis(np.array(corners) - np.array(corners[0]), 1, 0)
    x_4hM -= AROUND * np.round(x_4hM / AROUND)  # a pixel on longitude 180 has corners at both ends
    next_x, next_y = np.roll(x_4hM, -1, axis=0), np.roll(y_4hM, -1, axis=0)
    return np.asarray(0.5 * np.abs((x_4hM * next_y - next_x * y_4hM).sum(0)))
