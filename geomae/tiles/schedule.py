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
    """Tiles of one data set and size that steps are filled from, and the data set that second views come from."""

    dataset: int
    partner: int
    tiles: NDArray[np.int64] | None = None  # their places in the data set; None: all
    groups: DrawGroups | None = None  # of tiles that are drawn near each other; None: each for itself

    def position(self, place: int) -> int:
        """Where a tile of the stream stands in its data set."""
        return place if self.tiles is None else int(self.tiles[place])


@dataclass(frozen=True)
class BatchSchedule:
    """The stream of every step, and how many tiles of it earlier steps took.

    There is one stream per data set, and where second views come from another data set, one for each such pair; where
    the tiles of a data set differ in size, one for each size, as a batch holds tiles of one.
    `stream_S` holds the number of the stream of each step, `first_S` the running number k of the step's first tile
    within that stream.
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

        Tiles of a group follow each other, and groups stay where they are from step to step: as each rank takes its
        part of the list, most groups are read by one rank alone.
        """
        stream, first = int(self.stream_S[step]), int(self.first_S[step])
        drawn = [(self._drawn(stream, k), k) for k in range(first, first + self.batch)]
        if self.streams[stream].groups is not None:
            drawn.sort(key=lambda one: one[0][1])
        return stream, [(k, position) for (position, _), k in drawn]

    def position(self, stream: int, k: int) -> int:
        """Where tile k of a stream stands in its data set: each epoch is a permutation of its own."""
        return self._drawn(stream, k)[0]

    def _drawn(self, stream: int, k: int) -> tuple[int, int]:
        """The position of a tile, and the place of its group among those in turn."""
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

    `sides` are the sides in pixels of each data set's tiles; without them all are alike. `groups` are those tiles of
    each data set that are drawn near each other.

    A data set has its share of the steps, by default its share of the tiles, so that every tile is seen equally often.
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
    """Streams with their weights: of tiles that another data set shows too, half are paired with those."""
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
    """A stream for each size among the tiles of one, with the weight of its tiles; most have one size."""
    tiles = np.arange(len(side_T)) if stream.tiles is None else stream.tiles
    distinct, count = np.unique(side_T[tiles], return_counts=True)
    if len(distinct) == 1:
        return [(weight, stream)]
    return [
        (weight * float(number) / len(tiles), replace(stream, tiles=tiles[side_T[tiles] == side]))
        for side, number in zip(distinct, count, strict=True)
    ]


def _in_groups(stream: Stream, groups: DrawGroups | None) -> Stream:
    """A stream whose tiles are drawn by the groups of its data set."""
    if groups is not None and stream.tiles is not None:
        groups = groups.of(stream.tiles)
    return replace(stream, groups=groups)


@lru_cache(maxsize=64)
def _permutation(
    seed: int, stream: int, epoch: int, size: int, groups: DrawGroups | None
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The tiles of an epoch in their order; and where they are drawn by groups, see `DrawGroups.draw`."""
    rng = generator(seed, "order", stream, epoch)
    return (rng.permutation(size), None) if groups is None else groups.draw(rng)
