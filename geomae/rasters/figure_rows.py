"""Figures of many tiles in a file that is mapped piece by piece, so that memory does not grow with them.

C bands, T tiles
"""

import mmap
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from geomae.files import cache_folder

Array = npt.NDArray[Any]
Whole = npt.NDArray[np.int64]
FIGURES = {"count": np.int32, "mean": np.float64, "squares": np.float64, "low": np.float32, "high": np.float32}
AT_ONCE = 1 << 14  # tiles whose figures are in memory at once
ZEROS = bytes(1 << 20)


def row_type(bands: int) -> np.dtype[Any]:
    """The row of a tile: count, mean, squares, least and largest value (see `moments`) of each band."""
    return np.dtype([(name, kind, (bands,)) for name, kind in FIGURES.items()])


def as_rows(figures: Sequence[Array] | Array) -> Array:
    """Rows from count, mean, squares, least and largest value, each (T, C)."""
    rows = np.empty(len(figures[0]), dtype=row_type(figures[0].shape[1]))
    for name, values in zip(FIGURES, figures, strict=True):
        rows[name] = values
    return rows


class SharedFile:
    """An open file, which is closed with the last rows that lie in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        weakref.finalize(self, file.close)


class FigureRows:
    """The rows of T tiles in a part of a file, which threads may read and write; in memory where `shared` is None.

    Only rows that `open` returned are resident: the system writes the others to the file, or keeps them in its cache.
    """

    def __init__(self, tiles: int, bands: int, shared: SharedFile | None = None, start: int = 0) -> None:
        """Rows that begin at byte `start` of a file. One that is open for reading gives rows that cannot be written."""
        self.tiles, self.bands, self.start = tiles, bands, start
        self._shared = shared
        self._held = np.zeros(tiles if shared is None else 0, dtype=row_type(bands))

    def open(self, first: int = 0, stop: int | None = None) -> Array:
        """The rows `first` to `stop` as a structured array, with fields (T, C); let go of it to unmap them."""
        stop = self.tiles if stop is None else stop
        if self._shared is None or stop <= first:
            return self._held[first:stop]
        kind = row_type(self.bands)
        begin = self.start + first * kind.itemsize
        aligned = begin - begin % mmap.ALLOCATIONGRANULARITY
        file = self._shared.file
        access = mmap.ACCESS_WRITE if file.writable() else mmap.ACCESS_READ
        length = begin - aligned + (stop - first) * kind.itemsize
        mapped = mmap.mmap(file.fileno(), length, access=access, offset=aligned)
        return np.ndarray((stop - first,), kind, buffer=mapped, offset=begin - aligned)

    def take(self, tile_U: Whole) -> Array:
        """A copy of the rows of some tiles."""
        if not len(tile_U):
            return np.zeros(0, dtype=row_type(self.bands))
        first = int(tile_U.min())
        rows: Array = self.open(first, int(tile_U.max()) + 1)[tile_U - first]
        return rows

    def put(self, tile_U: Whole, rows_U: Array) -> None:
        """Replace the rows of some tiles."""
        if not len(tile_U):
            return
        first = int(tile_U.min())
        self.open(first, int(tile_U.max()) + 1)[tile_U - first] = rows_U


class Scratch:
    """A file without a name in which room for rows is reserved; it is gone with the last rows that lie in it.

    It lies in the cache folder, else in the system's temporary folder; where neither has room, rows are in memory.
    """

    def __init__(self) -> None:
        self._shared: SharedFile | None = None
        self._end = 0
        self._lock = threading.Lock()

    def reserve(self, tiles: int, bands: int) -> FigureRows:
        """Rows of zeros. Their bytes are written at once, because a full disk would later end the process."""
        size = tiles * row_type(bands).itemsize
        with self._lock:
            try:
                if self._shared is None:
                    self._shared = SharedFile(_unnamed())
                file = self._shared.file
                file.seek(self._end)
                for first in range(0, size, len(ZEROS)):
                    file.write(ZEROS[: size - first])
                file.flush()
            except OSError:
                return FigureRows(tiles, bands)
            start, self._end = self._end, self._end + size
            return FigureRows(tiles, bands, self._shared, start)


def _unnamed() -> IO[bytes]:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()


def parts_of(tiles: int, at_once: int = AT_ONCE) -> Iterator[slice]:
    """Slices of so many tiles that their figures may be in memory at once."""
    return (slice(first, min(first + at_once, tiles)) for first in range(0, tiles, at_once))
