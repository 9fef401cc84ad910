"""A cache of decoded blocks of files and chunks of cubes, shared by all threads of a process.

C bands, H W pixels of a window
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BLOCKS_BYTES = 512 * 1024**2  # size of the cache: blocks that training draws from at a time, and their neighbours
LARGEST_BLOCK = BLOCKS_BYTES // 8  # larger blocks are not cached


class Blocks:
    """Decoded blocks, the least recently used first. It is thread-safe; blocks must not be written to."""

    def __init__(self, room: int = BLOCKS_BYTES) -> None:
        self.room = room
        self.size = 0
        self.decoded = 0  # blocks, since the process began
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, Array] = OrderedDict()
        self._awaited: dict[Hashable, Future[Array]] = {}

    def get(self, key: Hashable, decode: Callable[[], Array]) -> Array:
        """The block `key`, decoded by `decode` where it is not cached. Each block is decoded by one thread only.

        Errors of `decode` are raised in every thread that waits for the block.
        """
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found
            awaited = self._awaited.get(key)
            mine = self._awaited.setdefault(key, Future())
        if awaited is not None:
            return awaited.result()
        try:
            block = decode()
        except BaseException as error:
            with self._lock:
                del self._awaited[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._awaited[key]
            self._keep(key, block)
        mine.set_result(block)
        return block

    def _keep(self, key: Hashable, block: Array) -> None:
        """Add a block, and drop the least recently used ones."""
        self.decoded += 1
        self._entries[key] = block
        self.size += block.nbytes
        while self.size > self.room:
            self.size -= self._entries.popitem(last=False)[1].nbytes


_SHARED = Blocks()


def shared_blocks() -> Blocks:
    """The blocks of this process."""
    return _SHARED


def _after_fork() -> None:
    global _SHARED
    _SHARED = Blocks()  # a thread of the parent may have held the lock at the fork


os.register_at_fork(after_in_child=_after_fork)


def gather(
    start_2: tuple[int, int], shape_2: tuple[int, int], block_2: tuple[int, int], block_at: Callable[[int, int], Array]
) -> Array:
    """Assemble a window (C, H, W), given by its first pixel and its shape, from blocks (C, h, w).

    `block_at` returns a block by its row and column among the blocks. A window within one block is a view of it.
    """
    (top, left), (height, width), (rows, cols) = start_2, shape_2, block_2
    met = [
        (row, col)
        for row in range(top // rows, -(-(top + height) // rows))
        for col in range(left // cols, -(-(left + width) // cols))
    ]
    window_CHW: Array | None = None
    for row, col in met:
        block_Chw = block_at(row, col)
        first_row, first_col = max(top, row * rows), max(left, col * cols)
        last_row, last_col = min(top + height, (row + 1) * rows), min(left + width, (col + 1) * cols)
        part_Chw = block_Chw[
            :, first_row - row * rows : last_row - row * rows, first_col - col * cols : last_col - col * cols
        ]
        if len(met) == 1:
            return part_Chw
        if window_CHW is None:
            window_CHW = np.empty((len(block_Chw), height, width), dtype=block_Chw.dtype)
        window_CHW[:, first_row - top : last_row - top, first_col - left : last_col - left] = part_Chw
    assert window_CHW is not None  # a window has pixels
    return window_CHW
