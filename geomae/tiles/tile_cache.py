"""Decoded pixels kept on disk, so that files are decoded once for all epochs and trainings (`data.cache`).

A file holds a square of a scene, all bands in physical units on the scene's grid, NaN where invalid, and a checksum.
Its name is a digest of everything that the pixels depend on: the bytes of the scene's files, how they are read, and the
position.

C bands, H W pixels
"""

import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import Source
from geomae.config import Data
from geomae.errors import ConfigError, StorageError
from geomae.files import UNFINISHED, digest, publish_file
from geomae.rasters import Window, read
from geomae.rasters.blocks import Blocks, gather
from geomae.tiles.index import TileIndex

FORMAT = 1  # version of the files and of reading: raise it whenever pixels change
SIDE = 256  # pixels of a square
IDLE_S = 3600  # files not used for this long before a process began may be removed
MOST_MAPS = 16384  # files that are mapped at a time; Linux allows a process 65,530
FRESH_BYTES = 64 * 1024**2  # squares kept in memory once the cache is full
COUNTED_AGAIN = 64  # files are counted again after each 64th of the room, as other processes write, too
HEADER = 256  # most bytes of a file beside its values
SUM = struct.Struct("<Q")

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


class TileCache:
    """Files of squares in a folder, of at most `room` bytes; threads, processes and runs may share it.

    A file is complete or absent; a damaged one counts as absent. When room is needed, files are removed that were not
    used since one hour before this process began. If that is not enough, new squares are not kept: any removed file
    would be needed in the next epoch. Other processes may exceed the room by a 64th each.
    """

    def __init__(self, folder: Path, room: int) -> None:
        self.folder, self.room = folder, room
        self._lock = threading.Lock()
        self._maps: OrderedDict[str, Floats] = OrderedDict()
        self._began = time.time()
        self._left: int | None = None  # bytes, None: not counted yet
        self._recount_at = 0
        self._full = False

    def get(self, name: str) -> Floats | None:
        """A memory-mapped square (C, H, W); None where it is missing or damaged."""
        with self._lock:
            known = self._maps.get(name)
            if known is not None:
                self._maps.move_to_end(name)
                return known
        found = _load(self._path(name), self._began)
        if found is not None:
            with self._lock:
                self._maps[name] = found
                while len(self._maps) > MOST_MAPS:
                    self._maps.popitem(last=False)
        return found

    def put(self, name: str, square_CHW: Floats) -> None:
        """Keep a square where there is room. After an error in writing, nothing more is kept."""
        with self._lock:
            if self._full or not self._make_room(square_CHW.nbytes + HEADER):
                return
        try:
            with publish_file(self._path(name), lasting=False) as temporary, temporary.open("wb") as file:
                np.save(file, square_CHW, allow_pickle=False)
                file.write(SUM.pack(_sum(square_CHW)))
        except StorageError:
            self._full = True

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.npy"

    def _make_room(self, size: int) -> bool:
        """Whether a file of `size` bytes fits, after removing idle files where needed."""
        if self._left is None or self._left < max(size, self._recount_at):
            entries = sorted(self._entries())
            self._left = self.room - sum(entry[1] for entry in entries)
            for used, length, path in entries:
                if self._left >= size or used >= self._began - IDLE_S:
                    break
                path.unlink(missing_ok=True)
                self._left += length
            self._recount_at = self._left - self.room // COUNTED_AGAIN
            self._full = self._left < size
        self._left -= size
        return not self._full

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Time of the last use, bytes and path of each file; unfinished files of killed processes are removed."""
        for path in self.folder.glob("*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process has removed or finished it
                continue
            if not path.name.startswith(UNFINISHED):
                yield status.st_mtime, status.st_size, path
            elif status.st_mtime < self._began - IDLE_S:
                path.unlink(missing_ok=True)


class CachedScenes:
    """The scenes of an index, read through a cache of their squares; any number of threads may share it."""

    def __init__(self, kept: TileCache, index: TileIndex) -> None:
        self._kept, self._index = kept, index
        self._fresh = Blocks(FRESH_BYTES)
        self._names: dict[int, str | None] = {}

    def read(self, scene: int, window: Window) -> tuple[Floats, Bools]:
        """The same values as `rasters.read`."""
        name = self._names[scene] if scene in self._names else self._names.setdefault(scene, self._name(scene))
        if name is None:
            return read(self._index.source, self._index.source.scenes[scene], window)
        start, shape = (window.row, window.col), (window.height, window.width)
        coded_CHW = gather(start, shape, (SIDE, SIDE), lambda row, col: self._square(scene, name, row, col))
        valid_CHW = ~np.isnan(coded_CHW)
        if valid_CHW.all():
            return np.array(coded_CHW), valid_CHW
        return np.where(valid_CHW, coded_CHW, np.float32(0)), valid_CHW

    def _name(self, scene: int) -> str | None:
        """The prefix of the names of a scene's squares; None where the state of its files is unknown."""
        content = self._index.report.content.get(self._index.source.scenes[scene].id)
        return digest([FORMAT, SIDE, content, _reading(self._index.source, scene)]) if content else None

    def _square(self, scene: int, name: str, row: int, col: int) -> Floats:
        own = f"{name}-{row}-{col}"
        found = self._kept.get(own)
        return self._fresh.get(own, partial(self._decode, scene, own, row, col)) if found is None else found

    def _decode(self, scene: int, own: str, row: int, col: int) -> Floats:
        source, grid = self._index.source, self._index.grids[scene]
        assert grid is not None  # tiles lie on it
        top, left = row * SIDE, col * SIDE
        window = Window(top, left, min(SIDE, grid.height - top), min(SIDE, grid.width - left))
        pixels_CHW, valid_CHW = read(source, source.scenes[scene], window)
        coded_CHW = np.where(valid_CHW, pixels_CHW, np.float32("nan"))
        self._kept.put(own, coded_CHW)
        return coded_CHW


