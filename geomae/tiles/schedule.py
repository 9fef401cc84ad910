"""Which tiles each training step takes: a pure function of the seed and the step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from geomae.randomness import generator
from geomae.tiles.draw_groups import DrawGroups
from geomae.tiles.places import Partners


@dataclass(frozen=True)
class Stream:
    """Tiles of one data set and size from which batches are drawn, and the data set of their second views."""

    dataset: int
    partner: int
    tiles: NDArray[np.int64] | None = None  # their positions in the data set; None: all
    groups: DrawGroups | None = None  # groups of tiles that are drawn close together; None: without groups

    def position(self, place: int) -> int:
        """The position in the data set of a tile of the stream."""
        return place if self.tiles is None else int(self.tiles[place])


@dataclass(frozen=True)
class BatchSchedule:
    """The stream of every step, and its first tile in that stream.

    There is one stream per data set, and one for each pair of data sets where second views come from another one. A
    batch holds tiles of one size, so that there is a stream for each size. `stream_S` is the stream of each step,
    `first_S` the running number k of the step's first tile within that stream.
    """

    seed: int
    sizes: tuple[int, ...]
    batch: int
    stream_S: NDArray[np.int64]
    first_S: NDArray[np.int64]
    streams: tuple[Stream, ...]
    partners: Partners | None = None

    def tiles(self, step: int) -> tuple[int, list[tuple[int, int]]]:
        """The stream of `step` and its tiles as pairs (k, position in the data set), over all ranks.

        Tiles are sorted by the slots of their groups, which stay the same from step to step. Each rank takes its part
        of the list, so that most groups are read by one rank only.
        """
        stream, first = int(self.stream_S[step]), int(self.first_S[step])
        drawn = [(self._drawn(stream, k), k) for k in range(first, first + self.batch)]
        if self.streams[stream].groups is not None:
            drawn.sort(key=lambda one: one[0][1])
        return stream, [(k, position) for (position, _), k in drawn]

    def position(self, stream: int, k: int) -> int:
        """The position in the data set of tile k of a stream; each epoch is a new permutation."""
        return self._drawn(stream, k)[0]

    def _drawn(self, stream: int, k: int) -> tuple[int, int]:
        """The position of a tile, and the slot of its group (0 without groups)."""
        epoch, place = divmod(k, self.sizes[stream])
        one = self.streams[stream]
        order, turn = _permutation(self.seed, stream, epoch, self.sizes[stream], one.groups)
        return one.position(int(order[place])), 0 if turn is None else int(turn[place])


def schedule_batches(
    seed: int,
    sizes: tuple[int, ...],
    batch: int,
    steps: int,
    shares: tuple[float, ...] | None = None,
    partners: Partners | None = None,
    places: bool = False,
    sides: Sequence[NDArray[np.int64]] | None = None,
    groups: Sequence[DrawGroups | None] | None = None,
) -> BatchSchedule:
    """Draw the stream of each step; a function of the seed and the step. `places` pairs tiles across data sets.

    `sides` are the sides in pixels of each data set's tiles; without them all have one size. `groups` are the groups of
    tiles of each data set that are drawn close together. A data set has its share of the steps, by default its share of
    the tiles, so that every tile is drawn equally often.
    """
    drawn = _streams(sizes, shares or sizes, partners if places else None)
    if sides is not None:
        drawn = [part for weight, stream in drawn for part in _by_side(weight, stream, sides[stream.dataset])]
    if groups is not None:
        drawn = [(weight, _in_groups(stream, groups[stream.dataset])) for weight, stream in drawn]
    weights, streams = [weight for weight, _ in drawn], tuple(stream for _, stream in drawn)
    sizes = tuple(sizes[one.dataset] if one.tiles is None else len(one.tiles) for one in streams)
    share = np.cumsum(weights) / np.sum(weights)
    if len(streams) == 1:
        stream_S = np.zeros(steps, dtype=np.int64)
    else:
        draws = [generator(seed, "dataset", step).random() for step in range(steps)]
        stream_S = np.searchsorted(share, draws, side="right").astype(np.int64)
    first_S = np.zeros(steps, dtype=np.int64)
    for stream in range(len(streams)):
        taken = stream_S == stream
        first_S[taken] = np.arange(taken.sum()) * batch
    return BatchSchedule(seed, sizes, batch, stream_S, first_S, streams, partners)


def _streams(
    sizes: tuple[int, ...], shares: tuple[float, ...], partners: Partners | None
) -> list[tuple[float, Stream]]:
    """Streams with their weights. Tiles with a partner in another data set are paired with it half of the time."""
    own, across = [], []
    for dataset, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        left = 1.0
        for other in range(len(sizes)):
            if partners is None or other == dataset:
                continue
            tiles = partners.with_partner(dataset, other)
            if len(tiles):
                part = 0.5 * len(tiles) / size / (len(sizes) - 1)
                across.append((share * part, Stream(dataset, other, tiles)))
                left -= part
        own.append((share * left, Stream(dataset, dataset)))
    return own + across


def _by_side(weight: float, stream: Stream, side_T: NDArray[np.int64]) -> list[tuple[float, Stream]]:
    """Split a stream by the size of its tiles, with weights by their number."""
    tiles = np.arange(len(side_T)) if stream.tiles is None else stream.tiles
    distinct, count = np.unique(side_T[tiles], return_counts=True)
    if len(distinct) == 1:
        return [(weight, stream)]
    return [
        (weight * float(number) / len(tiles), replace(stream, tiles=tiles[side_T[tiles] == side]))
        for side, number in zip(distinct, count, strict=True)
    ]


def _in_groups(stream: Stream, groups: DrawGroups | None) -> Stream:
    """The stream with the groups of its data set, reduced to its tiles."""
    if groups is not None and stream.tiles is not None:
        groups = groups.of(stream.tiles)
    return replace(stream, groups=groups)


@lru_cache(maxsize=64)
def _permutation(
    seed: int, stream: int, epoch: int, size: int, groups: DrawGroups | None
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The tiles of an epoch in their order, and the slots of their groups (see `DrawGroups.draw`)."""
    rng = generator(seed, "order", stream, epoch)
    return (rng.permutation(size), None) if groups is None else groups.draw(rng)
