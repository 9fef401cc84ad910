"""Batches: tiles read ahead of the training step by threads, each batch a pure function of its step.

B tiles, C bands, H W pixels, N patches
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geomae.models.masking import random_order, usable_patches, visible_count
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

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; from pinned memory the copy runs beside the computation."""
        if device.type == "cpu":
            return self
        moved = (x.to(device, non_blocking=True) for x in (self.pixels_BCHW, self.valid_BCHW, self.order_BN))
        return Batch(self.dataset, self.tile_ids, *moved, self.visible)

    def split(self, parts: int) -> list["Batch"]:
        """The batch in `parts` equal passes."""
        size = len(self.tile_ids) // parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
        return [
            Batch(self.dataset, self.tile_ids[c], self.pixels_BCHW[c], self.valid_BCHW[c], self.order_BN[c], self.visible)
            for c in cuts
        ]


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
    return _stack(dataset, ids, items, draw.ratio)


def fixed_batches(
    reader: TileReader, dataset: int, positions: Sequence[int], draw: Draw, size: int
) -> Iterator[Batch]:
    """Tiles as they are, each under a mask that depends on the seed and the tile alone."""
    for start in range(0, len(positions), size):
        items, ids = [], []
        for position in positions[start : start + size]:
            pixels, valid = reader.read(position)
            tile_id = reader.tile_ids[position]
            items.append((pixels, valid, _order(valid, draw, generator(draw.seed, "validation mask", tile_id))))
            ids.append(tile_id)
        yield _stack(dataset, ids, items, draw.ratio)


def read_ahead(
    readers: Sequence[TileReader], order: Plan, draw: Draw, steps: range, rank: int, ranks: int, threads: int, pin: bool
) -> Iterator[Batch]:
    """The batches of `steps` in turn, made by `threads` threads ahead of their use (0: when asked for)."""

    def make(step: int) -> Batch:
        batch = training_batch(readers, order, draw, step, rank, ranks)
        if not pin:
            return batch
        pinned = (x.pin_memory() for x in (batch.pixels_BCHW, batch.valid_BCHW, batch.order_BN))
        return Batch(batch.dataset, batch.tile_ids, *pinned, batch.visible)

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


def _order(valid_CHW: np.ndarray, draw: Draw, rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    usable = usable_patches(valid_CHW, draw.patch, draw.min_valid_patch)
    return random_order(usable, visible_count(len(usable), draw.ratio), rng)


def _stack(dataset: int, ids: list[str], items: list[tuple[np.ndarray, ...]], ratio: float) -> Batch:  # type: ignore[type-arg]
    pixels, valid, order = (torch.from_numpy(np.stack(column)) for column in zip(*items, strict=True))
    return Batch(dataset, tuple(ids), pixels, valid, order, visible_count(order.shape[1], ratio))