def tile_cache(data: Data) -> TileCache | None:
    """The cache that a configuration asks for. Raises ConfigError where its folder cannot be written."""
    return None if data.cache is None else _opened(Path(data.cache).expanduser().absolute(), round(data.cache_gb * 1e9))


def cache_note(data: Data, index: TileIndex) -> list[str]:
    """A note for the user where the scenes of an index need more room than the cache has."""
    if data.cache is None:
        return []
    grids = [index.grids[scene] for scene in sorted(set(index.tiles["scene"].tolist()))]
    pixels = sum(grid.height * grid.width for grid in grids if grid is not None)
    need_gb = 4e-9 * pixels * len(index.source.bands)
    if need_gb <= data.cache_gb:
        return []
    return [
        f"{index.name}: its scenes take {need_gb:.1f} GB decoded, more than the {data.cache_gb:g} of data.cache_gb; "
        "what does not fit is decoded in each epoch"
    ]


@cache
def _opened(folder: Path, room: int) -> TileCache:
    """One cache per folder. Writes nothing, so that a dry run has no effect."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        raise ConfigError(f"data.cache: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"data.cache: {there} cannot be written; check the permissions, or name another folder")
    return TileCache(folder, room)


def _load(path: Path, began: float) -> Floats | None:
    try:
        used = path.stat().st_mtime
        square_CHW: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            file.seek(-SUM.size, os.SEEK_END)
            whole = file.tell() == square_CHW.offset + square_CHW.nbytes  # type: ignore[attr-defined]
            if not whole or file.read() != SUM.pack(_sum(square_CHW)):
                return None
        if used < max(began, time.time() - IDLE_S / 4):
            os.utime(path)
    except (OSError, ValueError, EOFError):
        return None
    return square_CHW


def _sum(square_CHW: Floats) -> int:
    """A checksum: the sum of all 64-bit words (the last may have 32 bits), modulo 2^64."""
    flat = np.ascontiguousarray(square_CHW).reshape(-1)
    words = flat[: len(flat) // 2 * 2].view(np.uint64)
    last = sum(flat[len(words) * 2 :].view(np.uint32).tolist())
    return (int(np.add.reduce(words)) + int(last)) % 2**64


def _reading(source: Source, scene: int) -> list[Any]:
    """How the files of a scene become pixels, apart from their bytes."""
    one = source.scenes[scene]
    numbers = [(band.index, band.path.rsplit("/", 1)[-1]) for band in (*one.bands, *([one.mask] if one.mask else []))]
    nodata, masks = list(source.nodata), [list(source.invalid_bits), list(source.invalid_values)]
    gsd_m = [source.gsd_m, [band.gsd_m for band in source.bands]]
    return [list(source.scale_C), list(source.offset_C), nodata, masks, gsd_m, numbers]
