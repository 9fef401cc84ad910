"""Tiles by position, kept decoded in memory while there is room, so that no file is read twice."""

import itertools
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geomae.rasters import Window, read
from geomae.tiles.index import TileIndex


class TileReader:
    """Reads the tiles of an index; any number of threads may share it.

    `bands` chooses bands of the source by name and fixes their order; by default all in stored order.
    """

    def __init__(self, index: TileIndex, memory_bytes: int = 0, bands: Sequence[str] | None = None) -> None:
        stored = [band.name for band in index.source.bands]
        order = [stored.index(name) for name in bands or stored]
        self.index = index
        self._channels = None if order == list(range(len(stored))) else order
        self.tile_ids: list[str] = index.tiles["tile_id"].tolist()
        self._place = index.tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
        self._kept: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_]]] = {}
        self._room = memory_bytes
        self._lock = threading.Lock()

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

    def many(self, positions: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Tiles of one size, stacked: pixels and validity (B, C, H, W).

        Tiles of one scene that follow each other and fill their common window are read as that window: the bits are
        the same, and most of the work per tile is saved.
        """
        found = []
        for scene, group in itertools.groupby(positions, key=lambda position: int(self._place[position, 0])):
            together = list(group)
            window = self._common(together)
            if self._room or self._kept or window is None:
                found += [self.read(position) for position in together]
                continue
            whole = self._read(scene, window)
            for row, col, size in (self._place[together, 1:] - (window.row, window.col, 0)).tolist():
                part = np.s_[:, row : row + size, col : col + size]
                found.append((whole[0][part], whole[1][part]))
        pixels, valid = zip(*found, strict=True)
        return np.stack(pixels), np.stack(valid)

    def _common(self, positions: Sequence[int]) -> Window | None:
        """The window around tiles of one scene, where it holds no more pixels than they do together."""
        row, col, size = self._place[positions, 1:].T
        top, left = int(row.min()), int(col.min())
        window = Window(top, left, int((row + size).max()) - top, int((col + size).max()) - left)
        return window if window.height * window.width <= int((size * size).sum()) else None

    def _read(self, scene: int, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        source = self.index.source
        pixels, valid = read(source, source.scenes[scene], window)
        return (pixels, valid) if self._channels is None else (pixels[self._channels], valid[self._channels])
