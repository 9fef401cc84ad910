"""Pixels of a scene in physical units with their validity, and class codes of label rasters, on the common grid.

C bands, H W pixels of the window, h w pixels of a file
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_points
from rasterio.windows import Window as RasterioWindow

from geomae.catalog import Scene, Source
from geomae.errors import RasterError
from geomae.rasters.environment import environment
from geomae.rasters.grids import (
    HALF,
    SNAP,
    Axis,
    Bools,
    Floats,
    Grid,
    Indexes,
    Layout,
    SceneFile,
    Window,
    axes,
    bilinear,
    check_window,
    crs_label,
    nearest,
    scene_layout,
    taps,
)
from geomae.rasters.headers import LARGEST_BYTES, Header
from geomae.rasters.opening import GdalError, header, opened
from geomae.rasters.stored import Span, is_shared, read_shared

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.int32]


def physical(raw_Chw: Array, valid_Chw: Bools, scale_C: Sequence[float], offset_C: Sequence[float]) -> Floats:
    """raw x scale + offset in float32, 0 where invalid; values that are not finite become invalid in `valid_Chw`."""
    # float32 represents 16-bit integers exactly; wider ones would be rounded before they are scaled.
    wide = raw_Chw.dtype.itemsize > 2 and raw_Chw.dtype != np.float32
    working = np.float64 if wide else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        values_Chw: Array = raw_Chw.astype(working)
        if any(scale != 1 for scale in scale_C):
            np.multiply(values_Chw, np.array(scale_C, dtype=working)[:, None, None], out=values_Chw)
        if any(offset != 0 for offset in offset_C):
            np.add(values_Chw, np.array(offset_C, dtype=working)[:, None, None], out=values_Chw)
        pixels_Chw: Floats = values_Chw.astype(np.float32, copy=False)
    if raw_Chw.dtype.kind == "f" or wide:
        valid_Chw &= np.isfinite(pixels_Chw)
    if not valid_Chw.all():
        pixels_Chw[~valid_Chw] = 0
    return pixels_Chw


def read(source: Source, scene: Scene, window: Window) -> tuple[Floats, Bools]:
    """Read a window of a scene's grid: (pixels_CHW float32, valid_CHW bool), bands in the order of `source.bands`.

    Pixels are in the source's unit: stored value x scale + offset. Bands of another gsd are resampled to the grid
    bilinearly, from valid pixels only. Invalid pixels (nodata, the file's alpha or mask, the scene's mask, NaN,
    infinities) are 0. A window has the same values as that part of a larger one. Safe to call from several threads.

    Raises RasterError when the window leaves the grid or is too large, and when a file cannot be read.
    """
    layout = scene_layout(source, scene)
    check_window(window, layout.grid, f"{source.name}: scene {scene.id}")
    _check_size(layout, window, scene.id)
    spans = [_span_of(part, window) for part in layout.parts]
    remote = source.remote
    files = zip(layout.parts, spans, strict=True)
    shared = layout.mask is None and all(is_shared(part.header, part.indexes, span) for part, span in files)
    with contextlib.nullcontext() if shared else environment(remote=remote):  # entering it takes time
        read_parts = [_read_part(source, part, window, span) for part, span in zip(layout.parts, spans, strict=True)]
        pixels_CHW, valid_CHW = _in_order(layout, read_parts)
        if layout.mask is not None:
            valid_CHW &= _read_mask(source, layout.mask, window)
            pixels_CHW[~valid_CHW] = 0
    return pixels_CHW, valid_CHW


def check_bytes(size: int, window: Window, where: str) -> None:
    """Raise RasterError when reading `window` needs more than LARGEST_BYTES."""
    if size > LARGEST_BYTES:
        raise RasterError(
            f"{where}: a window of {window.height} x {window.width} pixels needs {size / 1024**3:.1f} GiB of memory, "
            f"more than {LARGEST_BYTES / 1024**3:.0f}; read it in smaller windows (`tile: size`)"
        )


def read_labels(path: str, grid: Grid, window: Window, remote: bool = False) -> tuple[Codes, Bools]:
    """Read the class codes of a window of `grid` from the first band of a raster: (codes_HW int32, known_HW bool).

    Each pixel takes the code at its centre, also between different CRS. Where the raster has nodata, or does not cover
    the pixel, the code is 0 and `known` False. Without a CRS in both, the shapes of raster and grid must match.

    Raises RasterError when they do not, when the raster cannot be read, and for codes that are no 32-bit integers.
    """
    info = header(path, remote=remote)
    check_window(window, grid, path)
    check_bytes(window.height * window.width * 64, window, path)
    row_HW, col_HW, inside_HW = _places(info, grid, window)
    codes_HW = np.zeros((window.height, window.width), dtype=np.int32)
    if not inside_HW.any():
        return codes_HW, inside_HW
    rows, cols = row_HW[inside_HW], col_HW[inside_HW]
    first_row, first_col = int(rows.min()), int(cols.min())
    span = Span(first_row, first_col, int(rows.max()) + 1 - first_row, int(cols.max()) + 1 - first_col)
    check_bytes(span.height * span.width * 16, window, path)
    with environment(remote=remote):
        raw_Chw, valid_Chw = read_shared(info, (1,), span, (), remote=remote)
    known_HW = inside_HW.copy()
    known_HW[inside_HW] = valid_Chw[0, rows - first_row, cols - first_col]
    raw = raw_Chw[0, rows - first_row, cols - first_col][known_HW[inside_HW]]
    finite = np.isfinite(raw)
    known_HW[known_HW] = finite
    codes_HW[known_HW] = _codes(raw[finite], path)
    return codes_HW, known_HW


def read_map(path: str, window: Window | None = None, shape: tuple[int, int] | None = None) -> Array:
    """Stored bands (C, H, W) of a raster or of a window of it, resampled to `shape` where it is given.

    Smaller shapes are read from the overviews. Raises RasterError when the file cannot be read.
    """
    with opened(path, remote=False) as dataset:
        part = None if window is None else RasterioWindow(window.col, window.row, window.width, window.height)
        out_shape = None if shape is None else (dataset.count, *shape)
        values_CHW: Array = dataset.read(window=part, out_shape=out_shape)
        return values_CHW


def _span_of(part: SceneFile, window: Window) -> Span:
    """The pixels of a file that are needed for a window of the grid."""
    if part.rows.aligned and part.cols.aligned:
        return Span(window.row, window.col, window.height, window.width)
    rows, cols = taps(part.rows, window.row, window.height), taps(part.cols, window.col, window.width)
    return Span(rows.first, cols.first, rows.size, cols.size)


def _read_part(source: Source, part: SceneFile, window: Window, span: Span) -> tuple[Floats, Bools]:
    scale_C = [source.scale_C[position] for position in part.positions]
    offset_C = [source.offset_C[position] for position in part.positions]
    raw_Chw, valid_Chw = read_shared(part.header, part.indexes, span, source.nodata, remote=source.remote)
    pixels_Chw = physical(raw_Chw, valid_Chw, scale_C, offset_C)
    if part.rows.aligned and part.cols.aligned:
        return pixels_Chw, valid_Chw
    rows, cols = taps(part.rows, window.row, window.height), taps(part.cols, window.col, window.width)
    return bilinear(pixels_Chw, valid_Chw, rows, cols)


def _in_order(layout: Layout, parts: Sequence[tuple[Floats, Bools]]) -> tuple[Floats, Bools]:
    """The bands of all files in the order of the source."""
    places = [position for part in layout.parts for position in part.positions]
    if len(parts) == 1 and places == sorted(places):
        return parts[0]
    pixels_CHW, valid_CHW = (np.concatenate(each) for each in zip(*parts, strict=True))
    order_C = np.argsort(places)
    return pixels_CHW[order_C], valid_CHW[order_C]


def _read_mask(source: Source, mask: SceneFile, window: Window) -> Bools:
    """Pixels (H, W) that are valid by the scene's mask; False outside of the mask."""
    values_HW, clear_HW = _read_nearest(mask, window, remote=source.remote)
    if values_HW.dtype.kind == "f":
        finite_HW = np.isfinite(values_HW)
        clear_HW &= finite_HW
        values_HW = np.where(finite_HW, values_HW, 0)
    values_HW = values_HW.astype(np.int64)
    for value in source.invalid_values:
        clear_HW &= values_HW != value
    bits = sum(1 << bit for bit in set(source.invalid_bits))
    if bits:
        clear_HW &= (values_HW & bits) == 0
    return clear_HW


