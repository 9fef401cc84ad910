"""Batches: tiles read ahead of the training step by threads, each batch a pure function of its step.

B tiles, C bands, H W pixels, N patches
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.models.masking import random_order, usable_patches, visible_count
from geomae.models.patches import patchify, take
from geomae.randomness import generator
from geomae.tiles.reader import TileReader
from geomae.tiles.sampler import Plan, turn


@dataclass(frozen=True)
class Batch:
    """Tiles of one data set in physical units, with their masks: `order_BN` lists the visible patches first."""

    dataset: int
    tile_ids: tuple[str, ...]
    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    order_BN: Tensor
    visible: int
    hidden_B: Tensor  # number of hidden valid pixels of each tile, over all bands; stays on the host

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; from pinned memory the copy runs beside the computation."""
        return self if device.type == "cpu" else self._each(lambda values: values.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in memory from which a GPU copies by itself."""
        return self._each(Tensor.pin_memory)

    def split(self, parts: int) -> list["Batch"]:
        """The batch in `parts` equal passes."""
        size = len(self.tile_ids) // parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
        part = ((cut, self._each(lambda values, cut=cut: values[cut])) for cut in cuts)  # type: ignore[misc]
        return [replace(one, tile_ids=self.tile_ids[cut], hidden_B=self.hidden_B[cut]) for cut, one in part]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        arrays = (self.pixels_BCHW, self.valid_BCHW, self.order_BN)
        pixels_BCHW, valid_BCHW, order_BN = (change(values) for values in arrays)
        return replace(self, pixels_BCHW=pixels_BCHW, valid_BCHW=valid_BCHW, order_BN=order_BN)


@dataclass(frozen=True)
class Draw:
    """How tiles are masked and turned."""

    seed: int
    patch: int
    ratio: float
    min_valid_patch: float
    flips: bool


def training_batch(readers: Sequence[TileReader], order: Plan, draw: Draw, step: int, rank: int, ranks: int) -> Batch:
    """The share of `step`'s tiles that belongs to `rank`; all ranks together see what one rank alone would."""
    dataset, tiles = order.tiles(step)
    share = len(tiles) // ranks
    reader, items, ids = readers[dataset], [], []
    for k, position in tiles[rank * share : (rank + 1) * share]:
        which = int(generator(draw.seed, "turn", dataset, k).integers(8)) if draw.flips else 0
        pixels, valid = (turn(values, which) for values in reader.read(position))
        items.append((pixels, valid, _order(valid, draw, generator(draw.seed, "mask", dataset, k))))
        ids.append(reader.tile_ids[position])
    return _stack(dataset, ids, items, draw)


def fixed_batches(
    reader: TileReader, dataset: int, positions: Sequence[int], draw: Draw, size: int, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[Batch, bool]]:
    """This rank's share of the tiles, unturned, each under a mask that depends on the seed and the tile alone.

    Every rank gets as many batches as the others, because some strategies talk in every forward pass; where the tiles
    do not suffice, a batch is repeated and marked false.
    """
    chunks = [positions[start : start + size] for start in range(0, len(positions), size)]
    for turn_of_all in range(-(-len(chunks) // ranks)):
        number = turn_of_all * ranks + rank
        counted = number < len(chunks)
        items, ids = [], []
        for position in chunks[number if counted else 0]:
            pixels, valid = reader.read(position)
            tile_id = reader.tile_ids[position]
            items.append((pixels, valid, _order(valid, draw, generator(draw.seed, "validation mask", tile_id))))
            ids.append(tile_id)
        yield _stack(dataset, ids, items, draw), counted


def read_ahead(
    readers: Sequence[TileReader], order: Plan, draw: Draw, steps: range, rank: int, ranks: int, threads: int, pin: bool
) -> Iterator[Batch]:
    """The batches of `steps` in turn, made by `threads` threads ahead of their use (0: when asked for)."""

    def make(step: int) -> Batch:
        batch = training_batch(readers, order, draw, step, rank, ranks)
        return batch.pinned() if pin else batch

    if threads == 0:
        yield from map(make, steps)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(make, step))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _order(valid_CHW: NDArray[np.bool_], draw: Draw, rng: np.random.Generator) -> NDArray[np.int64]:
    usable = usable_patches(valid_CHW, draw.patch, draw.min_valid_patch)
    return random_order(usable, visible_count(len(usable), draw.ratio), rng)


def _stack(dataset: int, ids: list[str], items: Sequence[tuple[NDArray[Any], ...]], draw: Draw) -> Batch:
    pixels, valid, order = (torch.from_numpy(np.stack(column)) for column in zip(*items, strict=True))
    visible = visible_count(order.shape[1], draw.ratio)
    if bool(valid.all()):  # most batches: nothing to count
        hidden_B = torch.full((len(ids),), (order.shape[1] - visible) * draw.patch**2 * valid.shape[1])
    else:
        hidden_B = take(patchify(valid, draw.patch), order[:, visible:]).sum((1, 2, 3))
    return Batch(dataset, tuple(ids), pixels, valid, order, visible, hidden_B)
