"""Overlapping windows over a whole scene, predicted strip by strip and blended with tapering weights.

C bands, B windows, K classes (1 for numbers), W columns of pixels; r q rows and columns of cells, n cells of a window
per side. A cell is a pixel of the map: a pixel of the scene where pixels are predicted, else a square with the stride
of the tiles as its side.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.catalog import Scene, Source
from geomae.encoders.extraction import BATCH_PIXELS
from geomae.prediction.models import WindowModel
from geomae.rasters import Grid, Window, read, scene_grid
from geomae.rasters.grids import scene_layout
from geomae.tiles.reader import ahead

TINY = np.float32(1e-30)  # below any weight: avoids 0 / 0 for a cell that no window covers
LEAST = 1e-8  # blending weight in each direction: sin^2 is 0 for a cell whose centre is on the window's border
STRIP_PX = 256  # rows of a strip, the unit from which a run is resumed
CHUNK_BYTES = 24 * 1024**2  # of pixels that are read at a time; the rest of a row of blocks stays in GDAL's cache

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Chunk = tuple[Floats, Bools]


@dataclass(frozen=True)
class Lattice:
    """The positions of windows of `size` pixels on a scene of `height` x `width` pixels, with cells of `cell` pixels.

    Windows start at multiples of `step` cells. Pixels of a window beyond the border of the scene are invalid.
    """

    height: int
    width: int
    size: int
    cell: int = 1

    @property
    def across(self) -> int:
        """Cells per side of a window: those whose centres lie in it."""
        return max(1, math.floor(self.size / self.cell + 0.5))

    @property
    def step(self) -> int:
        """Stride of the windows in cells: half a window where cells are pixels, else one cell, the tiles' stride."""
        return max(1, self.size // 2) if self.cell == 1 else 1

    @property
    def rows(self) -> int:
        """Rows of cells; the last may extend beyond the scene."""
        return -(-self.height // self.cell)

    @property
    def cols(self) -> int:
        """Columns of cells."""
        return -(-self.width // self.cell)

    @property
    def tops(self) -> list[int]:
        """First row of cells of each row of windows."""
        return self._starts(self.rows)

    @property
    def lefts(self) -> list[int]:
        """First column of cells of each column of windows."""
        return self._starts(self.cols)

    @property
    def padded(self) -> bool:
        """Whether the scene is smaller than a window."""
        return min(self.height, self.width) < self.size

    @cached_property
    def weight_nn(self) -> Floats:
        """Blending weights of a window's cells: sin^2 in each direction.

        Weights of windows that overlap by half sum to one. Value and slope are 0 at the border, so no seam is visible;
        a cell that only one window covers has a weight, too.
        """
        across_n = np.maximum(np.sin(np.pi * (np.arange(self.across) + 0.5) * self.cell / self.size) ** 2, LEAST)
        return np.outer(across_n, across_n).astype(np.float32)

    def grid(self, grid: Grid) -> Grid:
        """Return the map's grid for a scene's `grid`: same upper left corner, with `cell` times larger pixels."""
        a, b, c, d, e, f = grid.transform
        k = self.cell
        gsd_m = None if grid.gsd_m is None else grid.gsd_m * k
        return Grid(self.rows, self.cols, gsd_m, grid.crs, (a * k, b * k, c, d * k, e * k, f))

    def strips(self) -> list[range]:
        """Return the rows of windows of each strip."""
        each, count = max(1, STRIP_PX // (self.step * self.cell)), len(self.tops)
        return [range(first, min(first + each, count)) for first in range(0, count, each)]

    def strip_cells(self, strip: range) -> slice:
        """Return the rows of cells that are complete after the windows of a strip, and were not before."""
        tops = self.tops
        stop = self.rows if strip.stop == len(tops) else tops[strip.stop]
        return slice(tops[strip.start], stop)

    def _starts(self, cells: int) -> list[int]:
        last = -(-max(cells - self.across, 0) // self.step) * self.step
        return list(range(0, last + 1, self.step))


@dataclass(frozen=True)
class Strip:
    """Blended predictions (K, r, q) for rows of cells from `first` on, and which cells have a valid pixel (r, q)."""

    number: int
    first: int
    value_Krq: Floats
    valid_rq: Bools


class SceneWindows:
    """The windows of one scene, predicted row by row."""

    def __init__(self, model: WindowModel, source: Source, scene: Scene, lattice: Lattice, device: str) -> None:
        self.model, self.source, self.scene, self.lattice = model, source, scene, lattice
        stored = [band.name for band in source.bands]
        self._order = [stored.index(name) for name in model.bands]
        self._most = max(BATCH_PIXELS[device] // lattice.size**2, 1)

    def strips(self, wanted: range) -> Iterator[Strip | int]:
        """Predict consecutive strips. Yields each strip, and after each row of windows the number of its windows.

        The bytes of a strip do not depend on where the run started: earlier rows of windows that overlap the first
        strip are predicted too.
        """
        lattice, tops = self.lattice, self.lattice.tops
        strips = lattice.strips()
        begin = tops[strips[wanted.start].start]
        reaching = [row for row, top in enumerate(tops) if top <= begin < top + lattice.across]
        first = min([*reaching, strips[wanted.start].start])
        canvas = _Canvas(lattice, begin)
        rows = self._rows(first, strips[wanted.stop - 1].stop)
        for row in range(first, strips[wanted.start].start):
            yield self._predict(canvas, row, *next(rows))
        for number in wanted:
            for row in strips[number]:
                yield self._predict(canvas, row, *next(rows))
            yield canvas.finish(number, lattice.strip_cells(strips[number]))

    def _predict(self, canvas: "_Canvas", row: int, pixels_CHW: Floats, valid_CHW: Bools) -> int:
        """Predict a row of windows and add it to the canvas. Returns the number of windows, skipped ones included."""
        lattice, size = self.lattice, self.lattice.size
        canvas.see(row, np.asarray(valid_CHW.any(0)))
        starts = [left * lattice.cell for left in lattice.lefts]
        used = [place for place, col in enumerate(starts) if valid_CHW[:, :, col : col + size].any()]
        for begin in range(0, len(used), self._most):
            places = used[begin : begin + self._most]
            cuts = [np.s_[:, :, starts[place] : starts[place] + size] for place in places]
            pixels_BCHW, valid_BCHW = (
                torch.from_numpy(np.stack([values[cut] for cut in cuts])) for values in (pixels_CHW, valid_CHW)
            )
            value_BK = self.model.predict(pixels_BCHW, valid_BCHW).numpy()
            for place, value_K in zip(places, value_BK, strict=True):
                canvas.add(row, lattice.lefts[place], value_K)
        return len(starts)

    def _rows(self, first: int, stop: int) -> Iterator[Chunk]:
        """Yield pixels and validity (C, size, W) of each row of windows; each part of the scene is read once.

        W is padded to the end of the last window. The arrays are reused: the next row overwrites them.
        """
        lattice = self.lattice
        tops = [top * lattice.cell for top in lattice.tops[first:stop]]
        wide = max(lattice.lefts[-1] * lattice.cell + lattice.size, lattice.width)
        chunk, bottom = self._chunk_rows(), min(tops[-1] + lattice.size, lattice.height)
        begin = tops[0] // chunk * chunk  # align with the file's blocks
        chunks = ahead(self._read, [(at, min(at + chunk, bottom)) for at in range(begin, bottom, chunk)], 1)
        held: list[tuple[int, Chunk]] = []
        pixels_CHW = np.zeros((len(self._order), lattice.size, wide), dtype=np.float32)
        valid_CHW = np.zeros(pixels_CHW.shape, dtype=np.bool_)
        for top in tops:
            held = [one for one in held if one[0] + one[1][0].shape[1] > top]
            end = min(top + lattice.size, lattice.height)
            while not held or held[-1][0] + held[-1][1][0].shape[1] < end:
                at = held[-1][0] + held[-1][1][0].shape[1] if held else begin
                held.append((at, next(chunks)))
                begin = at + held[-1][1][0].shape[1]
            pixels_CHW[:], valid_CHW[:] = 0, False
            for at, (pixels, valid) in held:
                here = slice(max(at, top), min(at + pixels.shape[1], end))
                there = np.s_[:, here.start - top : here.stop - top, : lattice.width]
                pixels_CHW[there] = pixels[:, here.start - at : here.stop - at]
                valid_CHW[there] = valid[:, here.start - at : here.stop - at]
            yield pixels_CHW, valid_CHW

    def _read(self, span: tuple[int, int]) -> Chunk:
        pixels_CHW, valid_CHW = read(self.source, self.scene, Window(span[0], 0, span[1] - span[0], self.lattice.width))
        if self._order == list(range(len(pixels_CHW))):
            return pixels_CHW, valid_CHW  # avoids a copy of a whole chunk
        return pixels_CHW[self._order], valid_CHW[self._order]

    def _chunk_rows(self) -> int:
        """Return the rows read at a time: whole rows of blocks where CHUNK_BYTES allows, else a fraction of one."""
        layout = scene_layout(self.source, self.scene)
        block = max(max(1, round(part.header.block_height / part.rows.scale)) for part in layout.parts)
        row_bytes = self.lattice.width * len(self.source.bands) * 5  # float32 and validity
        rows = 1 << (block - 1).bit_length()  # block heights are powers of two, or 1
        while rows * row_bytes > CHUNK_BYTES and rows > 16:
            rows //= 2
        while rows < STRIP_PX and 2 * rows * row_bytes <= CHUNK_BYTES:
            rows *= 2
        return rows


class _Canvas:
    """Weighted sums of predictions for the rows of cells that are not complete yet."""

    def __init__(self, lattice: Lattice, first: int) -> None:
        self._lattice, self._first = lattice, first
        self._wide = lattice.lefts[-1] + lattice.across
        self._weight = np.zeros((0, self._wide), dtype=np.float32)
        self._valid = np.zeros((0, self._wide), dtype=np.bool_)
        self._sums: Floats | None = None

    def see(self, row: int, valid_HW: Bools) -> None:
        """Record which cells have a valid pixel, from the validity of a row of windows."""
        cell, across = self._lattice.cell, self._lattice.across
        valid_rq = np.zeros((across, self._wide), dtype=np.bool_)
        part_HW = valid_HW[: across * cell, : self._wide * cell]
        whole_HW = np.zeros((across * cell, self._wide * cell), dtype=np.bool_)
        whole_HW[: part_HW.shape[0], : part_HW.shape[1]] = part_HW
        valid_rq |= whole_HW.reshape(across, cell, self._wide, cell).any((1, 3))
        top = self._lattice.tops[row]
        self._grow(top + across)
        skip = max(0, self._first - top)
        self._valid[top + skip - self._first : top + across - self._first] |= valid_rq[skip:]

    def add(self, row: int, left: int, value_Knn: Floats) -> None:
        """Add a window's prediction; one for the whole window applies to each of its cells."""
        if self._sums is None:
            self._sums = np.zeros((len(value_Knn), *self._weight.shape), dtype=np.float32)
        top, across = self._lattice.tops[row], self._lattice.across
        skip = max(0, self._first - top)
        weight_nn = self._lattice.weight_nn[skip:]
        value_Knn = value_Knn[:, skip:] if value_Knn.ndim == 3 else value_Knn[:, None, None]
        here = np.s_[top + skip - self._first : top + across - self._first, left : left + across]
        self._weight[here] += weight_nn
        self._sums[:, *here] += weight_nn * value_Knn

    def finish(self, number: int, cells: slice) -> Strip:
        """Remove the complete rows and return them as a strip."""
        rows, cols = cells.stop - cells.start, self._lattice.cols
        self._grow(cells.stop)
        weight_rq, valid_rq = self._weight[:rows, :cols], self._valid[:rows, :cols]
        sums = np.zeros((0, rows, cols), np.float32) if self._sums is None else self._sums[:, :rows, :cols]
        value_Krq: Floats = np.asarray(sums / np.maximum(weight_rq, TINY), dtype=np.float32)
        self._weight, self._valid = self._weight[rows:], self._valid[rows:]
        self._sums = None if self._sums is None else self._sums[:, rows:].copy()
        self._first = cells.stop
        return Strip(number, cells.start, value_Krq, valid_rq & (weight_rq > 0))

    def _grow(self, stop: int) -> None:
        """Extend the canvas down to row `stop` of cells."""
        more = stop - self._first - len(self._weight)
        if more <= 0:
            return
        self._weight = np.pad(self._weight, ((0, more), (0, 0)))
        self._valid = np.pad(self._valid, ((0, more), (0, 0)))
        if self._sums is not None:
            self._sums = np.pad(self._sums, ((0, 0), (0, more), (0, 0)))


def lattice_of(source: Source, scene: Scene, size: int, cell: int) -> Lattice:
    """Return the windows of a scene."""
    grid = scene_grid(source, scene)
    return Lattice(grid.height, grid.width, size, cell)
