"""Reads all tiles once: the valid share of each, and the moments from which statistics are computed.

T tiles, C bands
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from geomae.catalog import Source
from geomae.errors import StorageError
from geomae.files import cache_folder, digest, publish_file
from geomae.rasters import Window, read
from geomae.rasters.figure_rows import AT_ONCE as ROWS_AT_ONCE
from geomae.rasters.figure_rows import FigureRows, Scratch, SharedFile, as_rows, parts_of, row_type
from geomae.rasters.tile_moments import MeasuredTiles, moments
from geomae.rasters.work_share import ALONE, WorkShare

FORMAT = 3  # of the name, which the digests of statistics are computed from
CHECKSUM_BYTES = 4  # at the end of a stored survey
COPIED = 1 << 20  # bytes of it that are in memory at once
BLOCK = 512  # pixels: tiles whose corners lie in one block of a scene are read together
MOST_VALUES = 1 << 24  # values that are read at once
AT_ONCE = 1 << 20  # values whose moments are computed at once
Whole = NDArray[np.int64]


Moments = tuple[NDArray[np.integer[Any]], NDArray[np.float64], NDArray[np.float64]]
Sums = list[NDArray[Any]]


def merge_moments(
    count_TC: NDArray[np.integer[Any]], mean_TC: NDArray[np.float64], squares_TC: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, mean and variance (C,) over T parts, from their counts, means and sums of squared deviations.

    The formulas of Chan et al. 1983 stay accurate where the mean is far from zero. Mean and variance are 0 where the
    count is 0.
    """
    return _merged(lambda: [(count_TC, mean_TC, squares_TC)])


