"""How far apart two sets of embeddings are: MMD, CORAL distance, angles of leading components, proxy A-distance.

Each measure is prepared once for all tiles; a deal of groups to two sides then costs sums over groups.

N tiles, C cells, R deals, D features, P components of all tiles, K leading components of a side

N tiles, C cells, R deals, D features, F folds
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from geomae.evaluation.linear_probe import Scale
from geomae.evaluation.permutations import Codes, Doubles, GroupBlocks, Measure, Permutations

MOST_COMPONENTS = 32
LEADING = 5


def median_distance(rows_ND: NDArray[np.floating]) -> float:
    """Median distance between two rows: the usual width of a Gaussian kernel (1 where most rows are equal)."""
    square_NN = _square_distances(rows_ND)
    median = float(np.median(np.sqrt(square_NN[np.triu_indices(len(square_NN), 1)])))
    return median if median > 0 else 1.0


def squared_mmd(rows_ND: NDArray[np.floating], cells: GroupBlocks, width: float) -> Measure:
    """Squared maximum mean discrepancy with the kernel exp(-d² / (2 width²)).

    The unbiased estimate (Gretton et al. 2012, eq. 3): about 0 without a gap, however few the tiles; it can be below.
    NaN for a deal that leaves a side with a single tile.
    """
    kernel_NN = np.exp(_square_distances(rows_ND) / (-2 * width**2))
    kernel_CC, count_C = cells.sums(cells.sums(kernel_NN), axis=1), cells.count_C

    def measure(deals: Permutations) -> Doubles:
        a, b = deals.first_RC, deals.second_RC
        n, m = a @ count_C, b @ count_C
        with np.errstate(divide="ignore", invalid="ignore"):  # of a single tile nothing is known within
            within = (_form(a, kernel_CC, a) - n) / (n * (n - 1))  # the kernel of a row with itself is 1
            within += (_form(b, kernel_CC, b) - m) / (m * (m - 1))
        return np.asarray(np.where(np.minimum(n, m) > 1, within - 2 * _form(a, kernel_CC, b) / (n * m), np.nan))

    return measure


def coral_distance(rows_ND: NDArray[np.floating], cells: GroupBlocks) -> Measure:
    """Squared Frobenius distance of the covariances, divided by 4 D² (Sun & Saenko 2016).

    Of products of rows alone: with x_i the rows, the second moments differ by A = sum w_i x_i x_i', and
    |A|² = sum w_i w_j (x_i x_j)²; what is left are products with the two means. So no covariance is ever formed.
    """
    gram_NN = _gram(rows_ND)
    gram_CN, count_C, features = cells.sums(gram_NN), cells.count_C, rows_ND.shape[1]
    gram_CC, square_CC = cells.sums(gram_CN, axis=1), cells.sums(cells.sums(gram_NN**2), axis=1)

    def measure(deals: Permutations) -> Doubles:
        a, b = deals.first_RC, deals.second_RC
        n, m = a @ count_C, b @ count_C
        weight_RC = a / np.maximum(n - 1, 1)[:, None] - b / np.maximum(m - 1, 1)[:, None]
        total = _form(weight_RC, square_CC, weight_RC)
        mean_1, mean_2 = n * np.maximum(n - 1, 1), m * np.maximum(m - 1, 1)  # n / (n - 1) of a product of means
        for side, size, sign in ((a, mean_1, 1), (b, mean_2, -1)):
            along_RC = cells.sums((side @ gram_CN) ** 2, axis=1)
            total -= 2 * sign * (weight_RC * along_RC).sum(1) / size
            total += (_form(side, gram_CC, side) / size) ** 2
        total -= 2 * _form(a, gram_CC, b) ** 2 / (mean_1 * mean_2)
        return np.asarray(np.maximum(total, 0) / (4 * features**2))

    return measure


def subspace_angle(rows_ND: NDArray[np.floating], cells: GroupBlocks, leading: int = LEADING) -> Measure:
    """Mean angle, in degrees, between the spaces of the `leading` principal components of the sides.

    A side of n tiles has n - 1 of them.

    Seen within the 32 leading components of all tiles: what lies outside is noise, and an eigenproblem of every deal in
    all features would take minutes.
    """
    centred_ND = rows_ND - rows_ND.mean(0, dtype=np.float64)
    _, axes_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    scores_NP = centred_ND @ axes_DD[:, ::-1][:, :MOST_COMPONENTS]
    components, count_C = scores_NP.shape[1], cells.count_C
    leading = max(1, min(leading, components // 2))  # spaces of more than half always meet
    sum_CP = cells.sums(scores_NP)
    stops = np.cumsum(count_C.astype(np.int64))
    moment_CQ = np.stack(
        [(part.T @ part).ravel() for part in np.split(scores_NP, stops[:-1])]
    )  # Q: pairs of components

    def axes_of(side_RC: Doubles) -> Doubles:
        n = (side_RC @ count_C)[:, None, None]
        mean_RP = side_RC @ sum_CP / n[:, 0]
        moment_RPP = (side_RC @ moment_CQ).reshape(-1, components, components) / n
        covariance_RPP = moment_RPP - mean_RP[:, :, None] * mean_RP[:, None, :]
        return np.linalg.eigh(covariance_RPP)[1][:, :, -leading:]

    def measure(deals: Permutations) -> Doubles:
        across_RKK = axes_of(deals.first_RC).transpose(0, 2, 1) @ axes_of(deals.second_RC)
        cosine_RK = np.linalg.svd(across_RKK, compute_uv=False)
        return np.asarray(np.rad2deg(np.arccos(np.minimum(cosine_RK, 1))).mean(1))

    return measure


def _gram(rows_ND: NDArray[np.floating]) -> Doubles:
    """Products of rows about their common mean, which no measure here depends on and which would cost digits."""
    centred_ND = rows_ND - rows_ND.mean(0, dtype=np.float64)
    return np.asarray(centred_ND @ centred_ND.T)


def _square_distances(rows_ND: NDArray[np.floating]) -> Doubles:
    gram_NN = _gram(rows_ND)
    square_N = np.diag(gram_NN)
    square_NN = np.maximum(square_N[:, None] + square_N[None] - 2 * gram_NN, 0)
    np.fill_diagonal(square_NN, 0)
    return np.asarray(square_NN)


def _form(left_RC: Doubles, form_CC: Doubles, right_RC: Doubles) -> Doubles:
    """left' form right, deal by deal."""
    return np.asarray(((left_RC @ form_CC) * right_RC).sum(1))


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


