"""The pixels of a file decoded once, piece by piece: what the audit asks of its bands, its tiles and its blocks.

C bands, h w pixels of a piece
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader

from geomae.rasters.file_records import BandRecord
from geomae.rasters.headers import Header
from geomae.rasters.opening import is_remote, opened
from geomae.rasters.reading import physical
from geomae.rasters.stored import Span, read_stored
from geomae.rasters.tiff_blocks import Block, BlockIndex
from geomae.rasters.tile_moments import MeasuredTiles, TileMoments, moments

Array = npt.NDArray[Any]
PASS_VALUES = 8_000_000  # values of a piece
AT_ONCE = 1 << 19  # values of it that are looked at together: they stay in the cache of a core
SAMPLE_PIXELS = 65_536  # of each band, for median, quantile and what is repeated
WHOLE_PIXELS = 2**18  # of a file whose moments are taken while it is held whole
DARK = 0.01  # share of the valid pixels of a band that are its darkest
FILL_SHARE = 0.005  # of the valid pixels, from which one value at the end of all may be nodata
READING = {"GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE"}  # else damaged JPEG data are decoded to grey with a mere warning
EMPTY = np.float32(np.inf), np.float32(-np.inf)  # least and largest of no value
Bands = tuple[tuple[int, float, float], ...]  # number, scale and offset


@dataclass(frozen=True)
class Wanted:
    """One file to inspect: (number of the stored band, scale, offset) for each band, and nodata values.

    `imagery` says whether it holds bands of the data set; else it is a mask. `tiles` says which are measured
    while it is read.
    """

    path: str
    bands: Bands
    nodata: tuple[float, ...]
    remote: bool
    imagery: bool = True
    tiles: MeasuredTiles | None = None


@dataclass
class Piece:
    """What was found in a piece of a file; figures of bands in their order."""

    pixels: int
    valid_C: list[int] = field(default_factory=list)
    not_finite_C: list[int] = field(default_factory=list)
    low_C: list[float] = field(default_factory=list)
    high_C: list[float] = field(default_factory=list)
    samples_C: list[npt.NDArray[np.float32]] = field(default_factory=list)
    whole: list[tuple[float, float]] = field(default_factory=list)
    damaged: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class PixelPass:
    """One pass over the stored `bands` of a file: `blocks` are checked, and `tiles` measured, where they are given."""

    info: Header
    bands: Bands
    nodata: tuple[float, ...]
    blocks: BlockIndex | None = None
    tiles: TileMoments | None = None

    def run(
        self, dataset: DatasetReader, pool: Executor | None = None, seen: Callable[[bytes], None] | None = None
    ) -> tuple[list[BandRecord], list[Block]]:
        """What the pixels are, and the damaged blocks; `seen` hears the bytes of all stored values in turn.

        Pieces are read by the threads of `pool`, else from `dataset` by this one. Raises RasterError.
        """
        spans = self._spans()
        if pool is None or len(spans) == 1 or seen is not None:
            pieces = [self._measure(dataset, span, seen) for span in spans]
        else:
            waiting = [pool.submit(self._open_and_measure, span) for span in spans]
            try:
                pieces = [one.result() for one in waiting]
            finally:
                for one in waiting:
                    one.cancel()
        return _merged(pieces, len(self.bands)), [block for one in pieces for block in one.damaged]

    def _open_and_measure(self, span: Span) -> Piece:
        with opened(self.info.path, remote=is_remote(self.info.path), **READING) as dataset:
            return self._measure(dataset, span)

    def _measure(self, dataset: DatasetReader, span: Span, seen: Callable[[bytes], None] | None = None) -> Piece:
        indexes = tuple(number for number, _, _ in self.bands)
        around = self._with_tiles(span)
        raw_Chw, valid_Chw = read_stored(dataset, self.info, indexes, around, self.nodata)
        if seen is not None:
            seen(raw_Chw.tobytes())
        piece = Piece(span.height * span.width)
        if self.blocks is not None:
            piece.damaged = self.blocks.damaged(span, indexes, around, raw_Chw)
        step = max(1, AT_ONCE // (around.height * around.width))
        for first in range(0, len(self.bands), step):
            chosen = slice(first, first + step)
            self._add(piece, span, chosen, raw_Chw[chosen], valid_Chw[chosen])
        return piece

    def _add(self, piece: Piece, span: Span, chosen: slice, raw_chw: Array, valid_chw: npt.NDArray[np.bool_]) -> None:
        """What some of the bands are."""
        info, size = self.info, (span.height, span.width)
        _, scale_c, offset_c = zip(*self.bands[chosen], strict=True)
        inner = np.s_[:, : span.height, : span.width]
        declared_c = [int(np.count_nonzero(one)) for one in valid_chw[inner]]
        values_chw = physical(raw_chw, valid_chw, scale_c, offset_c)
        every = bool(valid_chw.all())
        if self.tiles is not None:
            self.tiles.add((span.row, span.col), size, chosen, values_chw, None if every else valid_chw)
        values_chw, valid_chw = values_chw[inner], valid_chw[inner]
        if size == info.shape and piece.pixels <= WHOLE_PIXELS:
            _, _, mean_TC, squares_TC, _, _ = moments(values_chw[:, None], None if every else valid_chw[:, None])
            piece.whole += zip(mean_TC[0].tolist(), squares_TC[0].tolist(), strict=True)
        valid_c = [piece.pixels if every else int(np.count_nonzero(one)) for one in valid_chw]
        piece.valid_C += valid_c
        piece.not_finite_C += [before - after for before, after in zip(declared_c, valid_c, strict=True)]
        low, high = (values_chw if every else np.where(valid_chw, values_chw, one) for one in EMPTY)
        piece.low_C += low.min(axis=(1, 2)).tolist()
        piece.high_C += high.max(axis=(1, 2)).tolist()
        step = max(1, math.isqrt(info.height * info.width // SAMPLE_PIXELS))
        places = np.s_[:, -span.row % step :: step, -span.col % step :: step]
        piece.samples_C += [one[ok] for one, ok in zip(values_chw[places], valid_chw[places], strict=True)]

    def _with_tiles(self, span: Span) -> Span:
        """A piece and the tiles that begin in it."""
        if self.tiles is None:
            return span
        grid, (rows, cols) = self.tiles.grid, self.tiles.shape
        height, width = grid.reach(span.row, span.height, rows), grid.reach(span.col, span.width, cols)
        return Span(span.row, span.col, height, width)

    def _spans(self) -> list[Span]:
        """Pieces that cover the file along its blocks, and along tiles where that costs little; of a remote file the
        middle one.
        """
        info, budget = self.info, max(1, PASS_VALUES // len(self.bands))
        height, width = info.block_height, info.block_width
        if self.tiles is not None:
            stride = self.tiles.grid.stride
            across = width if width >= info.width else math.lcm(width, stride)
            down = math.lcm(height, stride)
            if down * across <= budget:
                height, width = down, across
        if height * width > budget:
            height = max(1, budget // width)
        else:
            width = min(info.width, width * max(1, budget // (height * width)))
            if width >= info.width:
                height *= max(1, budget // (height * info.width))
        rows, cols = range(0, info.height, height), range(0, info.width, width)
        if is_remote(info.path):
            rows, cols = (one[len(one) // 2 : len(one) // 2 + 1] for one in (rows, cols))
        return [
            Span(row, col, min(height, info.height - row), min(width, info.width - col)) for row in rows for col in cols
        ]


def _merged(pieces: Sequence[Piece], bands: int) -> list[BandRecord]:
    """The records of the bands of all pieces together."""
    records = []
    pixels = sum(one.pixels for one in pieces)
    samples_C = _sorted([np.concatenate([one.samples_C[position] for one in pieces]) for position in range(bands)])
    for position, merged in enumerate(samples_C):
        valid = sum(one.valid_C[position] for one in pieces)
        fill, fill_share = _fill(merged)
        whole = pieces[0].whole[position] if len(pieces) == 1 and pieces[0].whole else (None, None)
        records.append(
            BandRecord(
                pixels=pixels,
                valid=valid,
                not_finite=sum(one.not_finite_C[position] for one in pieces),
                low=min(one.low_C[position] for one in pieces) if valid else None,
                high=max(one.high_C[position] for one in pieces) if valid else None,
                median=_median(merged) if merged.size else None,
                dark=_quantile(merged, DARK) if merged.size else None,
                fill=fill,
                fill_share=fill_share,
                mean=whole[0],
                squares=whole[1],
            )
        )
    return records


def _sorted(samples_C: Sequence[npt.NDArray[np.float32]]) -> Sequence[npt.NDArray[np.float32]]:
    """The sample of each band in ascending order. Samples of one size are sorted together."""
    if len({one.size for one in samples_C}) == 1:
        return list(np.sort(np.stack(samples_C), axis=1))
    return [np.sort(one) for one in samples_C]


def _median(sorted_N: npt.NDArray[np.float32]) -> float:
    """As `np.median`, of values in ascending order."""
    middle = sorted_N.size // 2
    return float(sorted_N[middle] if sorted_N.size % 2 else (sorted_N[middle - 1] + sorted_N[middle]) / np.float32(2))


def _quantile(sorted_N: npt.NDArray[np.float32], share: float) -> float:
    """As `np.quantile`, of values in ascending order: linear between two of them, in float32."""
    at = (sorted_N.size - 1) * share
    first = int(at)
    below, above = sorted_N[first], sorted_N[min(first + 1, sorted_N.size - 1)]
    weight = at - first
    step = above - below
    return float(above - step * (1 - weight) if weight >= 0.5 else below + step * weight)


def _fill(sorted_N: npt.NDArray[np.float32]) -> tuple[float | None, float]:
    """The value of a band's sample, in ascending order, that may be nodata, and its share; see `BandRecord`."""
    if sorted_N.size == 0:
        return None, 0.0
    low, high = float(sorted_N[0]), float(sorted_N[-1])
    lows = int(np.searchsorted(sorted_N, sorted_N[0], side="right"))
    highs = sorted_N.size - int(np.searchsorted(sorted_N, sorted_N[-1], side="left"))
    if lows + highs >= sorted_N.size:
        return None, 0.0
    first, last = float(sorted_N[lows]), float(sorted_N[-highs - 1])
    for value, gap, number in ((low, first - low, lows), (high, high - last, highs)):
        share = number / sorted_N.size
        if gap > last - first > 0 and share >= FILL_SHARE:
            return value, share
    return None, 0.0
