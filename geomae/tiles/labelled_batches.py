"""Batches of labelled tiles: augmented ones for training, each a pure function of the seed and the step, and unchanged
ones for evaluation.

T tiles of a data set, B tiles of a batch, C bands, H W pixels
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.randomness import generator
from geomae.tiles.reader import TileReader, ahead
from geomae.tiles.schedule import BatchSchedule
from geomae.tiles.views import ViewRules, draw_alteration, resize


@dataclass(frozen=True)
class Changes:
    """How training tiles are augmented; see `Augment` of the configuration."""

    crops: float = 1.0
    flips: bool = False
    turns: bool = False
    gain: float = 0.0
    offset: float = 0.0


@dataclass(frozen=True)
class LabelledTiles:
    """Tiles and their labels: class codes or numbers (T,), or class codes of pixels (T, H, W), where -1 is unknown."""

    reader: TileReader
    label_T: NDArray[Any]

    def __len__(self) -> int:
        return len(self.label_T)


@dataclass(frozen=True)
class LabelledBatch:
    """Tiles in physical units with their labels (B,) or (B, H, W).

    `first` is the running number of its first tile, which seeds stochastic depth. Gains and offsets are applied to
    standardised values; `zoom_B` is the number of scene pixels along one pixel of the tile.
    """

    first: int
    tile_ids: tuple[str, ...]
    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    labels: Tensor
    zoom_B: Tensor | None = None
    altered: tuple[Tensor, Tensor] | None = None  # gain and offset (B, C)

    def to(self, device: torch.device) -> "LabelledBatch":
        """The batch on `device`; from pinned memory the copy is asynchronous."""
        return self if device.type == "cpu" else self._each(lambda values: values.to(device, non_blocking=True))

    def pinned(self) -> "LabelledBatch":
        """The batch in pinned memory, from which a GPU copies asynchronously."""
        return self._each(Tensor.pin_memory)

    def split(self, parts: int) -> list["LabelledBatch"]:
        """The batch in `parts` equal parts."""
        size = len(self.tile_ids) // parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
        return [
            replace(self._each(lambda values, cut=cut: values[cut]), first=self.first + cut.start,  # type: ignore[misc]
                    tile_ids=self.tile_ids[cut])
            for cut in cuts
        ]  # fmt: skip

    def _each(self, change: Callable[[Tensor], Tensor]) -> "LabelledBatch":
        return replace(
            self,
            pixels_BCHW=change(self.pixels_BCHW),
            valid_BCHW=change(self.valid_BCHW),
            labels=change(self.labels),
            zoom_B=None if self.zoom_B is None else change(self.zoom_B),
            altered=None if self.altered is None else (change(self.altered[0]), change(self.altered[1])),
        )


def labelled_batch(
    tiles: LabelledTiles, order: BatchSchedule, changes: Changes, step: int, rank: int, ranks: int
) -> LabelledBatch:
    """The tiles of `step` for `rank`. All ranks together get the tiles that a single rank would get."""
    stream, every = order.tiles(step)
    share = len(every) // ranks
    mine = every[rank * share : (rank + 1) * share]
    drawn = [_changed(tiles, position, changes, order.seed, (stream, k)) for k, position in mine]
    pixels, valid, labels, zooms, gains, offsets = zip(*drawn, strict=True)
    altered = (torch.from_numpy(np.stack(gains)), torch.from_numpy(np.stack(offsets)))
    return LabelledBatch(
        int(order.first_S[step]) + rank * share,
        tuple(tiles.reader.tile_ids[position] for _, position in mine),
        torch.from_numpy(np.stack(pixels)),
        torch.from_numpy(np.stack(valid)),
        _labels(np.stack(labels)),
        torch.tensor(zooms) if changes.crops < 1 else None,
        altered if changes.gain or changes.offset else None,
    )


def labelled_ahead(
    tiles: LabelledTiles, order: BatchSchedule, changes: Changes, steps: range, rank: int, ranks: int, threads: int,
    pin: bool,
) -> Iterator[LabelledBatch]:  # fmt: skip
    """The batches of `steps` in order, prepared in advance by `threads` threads (0: on demand)."""

    def make(step: int) -> LabelledBatch:
        batch = labelled_batch(tiles, order, changes, step, rank, ranks)
        return batch.pinned() if pin else batch

    return ahead(make, steps, threads)


def whole_batches(
    tiles: LabelledTiles, size: int, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[NDArray[np.int64], LabelledBatch, bool]]:
    """Positions and unchanged tiles of each batch of this rank, and whether it counts; a batch has tiles of one size.

    Every rank gets the same number of batches: a rank that has none left repeats the first one, marked false.
    """
    side_T = tiles.reader.side_T
    alike = [np.flatnonzero(side_T == side) for side in np.unique(side_T)]
    chunks = [one[start : start + size] for one in alike for start in range(0, len(one), size)]
    for turn in range(-(-len(chunks) // ranks)):
        number = turn * ranks + rank
        chosen = chunks[number if number < len(chunks) else 0]
        pixels, valid = (torch.from_numpy(values) for values in tiles.reader.many(chosen.tolist()))
        ids = tuple(tiles.reader.tile_ids[position] for position in chosen)
        labels = _labels(tiles.label_T[chosen])
        yield chosen, LabelledBatch(0, ids, pixels, valid, labels), number < len(chunks)


def _changed(
    tiles: LabelledTiles, position: int, changes: Changes, seed: int, indices: Sequence[int]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], float, NDArray[Any], NDArray[Any]]:
    """Pixels, validity, label, zoom, gain and offset of an augmented tile."""
    pixels, valid = tiles.reader.read(position)
    label, side = np.asarray(tiles.label_T[position]), pixels.shape[-1]
    zoom = 1.0
    if changes.crops < 1:
        rng = generator(seed, "label crop", *indices)
        small = max(round(side * float(rng.uniform(changes.crops, 1))), 1)
        row, col = (int(start) for start in rng.integers(0, side - small + 1, 2))
        window = np.s_[..., row : row + small, col : col + small]
        zoom = small / side
        pixels, valid = resize(pixels[window], valid[window], side)
        if label.ndim:
            nearest_S = ((np.arange(side) + 0.5) * zoom).astype(np.int64)
            label = label[window][np.ix_(nearest_S, nearest_S)]
    rng = generator(seed, "label turn", *indices)
    turns, upside, mirrored = int(rng.integers(4)), bool(rng.integers(2)), bool(rng.integers(2))

    def turned(values: NDArray[Any]) -> NDArray[Any]:
        values = np.rot90(values, turns, axes=(-2, -1)) if changes.turns else values
        values = values[..., ::-1, :] if changes.flips and upside else values
        return values[..., ::-1] if changes.flips and mirrored else values

    rules = ViewRules(gain=changes.gain, offset=changes.offset)
    gain_C, offset_C = draw_alteration(len(pixels), rules, generator(seed, "label alteration", *indices))
    return turned(pixels), turned(valid), turned(label) if label.ndim else label, zoom, gain_C, offset_C


def _labels(label_B: NDArray[Any]) -> Tensor:
    """Class codes as int64, which the loss needs; standardised numbers as float32."""
    kind = np.float32 if np.issubdtype(label_B.dtype, np.floating) else np.int64
    return torch.from_numpy(label_B.astype(kind))
