"""Reads all tiles once: the valid share of each, and the moments from which statistics are computed.

T tiles, C bands
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from geomae.catalog import Source
from geomae.errors import StorageError
from geomae.files import cache_folder, digest, publish_file
from geomae.rasters import Window, read
from geomae.rasters.tile_moments import TYPES, MeasuredTiles, moments
from geomae.rasters.work_share import ALONE, WorkShare

FORMAT = 3
_ARRAYS = ("valid_share_T", "count_TC", "mean_TC", "squares_TC", "min_TC", "max_TC")
PIXELS = "pixel_valid_T"
BLOCK = 512  # pixels: tiles whose corners lie in one block of a scene are read together
MOST_VALUES = 1 << 24  # values that are read at once
AT_ONCE = 1 << 20  # values whose moments are computed at once
Whole = NDArray[np.int64]


def merge_moments(
    count_TC: NDArray[np.integer[Any]], mean_TC: NDArray[np.float64], squares_TC: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, mean and variance (C,) over T parts, from their counts, means and sums of squared deviations.

    The formulas of Chan et al. 1983 stay accurate where the mean is far from zero. Mean and variance are 0 where the
    count is 0.
    """
    count_C = count_TC.sum(0)
    safe_C = np.maximum(count_C, 1)
    mean_C = (count_TC * mean_TC).sum(0) / safe_C
    between_C = (count_TC * (mean_TC - mean_C) ** 2).sum(0)
    return count_C, mean_C, (squares_TC.sum(0) + between_C) / safe_C


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

    Moments of single tiles can be merged for any subset, so that reading once is enough for all splits. `pixel_valid_T`
    says whether the pixel at the point of each tile is valid; None for tiles without points.
    """

    valid_share_T: NDArray[np.float64]
    count_TC: NDArray[np.int32]
    mean_TC: NDArray[np.float64]
    squares_TC: NDArray[np.float64]
    min_TC: NDArray[np.float32]
    max_TC: NDArray[np.float32]
    digest: str
    pixel_valid_T: NDArray[np.bool_] | None = None

    @classmethod
    def empty(cls, tiles: int, bands: int, name: str, *, with_pixels: bool) -> "Survey":
        """A survey of zeros, to be filled in."""
        count_TC, mean_TC, squares_TC, min_TC, max_TC = (np.zeros((tiles, bands), dtype=dtype) for dtype in TYPES)
        pixel_valid_T = np.zeros(tiles, dtype=bool) if with_pixels else None
        return cls(np.zeros(tiles), count_TC, mean_TC, squares_TC, min_TC, max_TC, name, pixel_valid_T)

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """The figures of the tiles, in the order of the fields."""
        return [getattr(self, name) for name in _ARRAYS]

    def take(self, positions: Whole) -> "Survey":
        """The survey of a subset of the tiles."""
        pixel_valid_T = None if self.pixel_valid_T is None else self.pixel_valid_T[positions]
        figures = {name: getattr(self, name)[positions] for name in _ARRAYS}
        return replace(self, **figures, pixel_valid_T=pixel_valid_T)

    def statistics(self, bands: Sequence[str], positions: Whole) -> Statistics:
        """Statistics over the valid pixels of some tiles; pixels in several tiles count for each, as in training."""
        count_C, mean_C, variance_C = merge_moments(
            self.count_TC[positions], self.mean_TC[positions], self.squares_TC[positions]
        )
        low_C = self.min_TC[positions].min(0).astype(np.float64)
        high_C = self.max_TC[positions].max(0).astype(np.float64)
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
    name = digest([FORMAT, content, *(sha256(one.tobytes()).hexdigest() for one in places)])
    kept = cache_folder() / "survey" / f"{name}.npz"
    stored = _load(kept, name)
    if all(share.exchange(stored is not None and len(stored.valid_share_T) == len(place_T4))) and stored is not None:
        return stored
    measured = Survey.empty(len(place_T4), len(source.bands), name, with_pixels=pixel_T2 is not None)

    def measure(group_G: Whole) -> int:
        for here, pixels_CTHW, valid_CTHW in read_together(source, place_T4, group_G):
            for figures, values in zip(measured.arrays, moments(pixels_CTHW, valid_CTHW), strict=True):
                figures[here] = values
            if pixel_T2 is not None and measured.pixel_valid_T is not None:
                row_T, col_T = (pixel_T2[here] - place_T4[here, 1:3]).T
                measured.pixel_valid_T[here] = valid_CTHW[:, np.arange(len(here)), row_T, col_T].any(axis=0)
        return len(group_G)

    todo_T = np.ones(len(place_T4), dtype=bool)
    for position, place in enumerate(map(tuple, place_T4.tolist()) if whole else ()):
        if place in whole:
            figures = whole[place]
            measured.valid_share_T[position] = figures[0].sum() / (figures.shape[1] * place[3] ** 2)
            for array, values in zip(measured.arrays[1:], figures, strict=True):
                array[position] = values
            todo_T[position] = False
    if known is not None:
        todo_T[_fill_in(measured, source, place_T4, known, share)] = False
    done = len(place_T4) - int(todo_T.sum())
    groups = share.own(neighbours(place_T4, np.flatnonzero(todo_T)))
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for count in pool.map(measure, groups):
            done = min(done + count * share.ranks, len(place_T4))
            progress(done)
    if share.ranks > 1:
        own_U = np.concatenate(groups) if groups else np.zeros(0, dtype=np.int64)
        columns = [*measured.arrays, *([] if measured.pixel_valid_T is None else [measured.pixel_valid_T])]
        _exchange(columns, own_U, share)
    if share.leads:
        _store(kept, measured)
    return measured


def _fill_in(measured: Survey, source: Source, place_T4: Whole, known: MeasuredTiles, share: WorkShare) -> Whole:
    """Fill in the moments that some process has, scene by scene; which tiles these are."""
    filled = [np.zeros(0, dtype=np.int64)]
    order_T = np.argsort(place_T4[:, 0], kind="stable")
    bounds = np.searchsorted(place_T4[order_T, 0], np.arange(len(source.scenes) + 1)).tolist()
    for scene, (first, last) in zip(source.scenes, pairwise(bounds), strict=True):
        here_U = order_T[first:last]
        figures = known.take(scene.id, place_T4[here_U, 1:3], len(source.bands))
        if figures is None:
            continue
        for array, values in zip(measured.arrays[1:], figures, strict=True):
            array[here_U] = values
        pixels_U = len(source.bands) * place_T4[here_U, 3] ** 2
        measured.valid_share_T[here_U] = figures[0].sum(axis=1) / pixels_U
        filled.append(here_U)
    return _exchange(measured.arrays, np.concatenate(filled), share)


def _exchange(columns: Sequence[NDArray[Any]], own_U: Whole, share: WorkShare) -> Whole:
    """Fill in what the other processes measured, where this one measured the tiles `own_U`; the tiles of all."""
    if share.ranks == 1:
        return own_U
    every = share.exchange((own_U, [one[own_U] for one in columns]))
    for there_U, figures in every:
        for column, values in zip(columns, figures, strict=True):
            column[there_U] = values
    return np.concatenate([there_U for there_U, _ in every])


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


def _load(path: Path, name: str) -> Survey | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            pixels = stored.get(PIXELS)
            return Survey(**{array: stored[array] for array in _ARRAYS}, digest=name, pixel_valid_T=pixels)
    except (OSError, ValueError, KeyError):
        return None


def _store(path: Path, measured: Survey) -> None:
    """Cache the survey; where the cache cannot be written, it is computed again next time."""
    arrays: dict[str, Any] = dict(zip(_ARRAYS, measured.arrays, strict=True))
    if measured.pixel_valid_T is not None:
        arrays[PIXELS] = measured.pixel_valid_T
    try:
        with publish_file(path) as temporary:
            np.savez(temporary, **arrays)
    except StorageError:
        return
