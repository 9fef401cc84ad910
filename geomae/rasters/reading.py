"""Pixels of a scene in physical units, with their validity, on the common grid."""

import numpy as np

from geomae.catalog.source import Scene, Source
from geomae.errors import RasterError
from geomae.rasters.grids import HALF, Layout, Part, Window, check_window, scene_layout
from geomae.rasters.handles import borrowed, environment
from geomae.rasters.headers import LARGEST_BYTES
from geomae.rasters.resample import Axis, Bools, Floats, bilinear, nearest, taps
from geomae.rasters.stored import Array, Span, physical, read_stored

# C bands, H W pixels of the window, h w pixels of a file


def read(source: Source, scene: Scene, window: Window) -> tuple[Floats, Bools]:
    """Read a window of a scene's grid: (pixels_CHW float32, valid_CHW bool), bands in the order of `source.bands`.

    Pixels are in the source's unit: stored value x scale + offset. Bands of another gsd are brought to the grid
    bilinearly, from valid pixels only. Invalid pixels (nodata, the file's alpha or mask, the scene's mask, NaN,
    infinities) are 0. A window gives the same bits as that part of a larger one. Safe to call from several threads.

    Raises RasterError when the window leaves the grid or is too large, and when a file cannot be read.
    """
    layout = scene_layout(source, scene)
    check_window(window, layout.grid, f"{source.name}: scene {scene.id}")
    _check_size(layout, window, scene.id)
    shape_CHW = (len(scene.bands), window.height, window.width)
    pixels_CHW = np.empty(shape_CHW, dtype=np.float32)
    valid_CHW = np.empty(shape_CHW, dtype=np.bool_)
    with environment(remote=source.remote):
        for part in layout.parts:
            positions = list(part.positions)
            pixels_CHW[positions], valid_CHW[positions] = _read_part(source, part, window)
        if layout.mask is not None:
            valid_CHW &= _read_mask(source, layout.mask, window)
            pixels_CHW[~valid_CHW] = 0
    return pixels_CHW, valid_CHW


def _read_part(source: Source, part: Part, window: Window) -> tuple[Floats, Bools]:
    scale_C = [source.scale_C[position] for position in part.positions]
    offset_C = [source.offset_C[position] for position in part.positions]
    if part.rows.aligned and part.cols.aligned:
        span = Span(window.row, window.col, window.height, window.width)
        raw_CHW, valid_CHW = _stored(source, part, span)
        return physical(raw_CHW, valid_CHW, scale_C, offset_C), valid_CHW
    rows = taps(part.rows, window.row, window.height)
    cols = taps(part.cols, window.col, window.width)
    raw_Chw, valid_Chw = _stored(source, part, Span(rows.first, cols.first, rows.size, cols.size))
    return bilinear(physical(raw_Chw, valid_Chw, scale_C, offset_C), valid_Chw, rows, cols)


def _stored(source: Source, part: Part, span: Span) -> tuple[Array, Bools]:
    with borrowed(part.header.path, part.header.stamp, remote=source.remote) as dataset:
        return read_stored(dataset, part.header, part.indexes, span, source.nodata)


def _read_mask(source: Source, mask: Part, window: Window) -> Bools:
    """Where the scene's mask lets pixels through (H, W); nowhere outside of the mask."""
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


def _read_nearest(part: Part, window: Window, *, remote: bool) -> tuple[Array, Bools]:
    """One stored band on a window by nearest neighbour: (raw_HW, inside_HW), 0 outside of the file."""
    row_H, inside_H = nearest(part.rows, window.row, window.height, reach=HALF)
    col_W, inside_W = nearest(part.cols, window.col, window.width, reach=HALF)
    first_row, first_col = int(row_H.min()), int(col_W.min())
    span = Span(first_row, first_col, int(row_H.max()) + 1 - first_row, int(col_W.max()) + 1 - first_col)
    inside_HW = inside_H[:, None] & inside_W
    with borrowed(part.header.path, part.header.stamp, remote=remote) as dataset:
        raw_hw = read_stored(dataset, part.header, part.indexes, span, ())[0][0]
    return np.where(inside_HW, raw_hw[row_H - first_row][:, col_W - first_col], 0), inside_HW


def _check_size(layout: Layout, window: Window, scene_id: str) -> None:
    """Refuse a window that would need too much memory, before any is spent."""
    size = 0
    for part in layout.parts:
        read_here = _span(part.rows, window.height) * _span(part.cols, window.width)
        # The raw values, two float32 copies and two masks stand side by side.
        size += len(part.indexes) * (read_here * (part.itemsize + 10) + window.height * window.width * 10)
    check_bytes(size, window, f"scene {scene_id}")


def check_bytes(size: int, window: Window, where: str) -> None:
    """Raise RasterError when reading `window` needs more than LARGEST_BYTES."""
    if size > LARGEST_BYTES:
        raise RasterError(
            f"{where}: a window of {window.height} x {window.width} pixels needs {size / 1024**3:.1f} GiB of memory, "
            f"more than {LARGEST_BYTES / 1024**3:.0f}; read it in smaller windows (`tile: size`)"
        )


def _span(axis: Axis, length: int) -> int:
    return min(axis.size, int(length * axis.scale) + 3)
