"""Which tile stands where in a training: a pure function of (seed, k), whatever the number of threads and ranks."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.randomness import generator


@dataclass(frozen=True)
class Plan:
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


def plan(seed: int, sizes: tuple[int, ...], batch: int, steps: int, shares: tuple[float, ...] | None = None) -> Plan:
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
    return Plan(seed, sizes, batch, dataset_S, first_S)


def turn(pixels_CHW: NDArray[Any], which: int) -> NDArray[Any]:
    """One of the eight flips and quarter turns of a tile (C, H, W); 0 leaves it as it is."""
    turned = np.rot90(pixels_CHW, which % 4, axes=(1, 2))
    return turned[:, :, ::-1] if which >= 4 else turned


@lru_cache(maxsize=64)
def _permutation(seed: int, dataset: int, epoch: int, size: int) -> NDArray[np.int64]:
    return generator(seed, "order", dataset, epoch).permutation(size)