def _read_nearest(part: SceneFile, window: Window, *, remote: bool) -> tuple[Array, Bools]:
    """One stored band on a window by nearest neighbour: (raw_HW, inside_HW), 0 outside of the file."""
    row_H, inside_H = nearest(part.rows, window.row, window.height, reach=HALF)
    col_W, inside_W = nearest(part.cols, window.col, window.width, reach=HALF)
    first_row, first_col = int(row_H.min()), int(col_W.min())
    span = Span(first_row, first_col, int(row_H.max()) + 1 - first_row, int(col_W.max()) + 1 - first_col)
    inside_HW = inside_H[:, None] & inside_W
    raw_hw = read_shared(part.header, part.indexes, span, (), remote=remote)[0][0]
    return np.where(inside_HW, raw_hw[row_H - first_row][:, col_W - first_col], 0), inside_HW


def _check_size(layout: Layout, window: Window, scene_id: str) -> None:
    """Raise RasterError for a window that would need too much memory, before any is allocated."""
    size = 0
    for part in layout.parts:
        read_here = _span(part.rows, window.height) * _span(part.cols, window.width)
        # The raw values, two float32 copies and two masks are in memory together.
        size += len(part.indexes) * (read_here * (part.itemsize + 10) + window.height * window.width * 10)
    check_bytes(size, window, f"scene {scene_id}")