def _merged(
    pieces: Callable[[], Iterable[Moments]],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The same of parts that come in pieces, which are asked for twice."""
    count_C, weighted_C = _sums(pieces, lambda count_TC, mean_TC, _: [count_TC, count_TC * mean_TC])
    safe_C = np.maximum(count_C, 1)
    mean_C = weighted_C / safe_C
    squares_C, between_C = _sums(
        pieces, lambda count_TC, mean_TC, squares_TC: [squares_TC, count_TC * (mean_TC - mean_C) ** 2]
    )
    return count_C, mean_C, (squares_C + between_C) / safe_C


def _sums(pieces: Callable[[], Iterable[Moments]], of: Callable[..., Sums]) -> Sums:
    """Sums over all pieces, equal to the bit to those over one piece: numpy adds rows of several columns in turn."""
    sums: Sums = []
    for piece in pieces():
        values = of(*piece)
        if sums:
            values = [np.concatenate([before[None], more]) for before, more in zip(sums, values, strict=True)]
        sums = [one.sum(0) for one in values]
    return sums


@dataclass(frozen=True)
class Statistics:
    """Per band over valid pixels, in physical units; `digest` names the content it was computed from.

    A band without valid pixels has a count of 0; its other figures are meaningless.
    """

    bands: tuple[str, ...]
    count_C: NDArray[np.int64]
    mean_C: NDArray[np.float64]
    std_C: NDArray[np.float64]
    min_C: NDArray[np.float64]
    max_C: NDArray[np.float64]
    digest: str

    def to_dict(self) -> dict[str, object]:
        """As JSON, one record per band; figures of a band without valid pixels are None."""
        columns = {"count": self.count_C, "mean": self.mean_C, "std": self.std_C, "min": self.min_C, "max": self.max_C}
        rows = {
            band: {
                name: values[index].item() if self.count_C[index] or name == "count" else None
                for name, values in columns.items()
            }
            for index, band in enumerate(self.bands)
        }
        return {"digest": self.digest, "bands": rows}


@dataclass(frozen=True)
class Survey:
    """Figures of every tile: the share of valid pixels, and per band count, mean, squared deviations, minimum, maximum.

    Moments of single tiles can be merged for any subset, so that reading once is enough for all splits. They lie in a
    file, because they would take 28 bytes of memory for each tile and band. `row_T` are the rows of the tiles in it;
    None where these are all rows in order. `pixel_valid_T` says whether the pixel at the point of each tile is valid;
    None for tiles without points.
    """

    valid_share_T: NDArray[np.float64]
    rows: FigureRows
    digest: str
    pixel_valid_T: NDArray[np.bool_] | None = None
    row_T: NDArray[np.integer[Any]] | None = None

    @classmethod
    def empty(cls, tiles: int, bands: int, name: str, *, with_pixels: bool) -> "Survey":
        """A survey of zeros, to be filled in."""
        pixel_valid_T = np.zeros(tiles, dtype=bool) if with_pixels else None
        return cls(np.zeros(tiles), Scratch().reserve(tiles, bands), name, pixel_valid_T)

    def __len__(self) -> int:
        return len(self.valid_share_T)

    def take(self, positions: Whole) -> "Survey":
        """The survey of a subset of the tiles."""
        if len(positions) == len(self) and (positions == np.arange(len(self))).all():
            return self
        pixel_valid_T = None if self.pixel_valid_T is None else self.pixel_valid_T[positions]
        row_T = positions.astype(np.min_scalar_type(self.rows.tiles)) if self.row_T is None else self.row_T[positions]
        return replace(self, valid_share_T=self.valid_share_T[positions], pixel_valid_T=pixel_valid_T, row_T=row_T)

    def figures(self, positions: Whole | None = None) -> NDArray[np.void]:
        """A copy of the figures of some tiles, or of all: a structured array with the fields FIGURES (T, C)."""
        positions = np.arange(len(self)) if positions is None else positions
        return self.rows.take(positions if self.row_T is None else self.row_T[positions].astype(np.int64))

    def statistics(self, bands: Sequence[str], positions: Whole) -> Statistics:
        """Statistics over the valid pixels of some tiles; pixels in several tiles count for each, as in training."""
        # numpy adds the values of a single column pairwise: in pieces, the sum would be another one.
        at_once = ROWS_AT_ONCE if self.rows.bands > 1 else len(positions)

        def pieces() -> Iterator[Moments]:
            for part in parts_of(len(positions), at_once):
                rows = self.figures(positions[part])
                ends.append((rows["low"].min(0), rows["high"].max(0)))
                count_TC, mean_TC, squares_TC = (
                    np.ascontiguousarray(rows[one]) for one in ("count", "mean", "squares")
                )
                yield count_TC, mean_TC, squares_TC

        ends: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        count_C, mean_C, variance_C = _merged(pieces)
        low_C = np.min([low_C for low_C, _ in ends], axis=0).astype(np.float64)
        high_C = np.max([high_C for _, high_C in ends], axis=0).astype(np.float64)
        name = digest([self.digest, list(bands), np.sort(positions)])
        return Statistics(tuple(bands), count_C, mean_C, np.sqrt(variance_C), low_C, high_C, name)


def survey(
    source: Source,
    place_T4: Whole,
    content: str,
    threads: int,
    progress: Callable[[int], None] = lambda done: None,
    pixel_T2: Whole | None = None,
    whole: Mapping[tuple[int, ...], NDArray[np.float64]] = MappingProxyType({}),
    share: WorkShare = ALONE,
    known: MeasuredTiles | None = None,
) -> Survey:
    """Measure the tiles (scene, row, col, size) of `place_T4`; cached under `content`, which describes what is read.

    With `pixel_T2` (row, column of one pixel in each tile) it also records whether that pixel is valid in any band.
    `whole` has the moments (5, C) of tiles that need not be read, `known` those that this process measured before.
    Every process of `share` reads its part.
    """
    places = [place_T4] if pixel_T2 is None else [place_T4, pixel_T2]
    name = digest([FORMAT, content, *(sha256(np.ascontiguousarray(one).data.cast("B")).hexdigest() for one in places)])
    kept = cache_folder() / "survey" / f"{name}.rows"
    stored = _load(kept, name, len(place_T4), len(source.bands), with_pixels=pixel_T2 is not None)
    if all(share.exchange(stored is not None)) and stored is not None:
        return stored
    measured = Survey.empty(len(place_T4), len(source.bands), name, with_pixels=pixel_T2 is not None)

    def record(tile_U: Whole, rows_U: NDArray[np.void]) -> None:
        measured.rows.put(tile_U, rows_U)
        pixels_U = len(source.bands) * place_T4[tile_U, 3] ** 2
        measured.valid_share_T[tile_U] = rows_U["count"].sum(axis=1) / pixels_U

    def measure(group_G: Whole) -> int:
        for here, pixels_CTHW, valid_CTHW in read_together(source, place_T4, group_G):
            record(here, as_rows(moments(pixels_CTHW, valid_CTHW)[1:]))
            if pixel_T2 is not None and measured.pixel_valid_T is not None:
                row_T, col_T = (pixel_T2[here] - place_T4[here, 1:3]).T
                measured.pixel_valid_T[here] = valid_CTHW[:, np.arange(len(here)), row_T, col_T].any(axis=0)
        return len(group_G)

    todo_T = np.ones(len(place_T4), dtype=bool)
    if whole:
        todo_T[_fill_in_whole(place_T4, whole, record)] = False
    if known is not None:
        filled_U = _fill_in(source, place_T4, known, record)
        todo_T[_exchange(measured, filled_U, share)] = False
    done = len(place_T4) - int(todo_T.sum())
    groups = share.own(neighbours(place_T4, np.flatnonzero(todo_T)))
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for count in pool.map(measure, groups):
            done = min(done + count * share.ranks, len(place_T4))
            progress(done)
    if share.ranks > 1:
        own_U = np.concatenate(groups) if groups else np.zeros(0, dtype=np.int64)
        _exchange(measured, own_U, share)
    if share.leads:
        _store(kept, measured)
    return measured


Record = Callable[[Whole, NDArray[np.void]], None]  # the rows of some tiles


def _fill_in_whole(place_T4: Whole, whole: Mapping[tuple[int, ...], NDArray[np.float64]], record: Record) -> Whole:
    """Record the moments of tiles that are whole scenes; which tiles these are."""
    filled = [np.zeros(0, dtype=np.int64)]
    for part in parts_of(len(place_T4)):
        places = map(tuple, place_T4[part].tolist())
        found = {part.start + at: whole[place] for at, place in enumerate(places) if place in whole}
        if found:
            filled.append(np.fromiter(found, dtype=np.int64))
            record(filled[-1], as_rows(np.stack(list(found.values()), axis=1)))
    return np.concatenate(filled)


def _fill_in(source: Source, place_T4: Whole, known: MeasuredTiles, record: Record) -> Whole:
    """Record the moments that this process has, scene by scene; which tiles these are."""
    filled = [np.zeros(0, dtype=np.int64)]
    order_T = np.argsort(place_T4[:, 0], kind="stable")
    bounds = np.searchsorted(place_T4[order_T, 0], np.arange(len(source.scenes) + 1)).tolist()
    for scene, (first, last) in zip(source.scenes, pairwise(bounds), strict=True):
        if scene.id not in known.scenes:
            continue
        for part in parts_of(last - first):
            filled.append(order_T[first:last][part])
            record(filled[-1], known.rows(scene.id, place_T4[filled[-1], 1:3], len(source.bands)))
        del known.scenes[scene.id]
    return np.concatenate(filled)


def _exchange(measured: Survey, own_U: Whole, share: WorkShare) -> Whole:
    """Fill in what the other processes measured, where this one measured the tiles `own_U`; the tiles of all."""
    if share.ranks == 1:
        return own_U
    every = [np.zeros(0, dtype=np.int64)]
    columns = [measured.valid_share_T, *([] if measured.pixel_valid_T is None else [measured.pixel_valid_T])]
    for part in parts_of(max(share.exchange(len(own_U)))):
        mine_U = own_U[part]
        own = mine_U, measured.rows.take(mine_U), [one[mine_U] for one in columns]
        for there_U, rows, figures in share.exchange(own):
            measured.rows.put(there_U, rows)
            for column, values in zip(columns, figures, strict=True):
                column[there_U] = values
            every.append(there_U)
    return np.concatenate(every)


def neighbours(place_T4: Whole, chosen_U: Whole) -> list[Whole]:
    """Groups of the chosen tiles (positions): one scene, one size, and corners in one block of the scene."""
    scene_U, row_U, col_U, size_U = place_T4[chosen_U].T
    key_U4 = np.stack([scene_U, size_U, row_U // BLOCK, col_U // BLOCK], axis=1)
    order_U = np.lexsort(key_U4.T[::-1])
    changes = np.flatnonzero((np.diff(key_U4[order_U], axis=0) != 0).any(axis=1)) + 1
    return [chosen_U[group] for group in np.split(order_U, changes) if len(group)]


def read_together(
    source: Source, place_T4: Whole, group_G: Whole
) -> Iterator[tuple[Whole, NDArray[np.float32], NDArray[np.bool_]]]:
    """Read a group of `neighbours` in parts: positions (T), pixels and validity (C, T, H, W).

    Where the window around the group has no more pixels than its tiles together, it is read as one window.
    """
    scene = source.scenes[int(place_T4[group_G[0], 0])]
    size = int(place_T4[group_G[0], 3])
    corner_G2 = place_T4[group_G, 1:3]
    top, left = corner_G2.min(axis=0).tolist()
    height, width = (np.ptp(corner_G2, axis=0) + size).tolist()
    if height * width > len(group_G) * size**2 or height * width * len(source.bands) > MOST_VALUES:
        for position, (row, col) in zip(group_G, corner_G2.tolist(), strict=True):
            pixels_CHW, valid_CHW = read(source, scene, Window(row, col, size, size))
            yield np.array([position]), pixels_CHW[:, None], valid_CHW[:, None]
        return
    pixels_CHW, valid_CHW = read(source, scene, Window(top, left, height, width))
    pixels_CYXHW = sliding_window_view(pixels_CHW, (size, size), axis=(1, 2))
    valid_CYXHW = sliding_window_view(valid_CHW, (size, size), axis=(1, 2))
    step = max(1, AT_ONCE // (len(source.bands) * size**2))
    for start in range(0, len(group_G), step):
        row_T, col_T = (corner_G2[start : start + step] - (top, left)).T
        yield group_G[start : start + step], pixels_CYXHW[:, row_T, col_T], valid_CYXHW[:, row_T, col_T]


def _load(path: Path, name: str, tiles: int, bands: int, *, with_pixels: bool) -> Survey | None:
    """A stored survey; None where there is none, or where it is damaged."""
    own = tiles * row_type(bands).itemsize
    length = own + tiles * (8 + with_pixels)
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) != length + CHECKSUM_BYTES or not _is_whole(file, length):
                return None
            file.seek(own)
            valid_share_T = np.fromfile(file, np.float64, tiles)
            pixel_valid_T = np.fromfile(file, np.bool_, tiles) if with_pixels else None
            rows = FigureRows(tiles, bands, SharedFile(path.open("rb")))
    except OSError:
        return None
    return Survey(valid_share_T, rows, name, pixel_valid_T)


def _is_whole(file: IO[bytes], length: int) -> bool:
    """Whether the first `length` bytes of a file have the checksum that follows them."""
    file.seek(0)
    found = 0
    for first in range(0, length, COPIED):
        found = zlib.crc32(file.read(min(COPIED, length - first)), found)
    return file.read() == found.to_bytes(CHECKSUM_BYTES, "big")


def _store(path: Path, measured: Survey) -> None:
    """Cache the survey; where the cache cannot be written, it is computed again next time."""
    columns = [measured.valid_share_T, *([] if measured.pixel_valid_T is None else [measured.pixel_valid_T])]
    found = 0
    try:
        with publish_file(path) as temporary, temporary.open("wb") as file:
            for rows in (measured.rows.open(part.start, part.stop) for part in parts_of(len(measured))):
                found = zlib.crc32(rows.tobytes(), found)
                file.write(rows.tobytes())
            for column in columns:
                found = zlib.crc32(column.data, found)
                file.write(column.data)
            file.write(found.to_bytes(CHECKSUM_BYTES, "big"))
    except StorageError:
        return
