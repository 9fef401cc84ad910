"""Batches: tiles read ahead of the training step by threads, each batch a pure function of the seed and its step.

B tiles, C bands, H W pixels, N patches, X tokens of a tile (one per patch and group of bands)
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.models.masking import Mask, MaskRules, draw_mask, usable_patches, visible_tokens
from geomae.randomness import generator
from geomae.rasters import Window, read
from geomae.tiles.index import TileIndex

Job = TypeVar("Job")
Made = TypeVar("Made")


def ahead(make: Callable[[Job], Made], jobs: Iterable[Job], threads: int) -> Iterator[Made]:
    """What `make` gives for each job, in order, made by `threads` threads ahead of its use (0: when asked for)."""
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
        tiles = []
        for scene, group in itertools.groupby(positions, key=lambda position: int(self._place[position, 0])):
            together = list(group)
            window = self._common(together)
            if self._room or self._kept or window is None:
                tiles += [self.read(position) for position in together]
                continue
            whole = self._read(scene, window)
            for row, col, size in (self._place[together, 1:] - (window.row, window.col, 0)).tolist():
                part = np.s_[:, row : row + size, col : col + size]
                tiles.append((whole[0][part], whole[1][part]))
        pixels, valid = zip(*tiles, strict=True)
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


@dataclass(frozen=True)
class BatchSchedule:
    """The data set of every step, and how many tiles of it earlier steps took.

    `dataset_S` holds the number of the data set of each step, `first_S` the running number k of the step's first tile
    within that data set.
    """

    seed: int
    sizes: tuple[int, ...]
    batch: int
    dataset_S: NDArray[np.int64]
    first_S: NDArray[np.int64]

    def tiles(self, step: int) -> tuple[int, list[tuple[int, int]]]:
        """The data set of `step` and its tiles as pairs (k, position in the data set), over all ranks."""
        dataset, first = int(self.dataset_S[step]), int(self.first_S[step])
        return dataset, [(k, self.position(dataset, k)) for k in range(first, first + self.batch)]

    def position(self, dataset: int, k: int) -> int:
        """Where tile k of the run stands in the data set: each epoch is a permutation of its own."""
        epoch, place = divmod(k, self.sizes[dataset])
        return int(_permutation(self.seed, dataset, epoch, self.sizes[dataset])[place])


def schedule_batches(
    seed: int, sizes: tuple[int, ...], batch: int, steps: int, shares: tuple[float, ...] | None = None
) -> BatchSchedule:
    """Draw the data set of each step by its share of the steps; a function of the seed and the step.

    By default that is its share of the tiles, so that every tile is seen equally often.
    """
    share = np.cumsum(shares or sizes) / np.sum(shares or sizes)
    if len(sizes) == 1:
        dataset_S = np.zeros(steps, dtype=np.int64)
    else:
        draws = [generator(seed, "dataset", step).random() for step in range(steps)]
        dataset_S = np.searchsorted(share, draws, side="right").astype(np.int64)
    first_S = np.zeros(steps, dtype=np.int64)
    for dataset in range(len(sizes)):
        drawn = dataset_S == dataset
        first_S[drawn] = np.arange(drawn.sum()) * batch
    return BatchSchedule(seed, sizes, batch, dataset_S, first_S)


def augment(pixels_CHW: NDArray[Any], which: int) -> NDArray[Any]:
    """One of the eight flips and quarter turns of a tile (C, H, W); 0 leaves it as it is."""
    turned = np.rot90(pixels_CHW, which % 4, axes=(1, 2))
    return turned[:, :, ::-1] if which >= 4 else turned


@lru_cache(maxsize=64)
def _permutation(seed: int, dataset: int, epoch: int, size: int) -> NDArray[np.int64]:
    return generator(seed, "order", dataset, epoch).permutation(size)


@dataclass(frozen=True)
class Batch:
    """Tiles of one data set in physical units, with their masks."""

    dataset: int
    tile_ids: tuple[str, ...]
    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    mask: Mask
    hidden_B: Tensor  # number of scored pixels of each tile, over all bands; stays on the host

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
        return replace(
            self,
            pixels_BCHW=change(self.pixels_BCHW),
            valid_BCHW=change(self.valid_BCHW),
            mask=self.mask.each(change),
        )


@dataclass(frozen=True)
class BatchSpec:
    """How tiles are masked and turned."""

    seed: int
    patch: int
    rules: MaskRules
    min_valid_patch: float
    flips: bool
    predict: float = 1.0  # share of the hidden patches that is predicted

    def for_validation(self) -> "BatchSpec":
        """The same with all bands shown, and every hidden patch predicted."""
        return replace(self, rules=replace(self.rules, band_dropout=0.0, shuffled=False), predict=1.0)


def training_batch(
    readers: Sequence[TileReader], order: BatchSchedule, spec: BatchSpec, step: int, rank: int, ranks: int
) -> Batch:
    """The share of `step`'s tiles that belongs to `rank`; all ranks together see what one rank alone would."""
    dataset, tiles = order.tiles(step)
    share = len(tiles) // ranks
    reader, items, ids = readers[dataset], [], []
    for k, position in tiles[rank * share : (rank + 1) * share]:
        which = int(generator(spec.seed, "turn", dataset, k).integers(8)) if spec.flips else 0
        pixels, valid = (augment(values, which) for values in reader.read(position))
        items.append((pixels, valid, *_mask(valid, spec, generator(spec.seed, "mask", dataset, k))))
        ids.append(reader.tile_ids[position])
    return _stack(dataset, ids, items, spec)