def proxy_a_distance(rows_ND: NDArray[np.floating], cells: GroupBlocks) -> Measure:
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

    def measure(deals: Permutations) -> Doubles:
        wrong_R2, total_R2 = np.zeros((len(deals), 2)), np.zeros((len(deals), 2))
        for fold in folds:
            _count(fold, deals, wrong_R2, total_R2)
        return np.asarray(2 * (1 - 2 * (wrong_R2 / total_R2).mean(1)))

    return measure


def can_classify(cells: GroupBlocks) -> bool:
    """Whether the classifier of every fold sees both domains."""
    fold_C = _deal_folds(cells)[cells.group_C]
    return all(len(np.unique(cells.target_C[fold_C != fold])) == 2 for fold in range(int(fold_C.max()) + 1))


def _deal_folds(cells: GroupBlocks) -> Codes:
    """The fold of each group: the largest first, each to the fold with the fewest tiles."""
    size_G = np.bincount(cells.group_C, weights=cells.count_C)
    fold_G = np.zeros(len(size_G), dtype=np.int64)
    total_F = np.zeros(min(MOST_FOLDS, len(size_G)))
    for group in np.argsort(-size_G, kind="stable"):
        fold_G[group] = total_F.argmin()
        total_F[fold_G[group]] += size_G[group]
    return fold_G


def _prepare(rows_ND: Doubles, cells: GroupBlocks, held_G: NDArray[np.bool_]) -> _Fold:
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


def _count(fold: _Fold, deals: Permutations, wrong_R2: Doubles, total_R2: Doubles) -> None:
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
