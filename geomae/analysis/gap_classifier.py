"""The proxy A-distance: how well a linear classifier tells two domains apart.

N tiles, C cells, R deals, D features, F folds
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from geomae.analysis.gap_cells import Cells, Codes, Deals, Doubles, Measure
from geomae.analysis.linear_probe import Scale

MOST_FOLDS = 10
MOST_FEATURES = 256  # leading components of the standardised embeddings; some hundred tiles carry no more


@dataclass(frozen=True)
class _Fold:
    """What a fold holds out, as rows and cells, and what the classifier of a deal is made of."""

    held_HD: Doubles
    held_start: Codes
    held: Codes
    train: Codes
    sum_CD: Doubles
    count_C: Doubles
    precision_DD: Doubles


def proxy_a_distance(rows_ND: NDArray[np.floating], cells: Cells) -> Measure:
    """2 (1 - 2 error) of the classifier on tiles whose groups it never saw, both sides counting alike.

    2 where it is always right, 0 where it guesses, less where it is misled (Ben-David et al. 2007). The classifier is
    Fisher's linear discriminant: its direction is the difference of the means times the inverse (Ledoit-Wolf)
    covariance of all tiles together, which no deal changes and which gives the same direction as that within the sides.
    So one inverse per fold serves all deals, where an iterative fit would be made two thousand times. Folds are dealt
    by group without a look at the domains, so that the figure of every deal is the same function of it.
    """
    fold_G = _deal_folds(cells)
    scaled_ND = Scale.of(rows_ND).apply(rows_ND)
    if scaled_ND.shape[1] > MOST_FEATURES:
        scaled_ND = scaled_ND @ np.linalg.eigh(scaled_ND.T @ scaled_ND)[1][:, -MOST_FEATURES:]
    folds = [_prepare(scaled_ND, cells, fold_G == fold) for fold in range(int(fold_G.max()) + 1)]

    def measure(deals: Deals) -> Doubles:
        wrong_R2, total_R2 = np.zeros((len(deals), 2)), np.zeros((len(deals), 2))
        for fold in folds:
            _count(fold, deals, wrong_R2, total_R2)
        return np.asarray(2 * (1 - 2 * (wrong_R2 / total_R2).mean(1)))

    return measure


def can_classify(cells: Cells) -> bool:
    """Whether the classifier of every fold sees both domains."""
    fold_C = _deal_folds(cells)[cells.group_C]
    return all(len(np.unique(cells.target_C[fold_C != fold])) == 2 for fold in range(int(fold_C.max()) + 1))


def _deal_folds(cells: Cells) -> Codes:
    """The fold of each group: the largest first, each to the fold with the fewest tiles."""
    size_G = np.bincount(cells.group_C, weights=cells.count_C)
    fold_G = np.zeros(len(size_G), dtype=np.int64)
    total_F = np.zeros(min(MOST_FOLDS, len(size_G)))
    for group in np.argsort(-size_G, kind="stable"):
        fold_G[group] = total_F.argmin()
        total_F[fold_G[group]] += size_G[group]
    return fold_G


def _prepare(rows_ND: Doubles, cells: Cells, held_G: NDArray[np.bool_]) -> _Fold:
    held_C, count_C, sum_CD = held_G[cells.group_C], cells.count_C, cells.sums(rows_ND)
    held_N = held_C[cells.cell_N]
    centred_ND = rows_ND[~held_N] - rows_ND[~held_N].mean(0)
    shrinkage = float(ledoit_wolf_shrinkage(centred_ND, assume_centered=True))
    covariance_DD = centred_ND.T @ centred_ND / len(centred_ND)
    level = np.trace(covariance_DD) / len(covariance_DD)
    shrunk_DD = (1 - shrinkage) * covariance_DD + max(shrinkage, 1e-6) * level * np.eye(len(covariance_DD))
    starts = np.cumsum(np.r_[0, count_C[held_C]])[:-1].astype(np.int64)
    return _Fold(
        rows_ND[held_N], starts, np.flatnonzero(held_C), np.flatnonzero(~held_C), sum_CD[~held_C], count_C[~held_C],
        np.linalg.pinv(shrunk_DD, hermitian=True),
    )  # fmt: skip


def _count(fold: _Fold, deals: Deals, wrong_R2: Doubles, total_R2: Doubles) -> None:
    """Add the held-out tiles of each side, and those that are taken for the other one."""
    sides = (deals.first_RC, deals.second_RC)
    trained = [side[:, fold.train] for side in sides]
    counts = [side @ fold.count_C for side in trained]
    means = [side @ fold.sum_CD / np.maximum(n, 1)[:, None] for side, n in zip(trained, counts, strict=True)]
    direction_RD = (means[1] - means[0]) @ fold.precision_DD
    middle_R = (direction_RD * (means[0] + means[1]) / 2).sum(1)
    score_RH = direction_RD @ fold.held_HD.T - middle_R[:, None]
    one_sided_R = (counts[0] == 0) | (counts[1] == 0)
    score_RH[one_sided_R] = 0  # a classifier that saw one side can but guess
    share_RH = np.where(score_RH == 0, 0.5, score_RH > 0)  # taken for the second side
    taken_RC = np.add.reduceat(share_RH, fold.held_start, axis=1)
    held_C = np.diff(fold.held_start, append=len(fold.held_HD))
    for number, side in enumerate(sides):
        here_RC = side[:, fold.held]
        total_R2[:, number] += here_RC @ held_C
        missed_RC = taken_RC if number == 0 else held_C - taken_RC
        wrong_R2[:, number] += (here_RC * missed_RC).sum(1)
