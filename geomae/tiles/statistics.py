"""One reading of all tiles: how much of each is valid, and the moments from which every statistic is merged.

T tiles, C bands
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import Source
from geomae.errors import StorageError
from geomae.files import cache_folder, digest, publish_file
from geomae.rasters import Window, read

FORMAT = 1
_ARRAYS = ("valid_share_T", "count_TC", "mean_TC", "squares_TC", "min_TC", "max_TC")


def merge_moments(
    count_TC: NDArray[np.int64], mean_TC: NDArray[np.float64], squares_TC: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, mean and variance (C,) over T parts, of which the count, the mean and the squares about it are known.

    They are merged as Chan et al. 1983 do, which loses no digits where the mean is far from zero. Where nothing was
    counted the mean and the variance are 0.
    """
    count_C = count_TC.sum(0)
    safe_C = np.maximum(count_C, 1)
    mean_C = (count_TC * mean_TC).sum(0) / safe_C
    between_C = (count_TC * (mean_TC - mean_C) ** 2).sum(0)
    return count_C, mean_C, (squares_TC.sum(0) + between_C) / safe_C


@dataclass(frozen=True)
class Statistics:
    """Per band over valid pixels, in physical units; `digest` names the content it was computed from.

    A band without any has a count of 0, and other figures that mean nothing.
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
    """What was measured on every tile: the share of valid pixels, and per band count, mean, squares, minimum, maximum.

    Moments of single tiles can be merged for any choice of tiles, so that one reading serves every split.
    """

    valid_share_T: NDArray[np.float64]
    count_TC: NDArray[np.int64]
    mean_TC: NDArray[np.float64]
    squares_TC: NDArray[np.float64]
    min_TC: NDArray[np.float64]
    max_TC: NDArray[np.float64]
    digest: str

    def take(self, positions: NDArray[np.int64]) -> "Survey":
        """The survey of a choice of tiles."""
        return replace(self, **{name: getattr(self, name)[positions] for name in _ARRAYS})

    def statistics(self, bands: Sequence[str], positions: NDArray[np.int64]) -> Statistics:
        """Statistics over the valid pixels of some tiles; tiles that overlap count as often as training sees them."""
        count_C, mean_C, variance_C = merge_moments(
            self.count_TC[positions], self.mean_TC[positions], self.squares_TC[positions]
        )
        low_C, high_C = self.min_TC[positions].min(0), self.max_TC[positions].max(0)
        name = digest([self.digest, list(bands), np.sort(positions)])
        return Statistics(tuple(bands), count_C, mean_C, np.sqrt(variance_C), low_C, high_C, name)


def survey(
    source: Source,
    place_T4: NDArray[np.int64],
    content: str,
    threads: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Survey:
    """Measure the tiles (scene, row, col, size) of `place_T4`; kept under `content`, the digest of what is read."""
    name = digest([FORMAT, content, place_T4])
    kept = cache_folder() / "survey" / f"{name}.npz"
    stored = _load(kept, name)
    if stored is not None and len(stored.valid_share_T) == len(place_T4):
        return stored

    def measure(row: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
        scene, top, left, size = (int(value) for value in row)
        return _moments(*read(source, source.scenes[scene], Window(top, left, size, size)))

    rows = []
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for done, row in enumerate(pool.map(measure, place_T4), 1):
            rows.append(row)
            progress(done)
    share, *columns = (np.stack(values) for values in zip(*rows, strict=True))
    columns[0] = columns[0].astype(np.int64)
    measured = Survey(**dict(zip(_ARRAYS, (share, *columns), strict=True)), digest=name)
    _store(kept, measured)
    return measured


def _moments(pixels_CHW: NDArray[np.float32], valid_CHW: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Valid share, and per band count, mean, sum of squares about it, minimum and maximum (infinite where empty)."""
    flat, ok = pixels_CHW.reshape(len(pixels_CHW), -1).astype(np.float64), valid_CHW.reshape(len(valid_CHW), -1)
    count = ok.sum(1).astype(np.float64)
    mean = np.where(ok, flat, 0).sum(1) / np.maximum(count, 1)
    squares = np.where(ok, (flat - mean[:, None]) ** 2, 0).sum(1)
    low, high = np.where(ok, flat, np.inf).min(1), np.where(ok, flat, -np.inf).max(1)
    return np.asarray(ok.mean()), count, mean, squares, low, high


def _load(path: Path, name: str) -> Survey | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Survey(**{array: stored[array] for array in _ARRAYS}, digest=name)
    except (OSError, ValueError, KeyError):
        return None


def _store(path: Path, measured: Survey) -> None:
    """Keep the survey; a cache that cannot be written costs time later and nothing else."""
    try:
        with publish_file(path) as temporary:
            np.savez(temporary, **{name: getattr(measured, name) for name in _ARRAYS})
    except StorageError:
        return
