"""Figures of the gap between two domains on plain arrays: pixels, embeddings, labels and reconstruction errors.

N tiles of the source, M of the target, P pixels of a tile, C bands, D features, K classes, Q levels of a histogram, R
permutations, X any leading dimensions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.errors import EmbeddingError
from geomae.evaluation.domain_distances import (
    LEADING,
    can_classify,
    coral_distance,
    median_distance,
    proxy_a_distance,
    squared_mmd,
    subspace_angle,
)
from geomae.evaluation.permutation_tests import (
    DomainComparison,
    Doubles,
    GapFigure,
    GroupBlocks,
    Statistic,
    between_sums,
    corrected,
)
from geomae.randomness import generator

MMD, CORAL, A_DISTANCE, ANGLE = "mmd2", "coral", "proxy_a_distance", "subspace_angle"
ON_SOURCE, ON_TARGET, RATIO = "reconstruction_rmse_source", "reconstruction_rmse_target", "reconstruction_ratio"
LABEL_SHIFT = "label_shift"
DIFFERENCE, WASSERSTEIN = "mean_difference", "wasserstein"
MOST_TILES = 1500  # of each domain; without groups, permutations of so many take half a minute
LEVELS = 256  # of the histograms of pixels


@dataclass(frozen=True)
class Pixels:
    """Sampled pixels of each tile in physical units (N, P, C) with their validity, and the groups of the tiles.

    Tiles with fewer pixels are padded with invalid ones; `looked_at` is the number of pixels without padding.
    """

    values_NPC: NDArray[np.float32]
    valid_NPC: NDArray[np.bool_]
    group_N: Sequence[Any]
    looked_at: int

    def of_band(self, place: int) -> Doubles:
        """All valid values of a band."""
        return self.values_NPC[:, :, place][self.valid_NPC[:, :, place]].astype(np.float64)


def embedding_gap(
    source_ND: NDArray[np.floating],
    source_group_N: Sequence[Any] | NDArray[Any],
    target_MD: NDArray[np.floating],
    target_group_M: Sequence[Any] | NDArray[Any],
    seed: int,
) -> list[GapFigure]:
    """Squared MMD, CORAL distance, proxy A-distance and subspace angle, with Holm over these four.

    A group that occurs in both domains is a pair. Of a domain with more than 1,500 tiles, 1,500 are drawn. The proxy
    A-distance is left out where a domain has too few groups for folds, and the angle where there are too few tiles for
    a component. Raises EmbeddingError for embeddings that are not finite, and for domains of fewer than two tiles.
    """
    check_embeddings(source_ND, "source")
    check_embeddings(target_MD, "target")
    here, there = subsample_tiles(len(source_ND), seed, "source"), subsample_tiles(len(target_MD), seed, "target")
    x_ND, y_MD = source_ND[here].astype(np.float64), target_MD[there].astype(np.float64)
    groups_N, groups_M = [source_group_N[place] for place in here], [target_group_M[place] for place in there]
    comparison = DomainComparison.of(groups_N, groups_M, seed)
    width = median_distance(np.concatenate([x_ND, y_MD]))
    figures = [
        comparison.figure(MMD, partial(squared_mmd, width=width), x_ND, y_MD),
        comparison.figure(CORAL, coral_distance, x_ND, y_MD),
    ]
    if can_classify(comparison.blocks):
        figures.append(comparison.figure(A_DISTANCE, proxy_a_distance, x_ND, y_MD))
    leading = min(LEADING, min(len(x_ND) // 2, len(y_MD)) - 1)  # components that halves of the source have, too
    if leading > 0:
        angle = partial(subspace_angle, leading=leading)
        figures.append(comparison.figure(ANGLE, angle, x_ND, y_MD, unit="degree"))
    return corrected(figures)


def subsample_tiles(tiles: int, seed: int, what: str) -> NDArray[np.int64]:
    """Sorted positions of at most 1,500 tiles, drawn by the seed."""
    return np.sort(generator(seed, "gap tiles", what).permutation(tiles)[:MOST_TILES])


def check_embeddings(rows_ND: NDArray[np.floating], what: str) -> None:
    """Raise EmbeddingError where embeddings are not finite, or are fewer than two."""
    broken_N = ~np.isfinite(rows_ND).all(1)
    if broken_N.any():
        raise EmbeddingError(
            f"{what}: the embeddings of {broken_N.sum()} of {len(rows_ND)} tiles are not finite (the first is tile "
            f"number {broken_N.argmax()}); leave these tiles out with `where`, or check the model's weights"
        )
    if len(rows_ND) < 2:
        raise EmbeddingError(f"{what}: has {len(rows_ND)} tiles; a gap takes two or more on either side")


def reconstruction_gap(
    source: tuple[Doubles, Doubles], target: tuple[Doubles, Doubles], comparison: DomainComparison, unit: str
) -> list[GapFigure]:
    """RMSE (mean over bands) in each domain, and target / source, from squared errors and pixels (N, C) of tiles.

    The null value of the ratio is the larger error of two halves of the source over the smaller one.
    """
    (square_NC, pixels_NC), (square_MC, pixels_MC) = source, target
    errors = [float(_rmse(square.sum(0), pixels.sum(0))) for square, pixels in (source, target)]
    x_N2C, y_M2C = np.stack([square_NC, pixels_NC], axis=1), np.stack([square_MC, pixels_MC], axis=1)
    ratio = errors[1] / errors[0]
    return [
        GapFigure(ON_SOURCE, errors[0], unit=unit),
        GapFigure(ON_TARGET, errors[1], unit=unit),
        comparison.figure(RATIO, _error_ratio, x_N2C, y_M2C, value=ratio),
    ]


def _error_ratio(sums_N2C: Doubles, blocks: GroupBlocks) -> Statistic:
    """The larger error over the smaller one, which is symmetric in the domains."""

    def between(one_RX: Doubles, other_RX: Doubles) -> Doubles:
        bands = sums_N2C.shape[2]
        errors = [_rmse(sums_RX[:, :bands], sums_RX[:, bands:]) for sums_RX in (one_RX, other_RX)]
        return np.asarray(np.exp(np.abs(np.log(errors[0] / errors[1]))))

    return between_sums(blocks.sums(sums_N2C.reshape(len(sums_N2C), -1)), between)


def _rmse(square_XC: Doubles, pixels_XC: Doubles) -> Doubles:
    mean_XC = square_XC / np.maximum(pixels_XC, 1)
    return np.asarray(np.sqrt(np.maximum(mean_XC, np.finfo(np.float64).tiny)).mean(-1))  # > 0, for ratios


def label_shift(
    source_label_N: NDArray[np.str_], target_label_M: NDArray[np.str_], comparison: DomainComparison
) -> GapFigure:
    """Total variation between the shares of the classes: half the sum of their differences, 0 to 1."""
    names = sorted({*source_label_N.tolist(), *target_label_M.tolist()})
    source_NK, target_MK = (one[:, None] == np.array(names) for one in (source_label_N, target_label_M))
    return comparison.figure(LABEL_SHIFT, _total_variation, source_NK, target_MK)


def class_distances(
    source_ND: NDArray[np.floating],
    source_group_N: Sequence[Any],
    source_label_N: NDArray[np.str_],
    target_MD: NDArray[np.floating],
    target_group_M: Sequence[Any],
    target_label_M: NDArray[np.str_],
    seed: int,
) -> list[GapFigure]:
    """Squared MMD between the tiles of each class that has two or more in both; not tested, as classes may be many."""
    figures = []
    for name in sorted({*source_label_N.tolist()} & {*target_label_M.tolist()} - {""}):  # "" is a tile without a label
        here_N, here_M = np.flatnonzero(source_label_N == name), np.flatnonzero(target_label_M == name)
        if min(len(here_N), len(here_M)) < 2:
            continue
        x_ND, y_MD = source_ND[here_N].astype(np.float64), target_MD[here_M].astype(np.float64)
        groups_N = [source_group_N[place] for place in here_N.tolist()]
        groups_M = [target_group_M[place] for place in here_M.tolist()]
        width = median_distance(np.concatenate([x_ND, y_MD]))
        distance = partial(squared_mmd, width=width)
        comparison = DomainComparison.of(groups_N, groups_M, seed)
        figures.append(comparison.figure(f"{MMD}/{name}", distance, x_ND, y_MD, tested=False))
    return figures


def _total_variation(member_NK: NDArray[np.bool_], blocks: GroupBlocks) -> Statistic:
    def between(one_RK: Doubles, other_RK: Doubles) -> Doubles:
        shares = [count_RK / count_RK.sum(1, keepdims=True) for count_RK in (one_RK, other_RK)]
        return np.asarray(np.abs(shares[0] - shares[1]).sum(1) / 2)

    return between_sums(blocks.sums(member_NK), between)


def pixel_gap(source: Pixels, target: Pixels, bands: Sequence[str], unit: str, seed: int) -> list[GapFigure]:
    """Difference of means (target - source) and Wasserstein distance of each band, in the unit of the pixels.

    Both are exact for the given pixels. Permutations use sums over groups: exact for the mean; for the Wasserstein
    distance each group is a histogram with levels at 256 quantiles of both domains. A band without a valid pixel in
    one of the domains is left out.
    """
    comparison = DomainComparison.of(source.group_N, target.group_N, seed)
    figures = []
    for place, band in enumerate(bands):
        x, y = source.of_band(place), target.of_band(place)
        if not (len(x) and len(y)):
            continue
        levels_Q = np.unique(np.quantile(np.concatenate([x, y]), np.linspace(0, 1, LEVELS)))
        counts = [_histograms(one, place, levels_Q) for one in (source, target)]
        sums = [_sums(one, place) for one in (source, target)]
        difference = float(y.mean() - x.mean())
        figures.append(comparison.figure(DIFFERENCE, _mean_difference, *sums, value=difference, band=band, unit=unit))
        sketch = partial(_sketched_wasserstein, levels_Q=levels_Q)
        figures.append(comparison.figure(WASSERSTEIN, sketch, *counts, value=wasserstein(x, y), band=band, unit=unit))
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
    """Histogram (N, Q) of the valid pixels of each tile: values above the previous level and up to each level."""
    valid_NP = pixels.valid_NPC[:, :, place]
    tile = np.nonzero(valid_NP)[0]
    level = np.searchsorted(levels_Q, pixels.of_band(place))
    codes = tile * len(levels_Q) + np.minimum(level, len(levels_Q) - 1)
    return np.bincount(codes, minlength=len(valid_NP) * len(levels_Q)).reshape(len(valid_NP), len(levels_Q))


def _mean_difference(sums_N2: Doubles, blocks: GroupBlocks) -> Statistic:
    return between_sums(blocks.sums(sums_N2), lambda one, other: np.abs(_mean(one) - _mean(other)))


def _sketched_wasserstein(counts_NQ: NDArray[np.int64], blocks: GroupBlocks, levels_Q: Doubles) -> Statistic:
    def between(one_RQ: Doubles, other_RQ: Doubles) -> Doubles:
        below = [
            np.cumsum(counts, axis=1) / np.maximum(counts.sum(1, keepdims=True), 1) for counts in (one_RQ, other_RQ)
        ]
        between_RQ = np.abs(below[0] - below[1])
        return np.asarray(((between_RQ[:, :-1] + between_RQ[:, 1:]) / 2) @ np.diff(levels_Q))

    return between_sums(blocks.sums(counts_NQ), between)


def _mean(sums_R2: Doubles) -> Doubles:
    return np.asarray(sums_R2[:, 0] / np.maximum(sums_R2[:, 1], 1))
