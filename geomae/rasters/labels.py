"""Label rasters: class codes on the grid of a scene, by nearest neighbour."""

import functools

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from geomae.errors import RasterError
from geomae.rasters.grids import SNAP, Grid, Window, axes, check_window
from geomae.rasters.handles import borrowed, environment
from geomae.rasters.headers import Header, header
from geomae.rasters.reading import check_bytes
from geomae.rasters.resample import Bools, Indexes, nearest
from geomae.rasters.stored import Array, Span, read_stored

# H W pixels of the window, h w pixels of the file

Codes = npt.NDArray[np.int32]


def read_labels(path: str, grid: Grid, window: Window, remote: bool = False) -> tuple[Codes, Bools]:
    """Read the class codes of a window of `grid` from the first band of a raster: (codes_HW int32, known_HW bool).

    Each pixel takes the code at its centre, also across CRS. Where the raster holds nodata, or nothing, the code is 0
    and not known. Without a CRS in both, the shapes of raster and grid must match.

    Raises RasterError when they do not, when the raster cannot be read, and for codes that are no 32-bit integers.
    """
    found = header(path, remote=remote)
    check_window(window, grid, path)
    check_bytes(window.height * window.width * 64, window, path)
    row_HW, col_HW, inside_HW = _places(found, grid, window)
    codes_HW = np.zeros((window.height, window.width), dtype=np.int32)
    if not inside_HW.any():
        return codes_HW, inside_HW
    rows, cols = row_HW[inside_HW], col_HW[inside_HW]
    first_row, first_col = int(rows.min()), int(cols.min())
    span = Span(first_row, first_col, int(rows.max()) + 1 - first_row, int(cols.max()) + 1 - first_col)
    check_bytes(span.height * span.width * 16, window, path)
    with environment(remote=remote), borrowed(path, found.stamp, remote=remote) as dataset:
        raw_Chw, valid_Chw = read_stored(dataset, found, (1,), span, ())
    known_HW = inside_HW.copy()
    known_HW[inside_HW] = valid_Chw[0, rows - first_row, cols - first_col]
    raw = raw_Chw[0, rows - first_row, cols - first_col][known_HW[inside_HW]]
    finite = np.isfinite(raw)
    known_HW[known_HW] = finite
    codes_HW[known_HW] = _codes(raw[finite], path)
    return codes_HW, known_HW


def _places(found: Header, grid: Grid, window: Window) -> tuple[Indexes, Indexes, Bools]:
    """Row and column of the file's pixel at the centre of each pixel of the window, and whether there is one."""
    if found.crs is None or grid.crs is None:
        if found.shape != (grid.height, grid.width):
            raise RasterError(
                f"{found.path}: has {found.height} x {found.width} pixels and its scene {grid.height} x {grid.width}; "
                "without a CRS in both, labels must have the shape of their scene"
            )
        to_file = Affine.identity()
    else:
        to_file = ~found.affine @ Affine(*grid.transform)
        upright = to_file.b == to_file.d == 0 and to_file.a > 0 and to_file.e > 0
        if not upright or _crs(found.crs) != _crs(grid.crs):
            return _warped(found, grid, window)
    rows, cols = axes(found, to_file, grid.height, grid.width, "the grid of the scene")
    row_H, inside_H = nearest(rows, window.row, window.height, reach=SNAP)
    col_W, inside_W = nearest(cols, window.col, window.width, reach=SNAP)
    row_HW, col_HW = np.meshgrid(row_H, col_W, indexing="ij")
    return row_HW, col_HW, inside_H[:, None] & inside_W


def _warped(found: Header, grid: Grid, window: Window) -> tuple[Indexes, Indexes, Bools]:
    """The same for a turned raster or another CRS; each centre is transformed exactly, so a window gives the same."""
    col_HW, row_HW = np.meshgrid(
        np.arange(window.col, window.col + window.width) + 0.5, np.arange(window.row, window.row + window.height) + 0.5
    )
    x_HW, y_HW = _apply(Affine(*grid.transform), col_HW, row_HW)
    xs, ys = transform_points(_crs(str(grid.crs)), _crs(str(found.crs)), x_HW.ravel(), y_HW.ravel())
    file_col_HW, file_row_HW = _apply(~found.affine, np.reshape(xs, col_HW.shape), np.reshape(ys, col_HW.shape))
    inside_HW = np.isfinite(file_col_HW) & np.isfinite(file_row_HW)
    file_row_HW, file_col_HW = (np.where(inside_HW, np.floor(one_HW), -1) for one_HW in (file_row_HW, file_col_HW))
    inside_HW &= (file_row_HW >= 0) & (file_row_HW < found.height) & (file_col_HW >= 0) & (file_col_HW < found.width)
    return file_row_HW.astype(np.int64), file_col_HW.astype(np.int64), inside_HW


def _apply(affine: Affine, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _codes(raw: Array, path: str) -> Codes:
    limits = np.iinfo(np.int32)
    if raw.size and (raw.min() < limits.min or raw.max() > limits.max or (raw != np.floor(raw)).any()):
        raise RasterError(f"{path}: holds labels that are no whole numbers of 32 bits; rewrite it with class codes")
    return raw.astype(np.int32)


@functools.lru_cache(maxsize=64)
def _crs(text: str) -> CRS:
    return CRS.from_user_input(text)
