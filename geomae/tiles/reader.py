"""Reads tiles and other windows of a data set, with several threads in advance.

C bands, H W pixels
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from geomae.rasters import Window, read
from geomae.tiles.draw_groups import DrawGroups, draw_groups
from geomae.tiles.ground import TrainingGround
from geomae.tiles.index import TileIndex
from geomae.tiles.tile_cache import CachedScenes, TileCache
from geomae.tiles.views import Frame, frame_of

SPARSE = 4  # largest ratio of the area around a scene's tiles to the area of the tiles for which it is kept whole

Job = TypeVar("Job")
Made = TypeVar("Made")


def ahead(make: Callable[[Job], Made], jobs: Iterable[Job], threads: int) -> Iterator[Made]:
    """The results of `make` for each job, in order, computed in advance by `threads` threads (0: on demand)."""
    if threads == 0:
        yield from map(make, jobs)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(make, job))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def runs_of_one_size(side_T: NDArray[np.int64], rows: range, most: Callable[[int], int]) -> Iterator[range]:
    """Consecutive parts of `rows` whose tiles have one side; a part has at most `most(side)` tiles."""
    start = rows.start
    while start < rows.stop:
        stop, side = start + 1, int(side_T[start])
        while stop < min(rows.stop, start + max(most(side), 1)) and side_T[stop] == side:
            stop += 1
        yield range(start, stop)
        start = stop


class TileReader:
    """Reads the tiles of an index; any number of threads may share it.

    `bands` chooses bands of the source by name and fixes their order; by default all in stored order. Where the index
    has a radiometry, they are the bands that it returns. With a `cache`, files are decoded only where it does not hold
    their pixels.
    """

    def __init__(
        self,
        index: TileIndex,
        memory_bytes: int = 0,
        bands: Sequence[str] | None = None,
        cache: TileCache | None = None,
    ) -> None:
        stored = [band.name for band in index.source.bands]
        self._mapped = index.radiometry
        self._taken = [stored.index(name) for name in self._mapped.taken] if self._mapped else []
        offered = list(self._mapped.bands) if self._mapped else stored
        order = [offered.index(name) for name in bands or offered]
        self.index = index
        self.bands = tuple(offered[place] for place in order)
        self._channels = None if order == list(range(len(offered))) else order
        self.tile_ids: list[str] = index.tiles["tile_id"].tolist()
        self._cached = None if cache is None else CachedScenes(cache, index)
        self._place = index.tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
        self._kept: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_]]] = {}
        self._room = memory_bytes
        self._lock = threading.Lock()
        self._scenes: dict[int, tuple[int, int, NDArray[np.float32], NDArray[np.bool_]]] = {}

    def __len__(self) -> int:
        return len(self.tile_ids)

    def read(self, position: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Pixels (C, H, W) in physical units and their validity. The arrays are shared: do not write to them."""
        kept = self._kept.get(position)
        if kept is not None:
            return kept
        scene, row, col, size = (int(value) for value in self._place[position])
        pixels, valid = self._read(scene, Window(row, col, size, size))
        with self._lock:
            used = pixels.nbytes + valid.nbytes
            if position not in self._kept and used <= self._room:
                self._room -= used
                self._kept[position] = (pixels, valid)
        return pixels, valid

    @property
    def side_T(self) -> NDArray[np.int64]:
        """The side of each tile in pixels."""
        return self._place[:, 3]

    @cached_property
    def ground(self) -> TrainingGround:
        """The area that the tiles of the index cover."""
        return TrainingGround(self.index)

    @cached_property
    def groups(self) -> DrawGroups | None:
        """Groups of tiles that are drawn close together; None where that would not save decoding."""
        return draw_groups(self.index)

    @cached_property
    def ground_of_groups(self) -> TrainingGround:
        """The area that the tiles of each group cover; only where there are groups."""
        assert self.groups is not None
        return TrainingGround(self.index, self.groups.group_T)

    def frame(self, position: int) -> Frame:
        """Where a tile lies."""
        scene, row, col, size = (int(value) for value in self._place[position])
        return frame_of(scene, Window(row, col, size, size))

    def window(self, scene: int, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Pixels and validity of any window, as in `read`. Scenes are kept in memory where there is room."""
        kept = self._scenes.get(scene) or self._keep(scene)
        if kept is None:
            return self._read(scene, window)
        top, left, pixels, valid = kept
        row, col = window.row - top, window.col - left
        part = np.s_[:, row : row + window.height, col : col + window.width]
        return pixels[part], valid[part]

    def _keep(self, scene: int) -> tuple[int, int, NDArray[np.float32], NDArray[np.bool_]] | None:
        """The rectangle around a scene's tiles, read once; None without room, or where tiles cover little of it."""
        of_scene = self._place[self._place[:, 0] == scene, 1:]
        (row, col), (bottom, right) = of_scene[:, :2].min(0), (of_scene[:, :2] + of_scene[:, 2:]).max(0)
        bands = len(self.bands)
        used = int(bottom - row) * int(right - col) * bands * 5  # float32 and validity
        if used > self._room or (bottom - row) * (right - col) > SPARSE * (of_scene[:, 2] ** 2).sum():
            return None
        pixels, valid = self._read(scene, Window(int(row), int(col), int(bottom - row), int(right - col)))
        with self._lock:
            if scene not in self._scenes:
                self._room -= used
                self._scenes[scene] = (int(row), int(col), pixels, valid)
        return self._scenes[scene]

    def many(self, positions: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Tiles of one size, stacked: pixels and validity (B, C, H, W).

        Consecutive tiles of one scene that fill their bounding window are read as one window: the values are the same,
        and most of the work per tile is saved.
        """
        tiles = []
        for scene, group in itertools.groupby(positions, key=lambda position: int(self._place[position, 0])):
            together = list(group)
            window = self._bounding_window(together)
            if self._room or self._kept or window is None:
                tiles += [self.read(position) for position in together]
                continue
            whole = self._read(scene, window)
            for row, col, size in (self._place[together, 1:] - (window.row, window.col, 0)).tolist():
                part = np.s_[:, row : row + size, col : col + size]
                tiles.append((whole[0][part], whole[1][part]))
        pixels, valid = zip(*tiles, strict=True)
        return np.stack(pixels), np.stack(valid)

    def _bounding_window(self, positions: Sequence[int]) -> Window | None:
        """The bounding window of tiles of one scene; None where it holds more pixels than the tiles together."""
        row, col, size = self._place[positions, 1:].T
        top, left = int(row.min()), int(col.min())
        window = Window(top, left, int((row + size).max()) - top, int((col + size).max()) - left)
        return window if window.height * window.width <= int((size * size).sum()) else None

    def _read(self, scene: int, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        source = self.index.source
        if self._cached is not None:
            pixels, valid = self._cached.read(scene, window)
        else:
            pixels, valid = read(source, source.scenes[scene], window)
        if self._mapped is not None:
            pixels, valid = self._mapped.apply(pixels[self._taken], valid[self._taken])
        return (pixels, valid) if self._channels is None else (pixels[self._channels], valid[self._channels])
