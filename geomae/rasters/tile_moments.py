"""The moments of tiles: what statistics are merged from, taken where pixels are decoded.

C bands, T tiles, H W their pixels, P = H x W, R K rows and columns of tiles
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from geomae.rasters.figure_rows import FIGURES, FigureRows, Scratch, row_type

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
AT_ONCE = 1 << 17  # values of tiles that are measured at once: they stay in the cache of a core


def moments(pixels_CTHW: Floats, valid_CTHW: Bools | None) -> tuple[npt.NDArray[np.float64], ...]:
    """Of each window the valid share (T), and per band (T, C) count, mean, sum of squares about it, minimum and maximum
    (infinite where empty). Without `valid_CTHW` all pixels are valid.
    """
    shape_CTP = (*pixels_CTHW.shape[:2], pixels_CTHW.shape[2] * pixels_CTHW.shape[3])
    values = np.ascontiguousarray(pixels_CTHW).reshape(shape_CTP)  # so that each sum is in the order of pixels
    ok = None if valid_CTHW is None else np.ascontiguousarray(valid_CTHW).reshape(shape_CTP)
    flat = values.astype(np.float64)
    if ok is None or ok.all():  # the same figures, without a choice at each pixel
        count = np.full(shape_CTP[:2], float(shape_CTP[2]))
        share_T = np.ones(shape_CTP[1])
        mean = flat.sum(2) / np.maximum(count, 1)
        low, high = values.min(2), values.max(2)
        squares = np.square(np.subtract(flat, mean[:, :, None], out=flat), out=flat).sum(2)
    else:
        count, share_T = ok.sum(2).astype(np.float64), ok.mean(axis=(0, 2))
        mean = np.where(ok, flat, 0).sum(2) / np.maximum(count, 1)
        squares = np.where(ok, (flat - mean[:, :, None]) ** 2, 0).sum(2)
        low, high = (np.where(ok, values, np.float32(one)) for one in (np.inf, -np.inf))
        low, high = low.min(2), high.max(2)
    return share_T, count.T, mean.T, squares.T, low.T.astype(np.float64), high.T.astype(np.float64)


@dataclass(frozen=True)
class TileGrid:
    """Tiles of `size` pixels, one every `stride` pixels, that lie wholly within a raster."""

    size: int
    stride: int

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles of a raster; 0 where none fits."""
        rows, cols = (max(0, (length - self.size) // self.stride + 1) for length in (height, width))
        return rows, cols

    def begin_in(self, start: int, length: int, tiles: int) -> range:
        """The rows, or columns, of tiles (of `tiles` altogether) whose first pixel lies in a range of pixels."""
        return range(-(-start // self.stride), min(-(-(start + length) // self.stride), tiles))

    def reach(self, start: int, length: int, tiles: int) -> int:
        """Pixels from `start` on that hold a range and the tiles that begin in it."""
        there = self.begin_in(start, length, tiles)
        return max(length, there[-1] * self.stride + self.size - start if there else 0)


class TileMoments:
    """The moments of all tiles of one file: `rows` has those of the tiles (R, K), row by row."""

    def __init__(self, grid: TileGrid, height: int, width: int, bands: int, scratch: Scratch) -> None:
        """Room for the tiles of a raster in `scratch`; any number of threads may fill it."""
        self.grid = grid
        self.shape = grid.shape(height, width)
        self.rows: FigureRows = scratch.reserve(self.shape[0] * self.shape[1], bands)

    def add(
        self,
        start_2: tuple[int, int],
        inner_2: tuple[int, int],
        bands: slice,
        pixels_chw: Floats,
        valid_chw: Bools | None,
    ) -> None:
        """Measure the tiles that begin in the first `inner_2` pixels of a part of the file, of some of its bands.

        The part begins at `start_2`; `valid_chw` is None where all its pixels are valid.
        """
        size, stride = self.grid.size, self.grid.stride
        rows, cols = (
            self.grid.begin_in(start, inner, tiles)
            for start, inner, tiles in zip(start_2, inner_2, self.shape, strict=True)
        )
        if not rows or not cols:
            return
        first_row, first_col = rows[0] * stride - start_2[0], cols[0] * stride - start_2[1]

        def tiles_of(values_chw: Array) -> Array:
            every = sliding_window_view(values_chw, (size, size), axis=(1, 2))[:, first_row::stride, first_col::stride]
            return every[:, : len(rows), : len(cols)]

        pixels, ok = tiles_of(pixels_chw), None if valid_chw is None else tiles_of(valid_chw)
        step = max(1, AT_ONCE // (len(pixels) * size**2))
        for row in range(len(rows)):
            first = (rows[0] + row) * self.shape[1]
            row_K = self.rows.open(first, first + self.shape[1])
            for col in range(0, len(cols), step):
                part = np.s_[:, row, col : col + step]
                _, *found = moments(pixels[part], None if ok is None else ok[part])
                here = np.s_[cols[0] + col : cols[0] + min(col + step, len(cols)), bands]
                for name, values in zip(FIGURES, found, strict=True):
                    row_K[name][here] = values


FileTiles = tuple[TileMoments, list[int], list[int]]  # positions of its bands in the scene, and in the file


@dataclass(frozen=True)
class MeasuredTiles:
    """The tiles that an audit shall measure while it decodes files, and what it measured, by scene.

    A scene has the moments of its files.
    """

    grid: TileGrid
    scenes: dict[str, list[FileTiles]] = field(default_factory=dict)
    scratch: Scratch = field(default_factory=Scratch)

    def rows(self, scene: str, corner_T2: npt.NDArray[np.int64], bands: int) -> Array:
        """The figures of tiles of a scene, which was measured, by their corners."""
        row_T, col_T = (corner_T2 // self.grid.stride).T
        rows = np.zeros(len(corner_T2), dtype=row_type(bands))
        for measured, there, here in self.scenes[scene]:
            found = measured.rows.take(row_T * measured.shape[1] + col_T)
            for name in FIGURES:
                rows[name][:, there] = found[name][:, here]
        return rows