def _span(axis: Axis, length: int) -> int:
    return min(axis.size, int(length * axis.scale) + 3)


def _places(info: Header, grid: Grid, window: Window) -> tuple[Indexes, Indexes, Bools]:
    """Row and column of the file's pixel at the centre of each pixel of the window, and whether there is one."""
    if info.crs is None or grid.crs is None:
        if info.shape != (grid.height, grid.width):
            raise RasterError(
                f"{info.path}: has {info.height} x {info.width} pixels and its scene {grid.height} x {grid.width}; "
                "without a CRS in both, labels must have the shape of their scene"
            )
        to_file = Affine.identity()
    else:
        to_file = ~info.affine @ Affine(*grid.transform)
        upright = to_file.b == to_file.d == 0 and to_file.a > 0 and to_file.e > 0
        if not upright or _crs(info.crs) != _crs(grid.crs):
            return _warped(info, grid, window)
    rows, cols = axes(info, to_file, grid.height, grid.width, "the grid of the scene")
    row_H, inside_H = nearest(rows, window.row, window.height, reach=SNAP)
    col_W, inside_W = nearest(cols, window.col, window.width, reach=SNAP)
    row_HW, col_HW = np.meshgrid(row_H, col_W, indexing="ij")
    return row_HW, col_HW, inside_H[:, None] & inside_W


def _warped(info: Header, grid: Grid, window: Window) -> tuple[Indexes, Indexes, Bools]:
    """The same for a rotated raster or another CRS; each centre is transformed exactly, so that windows agree."""
    col_HW, row_HW = np.meshgrid(
        np.arange(window.col, window.col + window.width) + 0.5, np.arange(window.row, window.row + window.height) + 0.5
    )
    x_HW, y_HW = _apply(Affine(*grid.transform), col_HW, row_HW)
    try:
        xs, ys = transform_points(_crs(str(grid.crs)), _crs(str(info.crs)), x_HW.ravel(), y_HW.ravel())
    except (RasterioError, GdalError) as error:
        raise RasterError(
            f"{info.path}: its CRS ({crs_label(info.crs)}) and that of its scene ({crs_label(grid.crs)}) have no place "
            "in common; give both one CRS, or take labels from a table"
        ) from error
    if _crs(str(info.crs)).is_geographic:  # longitudes are equal modulo 360
        left = min(info.affine.c, info.affine.c + info.affine.a * info.width)
        xs = left + np.mod(np.asarray(xs) - left, 360.0)
    file_col_HW, file_row_HW = _apply(~info.affine, np.reshape(xs, col_HW.shape), np.reshape(ys, col_HW.shape))
    inside_HW = np.isfinite(file_col_HW) & np.isfinite(file_row_HW)
    file_row_HW, file_col_HW = (np.where(inside_HW, np.floor(one_HW), -1) for one_HW in (file_row_HW, file_col_HW))
    inside_HW &= (file_row_HW >= 0) & (file_row_HW < info.height) & (file_col_HW >= 0) & (file_col_HW < info.width)
    return file_row_HW.astype(np.int64), file_col_HW.astype(np.int64), inside_HW


def _apply(affine: Affine, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _codes(raw: Array, path: str) -> Codes:
    limits = np.iinfo(np.int32)
    if raw.size and (raw.min() < limits.min or raw.max() > limits.max or (raw != np.floor(raw)).any()):
        raise RasterError(f"{path}: holds labels that are no 32-bit integers; rewrite it with class codes")
    return raw.astype(np.int32)


@functools.lru_cache(maxsize=64)
def _crs(text: str) -> CRS:
    return CRS.from_user_input(text)
