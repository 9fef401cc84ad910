"""How far apart two domains are in their pixels, band by band.

N tiles, P pixels of a tile, C bands, Q levels of a histogram, R deals
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.gap_cells import Cells, Doubles, Measure
from geomae.analysis.gap_contrast import Contrast, GapFigure, between_sums

DIFFERENCE, WASSERSTEIN = "mean_difference", "wasserstein"
LEVELS = 256


@dataclass(frozen=True)
class Pixels:
    """Some pixels of each tile in physical units (N, P, C) and their validity, and the groups of the tiles.

    Of a tile with fewer pixels than the largest the rest are not valid; `looked_at` is how many there are of all tiles.
    """

    values_NPC: NDArray[np.float32]
    valid_NPC: NDArray[np.bool_]
    group_N: Sequence[Any]
    looked_at: int

    def of_band(self, place: int) -> Doubles:
        """All valid values of a band."""
        return self.values_NPC[:, :, place][self.valid_NPC[:, :, place]].astype(np.float64)


def pixel_gap(source: Pixels, target: Pixels, bands: Sequence[str], unit: str, seed: int) -> list[GapFigure]:
    """Difference of means (target - source) and Wasserstein distance of each band, in the unit of the pixels.

    Both are exact on the valid pixels that are given. Permutations deal sums of groups: for the mean these are exact,
    for the Wasserstein distance each group is a histogram of 256 levels, those of the quantiles of both domains. A band
    without a valid pixel in either domain is left out.
    """
    contrast = Contrast.of(source.group_N, target.group_N, seed)
    figures = []
    for place, band in enumerate(bands):
        x, y = source.of_band(place), target.of_band(place)
        if not (len(x) and len(y)):
            continue
        levels_Q = np.unique(np.quantile(np.concatenate([x, y]), np.linspace(0, 1, LEVELS)))
        counts = [_histograms(one, place, levels_Q) for one in (source, target)]
        sums = [_sums(one, place) for one in (source, target)]
        difference = float(y.mean() - x.mean())
        figures.append(contrast.figure(DIFFERENCE, _mean_difference, *sums, value=difference, band=band, unit=unit))
        prepare = partial(_sketched_wasserstein, levels_Q=levels_Q)
        figures.append(contrast.figure(WASSERSTEIN, prepare, *counts, value=wasserstein(x, y), band=band, unit=unit))
    return figures


def wasserstein(first: Doubles, second: Doubles) -> float:
    """The Wasserstein-1 distance of two sets of numbers: the area between their distribution functions."""
    first, second = np.sort(first), np.sort(second)
    levels = np.sort(np.concatenate([first, second]))
    below = [np.searchsorted(one, levels[:-1], side="right") / len(one) for one in (first, second)]
    return float((np.abs(below[0] - below[1]) * np.diff(levels)).sum())


def _sums(pixels: Pixels, place: int) -> Doubles:
    """Sum and number of the valid pixels of each tile: (N, 2)."""
    valid_NP = pixels.valid_NPC[:, :, place]
    total_N = np.where(valid_NP, pixels.values_NPC[:, :, place], 0).sum(1, dtype=np.float64)
    return np.stack([total_N, valid_NP.sum(1)], axis=1)


def _histograms(pixels: Pixels, place: int, levels_Q: Doubles) -> NDArray[np.int64]:
    """How many valid pixels of each tile lie at each level, or between it and the one before: (N, Q)."""
    valid_NP = pixels.valid_NPC[:, :, place]
    tile = np.nonzero(valid_NP)[0]
    level = np.searchsorted(levels_Q, pixels.of_band(place))
    codes = tile * len(levels_Q) + np.minimum(level, len(levels_Q) - 1)
    return np.bincount(codes, minlength=len(valid_NP) * len(levels_Q)).reshape(len(valid_NP), len(levels_Q))


def _mean_difference(sums_N2: Doubles, cells: Cells) -> Measure:
    return between_sums(cells.sums(sums_N2), lambda one, other: np.abs(_mean(one) - _mean(other)))


def _sketched_wasserstein(counts_NQ: NDArray[np.int64], cells: Cells, levels_Q: Doubles) -> Measure:
    def between(one_RQ: Doubles, other_RQ: Doubles) -> Doubles:
        below = [np.cumsum(side, axis=1) / np.maximum(side.sum(1, keepdims=True), 1) for side in (one_RQ, other_RQ)]
        apart_RQ = np.abs(below[0] - below[1])
        return np.asarray(((apart_RQ[:, :-1] + apart_RQ[:, 1:]) / 2) @ np.diff(levels_Q))

    return between_sums(cells.sums(counts_NQ), between)


def _mean(sums_R2: Doubles) -> Doubles:
    return np.asarray(sums_R2[:, 0] / np.maximum(sums_R2[:, 1], 1))
