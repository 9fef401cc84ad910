"""Batches: tiles read ahead of the training step by threads, each batch a pure function of its step.

B tiles, C bands, H W pixels, N patches, X tokens of a tile (one per patch and group of bands)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.models.masking import MaskRules, draw_mask, usable_patches, visible_tokens
from geomae.models.patches import patchify
from geomae.models.visibility import scored_pixels
from geomae.randomness import generator
from geomae.tiles.ahead import ahead
from geomae.tiles.reader import TileReader
from geomae.tiles.sampler import Plan, turn


@dataclass(frozen=True)
class Batch:
    """Tiles of one data set in physical units, with their masks: `order_BX` lists the visible tokens first.

    `shown_BC` tells which bands the encoder gets (None: all); only the first `predicted` hidden patches count (None:
    all).
    """

    dataset: int
    tile_ids: tuple[str, ...]
    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    order_BX: Tensor
    visible: int
    hidden_B: Tensor  # number of scored pixels of each tile, over all bands; stays on the host
    shown_BC: Tensor | None = None
    predicted: int | None = None

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
        names = ("pixels_BCHW", "valid_BCHW", "order_BX", "shown_BC")
        arrays = {name: getattr(self, name) for name in names}
        changed: dict[str, Any] = {name: change(values) for name, values in arrays.items() if values is not None}
        return replace(self, **changed)


@dataclass(frozen=True)
class Draw:
    """How tiles are masked and turned."""

    seed: int
    patch: int
    rules: MaskRules
    min_valid_patch: float
    flips: bool
    predict: float = 1.0  # share of the hidden patches that is predicted

    def still(self) -> "Draw":
        """For validation: no band is dropped, and every hidden patch is predicted."""
        return replace(self, rules=replace(self.rules, band_dropout=0.0, shuffled=False), predict=1.0)


def training_batch(readers: Sequence[TileReader], order: Plan, draw: Draw, step: int, rank: int, ranks: int) -> Batch:
    """The share of `step`'s tiles that belongs to `rank`; all ranks together see what one rank alone would."""
    dataset, tiles = order.tiles(step)
    share = len(tiles) // ranks
    reader, items, ids = readers[dataset], [], []
    for k, position in tiles[rank * share : (rank + 1) * share]:
        which = int(generator(draw.seed, "turn", dataset, k).integers(8)) if draw.flips else 0
        pixels, valid = (turn(values, which) for values in reader.read(position))
        items.append((pixels, valid, *_mask(valid, draw, generator(draw.seed, "mask", dataset, k))))
        ids.append(reader.tile_ids[position])
    return _stack(dataset, ids, items, draw)


def fixed_batches(
    reader: TileReader, dataset: int, positions: Sequence[int], draw: Draw, size: int, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[Batch, bool]]:
    """This rank's share of the tiles, unturned, each under a mask that depends on the seed and the tile alone.

    Every rank gets as many batches as the others, because some strategies talk in every forward pass; where the tiles
    do not suffice, a batch is repeated and marked false.
    """
    draw = draw.still()
    chunks = [positions[start : start + size] for start in range(0, len(positions), size)]
    for turn_of_all in range(-(-len(chunks) // ranks)):
        number = turn_of_all * ranks + rank
        counted = number < len(chunks)
        items, ids = [], []
        for position in chunks[number if counted else 0]:
            pixels, valid = reader.read(position)
            tile_id = reader.tile_ids[position]
            items.append((pixels, valid, *_mask(valid, draw, generator(draw.seed, "validation mask", tile_id))))
            ids.append(tile_id)
        yield _stack(dataset, ids, items, draw), counted


def read_ahead(
    readers: Sequence[TileReader], order: Plan, draw: Draw, steps: range, rank: int, ranks: int, threads: int, pin: bool
) -> Iterator[Batch]:
    """The batches of `steps` in turn, made by `threads` threads ahead of their use (0: when asked for)."""

    def make(step: int) -> Batch:
        batch = training_batch(readers, order, draw, step, rank, ranks)
        return batch.pinned() if pin else batch

    return ahead(make, steps, threads)


def _mask(
    valid_CHW: NDArray[np.bool_], draw: Draw, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    usable = usable_patches(valid_CHW, draw.patch, draw.min_valid_patch)
    C, H, W = valid_CHW.shape
    return draw_mask(usable, (H // draw.patch, W // draw.patch), C, draw.rules, rng)


def _stack(dataset: int, ids: list[str], items: Sequence[tuple[Any, ...]], draw: Draw) -> Batch:
    columns = list(zip(*items, strict=True))
    pixels, valid, order = (torch.from_numpy(np.stack(column)) for column in columns[:3])
    shown = None if columns[3][0] is None else torch.from_numpy(np.stack(columns[3]))
    patches, bands = order.shape[1] // len(draw.rules.groups or (0,)), valid.shape[1]
    visible = visible_tokens(patches, bands, draw.rules)
    hidden = patches - visible
    predicted = max(round(draw.predict * hidden), 1) if draw.predict < 1 else None
    if draw.rules.groups is None and hidden and bool(valid.all()):  # most batches: nothing to count
        hidden_B = torch.full((len(ids),), (predicted or hidden) * draw.patch**2 * bands)
    else:
        mask = (order, visible, shown, draw.rules.groups, predicted)
        hidden_B = scored_pixels(patchify(valid, draw.patch), *mask)[2].sum((1, 2, 3))
    return Batch(dataset, tuple(ids), pixels, valid, order, visible, hidden_B, shown, predicted)
