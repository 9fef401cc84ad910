"""Stored values of a file with their validity: read by GDAL, or from the shared cache of decoded blocks.

C bands, h w pixels of a file
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from geomae.catalog.schema_cubes import is_cube
from geomae.rasters.blocks import LARGEST_BLOCK, gather, shared_blocks
from geomae.rasters.environment import environment
from geomae.rasters.headers import Header
from geomae.rasters.opening import borrowed

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
LEAST_SIDE = 64  # pixels of a shared block: strips of a few rows are joined
MOST_BLOCKS = 4  # of a window that uses the cache; larger ones are part of a sweep that reads each block once
WORTH = 2  # smallest ratio of the pixels of a window's blocks to its own for which the blocks are cached
Fetch = Callable[[tuple[int, ...] | None], Array]  # bands (C, h, w) by their numbers; the mask (1, h, w) for None


@dataclass(frozen=True)
class Span:
    """A rectangle of a file's own pixels."""

    row: int
    col: int
    height: int
    width: int


def read_stored(
    dataset: DatasetReader, info: Header, indexes: Sequence[int], span: Span, nodata: Sequence[float]
) -> tuple[Array, Bools]:
    """Read stored bands: (raw_Chw in the file's own type, valid_Chw).

    Pixels are invalid where they equal one of `nodata` or the file's own nodata, or where the file's alpha band or mask
    is 0. Values that are not finite are left to `physical`. An alpha band that is among `indexes` is read as data,
    because the near infrared of NAIP is often marked as alpha.
    """
    return _with_validity(info, indexes, nodata, lambda what: _fetch(dataset, what, span))


def read_shared(
    info: Header, indexes: Sequence[int], span: Span, nodata: Sequence[float], *, remote: bool
) -> tuple[Array, Bools]:
    """The same for a file by its header, within an `environment`; do not write to the values.

    A window that is small in relation to its blocks is read from the cache, which needs no environment (see
    `is_shared`).
    """
    if is_shared(info, indexes, span):
        return _with_validity(info, indexes, nodata, lambda what: _from_blocks(info, what, span, remote))
    with borrowed(info.path, info.stamp, remote=remote) as dataset:
        return read_stored(dataset, info, indexes, span, nodata)


def is_shared(info: Header, indexes: Sequence[int], span: Span) -> bool:
    """Whether a window is so small that its blocks are cached for other windows. Cubes cache chunks themselves."""
    rows, cols = _block_2(info)
    high, wide = (
        -(-(start + length) // size) - start // size
        for start, length, size in ((span.row, span.height, rows), (span.col, span.width, cols))
    )
    held = min(high * rows, info.height) * min(wide * cols, info.width)
    if high * wide > MOST_BLOCKS or held <= WORTH * span.height * span.width:
        return False
    itemsize = max(np.dtype(info.dtypes[index - 1]).itemsize for index in indexes)
    return rows * cols * len(indexes) * itemsize <= LARGEST_BLOCK and not is_cube(info.path)


def _with_validity(info: Header, indexes: Sequence[int], nodata: Sequence[float], fetch: Fetch) -> tuple[Array, Bools]:
    raw_Chw = fetch(tuple(indexes))
    valid_Chw = np.ones(raw_Chw.shape, dtype=np.bool_)
    own = [info.nodata[index - 1] for index in indexes]
    declared = (*nodata, *info.missing)
    if len(set(own)) == 1:
        _mark_invalid(raw_Chw, valid_Chw, (*declared, own[0]))
    else:
        for position, value in enumerate(own):
            _mark_invalid(raw_Chw[position], valid_Chw[position], (*declared, value))
    if info.limits is not None:
        low, high = info.limits
        valid_Chw &= (raw_Chw >= low) & (raw_Chw <= high)
    if info.alpha is not None and info.alpha not in indexes:
        valid_Chw &= fetch((info.alpha,)) > 0
    if info.masked:
        valid_Chw &= fetch(None) > 0
    return raw_Chw, valid_Chw


def _fetch(dataset: DatasetReader, what: tuple[int, ...] | None, span: Span) -> Array:
    """The values as stored. A PNG is read in two halves: GDAL reads a whole PNG by a shortcut that does not report
    damage.
    """
    window = RasterioWindow(span.col, span.row, span.width, span.height)
    if what is None:
        mask: Array = dataset.read_masks(1, window=window)[None]
        return mask
    if dataset.driver != "PNG" or (window.height, window.width) != dataset.shape or window.height < 2:
        whole: Array = dataset.read(list(what), window=window)
        return whole
    half = window.height // 2
    above = RasterioWindow(0, 0, window.width, half)
    below = RasterioWindow(0, half, window.width, window.height - half)
    return np.concatenate([dataset.read(list(what), window=one) for one in (above, below)], axis=1)


def _from_blocks(info: Header, what: tuple[int, ...] | None, span: Span, remote: bool) -> Array:
    """The values from cached blocks; missing blocks are decoded."""
    rows, cols = _block_2(info)
    blocks = shared_blocks()

    def block_at(row: int, col: int) -> Array:
        top, left = row * rows, col * cols
        part = Span(top, left, min(rows, info.height - top), min(cols, info.width - left))
        return blocks.get((info.path, info.stamp, what, row, col), partial(_decode, info, what, part, remote))

    return gather((span.row, span.col), (span.height, span.width), (rows, cols), block_at)


def _decode(info: Header, what: tuple[int, ...] | None, span: Span, remote: bool) -> Array:
    with environment(remote=remote), borrowed(info.path, info.stamp, remote=remote) as dataset:
        return _fetch(dataset, what, span)


def _block_2(info: Header) -> tuple[int, int]:
    """Rows and columns of the cached blocks of a file: whole blocks of its own, so that none is decoded twice."""
    return (
        -(-LEAST_SIDE // info.block_height) * info.block_height,
        -(-LEAST_SIDE // info.block_width) * info.block_width,
    )


def _mark_invalid(raw: Array, valid: Bools, nodata: Sequence[float | None]) -> None:
    """Mark pixels as invalid that equal one of the values, where the type of the file can represent it."""
    for value in dict.fromkeys(nodata):
        if value is None:
            continue
        if raw.dtype.kind == "f":
            if np.isnan(value):
                valid &= ~np.isnan(raw)
            else:
                # -3.4e38 occurs in float32 and in float64 precision. Some writers use -1.8e308, the limit of float64,
                # for the limit of the file's type; GDAL returns it as an infinity.
                limits = np.finfo(raw.dtype)
                valid &= raw != raw.dtype.type(min(max(value, float(limits.min)), float(limits.max)))
        elif float(value).is_integer() and np.iinfo(raw.dtype).min <= value <= np.iinfo(raw.dtype).max:
            valid &= raw != int(value)