def fixed_batches(
    reader: TileReader,
    dataset: int,
    positions: Sequence[int],
    spec: BatchSpec,
    size: int,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[tuple[Batch, bool]]:
    """This rank's share of the tiles, unturned, each under a mask that depends on the seed and the tile alone.

    Every rank gets as many batches as the others, because some strategies talk in every forward pass; where the tiles
    do not suffice, a batch is repeated and marked false.
    """
    spec = spec.for_validation()
    chunks = [positions[start : start + size] for start in range(0, len(positions), size)]
    for turn in range(-(-len(chunks) // ranks)):
        number = turn * ranks + rank
        counted = number < len(chunks)
        items, ids = [], []
        for position in chunks[number if counted else 0]:
            pixels, valid = reader.read(position)
            tile_id = reader.tile_ids[position]
            items.append((pixels, valid, *_mask(valid, spec, generator(spec.seed, "validation mask", tile_id))))
            ids.append(tile_id)
        yield _stack(dataset, ids, items, spec), counted


def read_ahead(
    readers: Sequence[TileReader],
    order: BatchSchedule,
    spec: BatchSpec,
    steps: range,
    rank: int,
    ranks: int,
    threads: int,
    pin: bool,
) -> Iterator[Batch]:
    """The batches of `steps` in turn, made by `threads` threads ahead of their use (0: when asked for)."""

    def make(step: int) -> Batch:
        batch = training_batch(readers, order, spec, step, rank, ranks)
        return batch.pinned() if pin else batch

    return ahead(make, steps, threads)


def _mask(
    valid_CHW: NDArray[np.bool_], spec: BatchSpec, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    usable = usable_patches(valid_CHW, spec.patch, spec.min_valid_patch)
    C, H, W = valid_CHW.shape
    return draw_mask(usable, (H // spec.patch, W // spec.patch), C, spec.rules, rng)


def _stack(dataset: int, ids: list[str], items: Sequence[tuple[Any, ...]], spec: BatchSpec) -> Batch:
    columns = list(zip(*items, strict=True))
    pixels, valid, order = (torch.from_numpy(np.stack(column)) for column in columns[:3])
    shown = None if columns[3][0] is None else torch.from_numpy(np.stack(columns[3]))
    patches, bands = order.shape[1] // len(spec.rules.groups or (0,)), valid.shape[1]
    visible = visible_tokens(patches, bands, spec.rules)
    hidden = patches - visible
    predicted = max(round(spec.predict * hidden), 1) if spec.predict < 1 else None
    mask = Mask(order, visible, shown, spec.rules.groups, predicted)
    if spec.rules.groups is None and hidden and bool(valid.all()):  # most batches: nothing to count
        hidden_B = torch.full((len(ids),), (predicted or hidden) * spec.patch**2 * bands)
    else:
        hidden_B = mask.count_scored(valid, spec.patch)
    return Batch(dataset, tuple(ids), pixels, valid, mask, hidden_B)
