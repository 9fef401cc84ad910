"""Bringing pixels from the grid of a file to another, with exact half-pixel alignment and validity.

Each output pixel is a function of its place on the grid alone, summed in a fixed order: a window gives the very bits of
the same part of the whole.

C bands, h w pixels of the file, H W pixels of the grid, L pixels along one axis of the grid, K pixels that are mixed
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.int64]
SMALLEST_WEIGHT = 1e-6


@dataclass(frozen=True)
class Axis:
    """How one axis of a grid maps to a file of `size` pixels: edge coordinate in the file = grid's x scale + offset."""

    scale: float
    offset: float
    size: int

    @property
    def aligned(self) -> bool:
        """Whether the pixels of both lie upon each other."""
        return self.scale == 1.0 and self.offset == 0.0


@dataclass(frozen=True)
class Taps:
    """The pixels of a file that are mixed along one axis.

    `index_LK` counts from `first`; `size` is how many pixels are to be read from there. `nearest_L` is the pixel that
    holds the centre of the output pixel.
    """

    first: int
    size: int
    index_LK: Indexes
    weight_LK: Floats
    nearest_L: Indexes


@functools.lru_cache(maxsize=256)  # the files of a scene share them
def taps(axis: Axis, start: int, length: int) -> Taps:
    """Say which pixels of the file make the pixels `start` to `start + length` of the grid, bilinearly.

    Where the file is finer than the grid the triangle is widened to the output pixel, so that nothing is skipped.
    """
    centre_L = _centres(axis, start, length) - 0.5
    centre_L = np.clip(centre_L, 0, axis.size - 1)  # half a pixel at the border has one neighbour only
    half = max(1.0, axis.scale)
    index_LK = (np.floor(centre_L - half).astype(np.int64) + 1)[:, None] + np.arange(math.ceil(2 * half))
    weight_LK = np.maximum(0.0, 1 - np.abs(index_LK - centre_L[:, None]) / half)
    weight_LK[(index_LK < 0) | (index_LK >= axis.size)] = 0
    weight_LK /= weight_LK.sum(axis=1, keepdims=True)
    index_LK = np.clip(index_LK, 0, axis.size - 1)
    nearest_L = np.clip(np.floor(_centres(axis, start, length)).astype(np.int64), 0, axis.size - 1)
    first = int(min(index_LK.min(), nearest_L.min()))
    last = int(max(index_LK.max(), nearest_L.max()))
    return Taps(first, last + 1 - first, index_LK - first, weight_LK.astype(np.float32), nearest_L - first)


def nearest(axis: Axis, start: int, length: int, *, reach: float) -> tuple[Indexes, Bools]:
    """Give the file's pixel under the centre of each pixel of the grid, and whether there is one.

    Up to `reach` pixels beyond the border of the file count as its last pixel.
    """
    position_L = _centres(axis, start, length)
    inside_L = (position_L >= -reach) & (position_L <= axis.size + reach)
    return np.clip(np.floor(position_L).astype(np.int64), 0, axis.size - 1), inside_L


def bilinear(values_Chw: Floats, valid_Chw: Bools, rows: Taps, cols: Taps) -> tuple[Floats, Bools]:
    """Mix valid pixels bilinearly: (pixels_CHW, valid_CHW).

    Invalid pixels get no weight, so that what they hold cannot bleed (it must be finite). An output pixel is valid
    where the nearest pixel of the file is.
    """
    mixed_CHW = _mix(values_Chw * valid_Chw, rows, cols)
    # Where all are valid the weights are the same for each band, and come out with the same bits.
    weighed = valid_Chw[:1] if valid_Chw.all() else valid_Chw
    weight_CHW = _mix(weighed.astype(np.float32), rows, cols)
    valid_CHW = valid_Chw[:, rows.nearest_L][:, :, cols.nearest_L] & (weight_CHW > SMALLEST_WEIGHT)
    return np.where(valid_CHW, mixed_CHW / np.where(valid_CHW, weight_CHW, 1), np.float32(0)), valid_CHW


def _centres(axis: Axis, start: int, length: int) -> npt.NDArray[np.float64]:
    return (np.arange(start, start + length, dtype=np.float64) + 0.5) * axis.scale + axis.offset


def _mix(values_Chw: Floats, rows: Taps, cols: Taps) -> Floats:
    values_CHw = _sum(values_Chw[:, rows.index_LK[:, k]] * rows.weight_LK[:, k, None] for k in _steps(rows))
    return _sum(values_CHw[:, :, cols.index_LK[:, k]] * cols.weight_LK[:, k] for k in _steps(cols))


def _steps(one: Taps) -> range:
    return range(one.index_LK.shape[1])


def _sum(terms: Any) -> Floats:
    total: Floats | None = None
    for term in terms:
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None  # there is at least one tap
    return total
