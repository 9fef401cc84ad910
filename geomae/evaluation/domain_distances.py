"""Distances between two sets of embeddings: MMD, CORAL distance, subspace angle, proxy A-distance.

Each statistic is prepared once for all tiles; each permutation of the groups then only needs sums over groups.

N tiles, B blocks (a block is the tiles of one group in one domain), G groups, R permutations, D features, H tiles that
a fold holds out, P components of all tiles, Q pairs of components, K leading components of a side
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from geomae.evaluation.linear_probe import Scale
from geomae.evaluation.permutation_tests import Codes, Doubles, GroupBlocks, Permutations, Statistic

MOST_COMPONENTS = 32
LEADING = 5
MOST_FOLDS = 10
MOST_FEATURES = 256  # leading components of the standardised embeddings; some hundred tiles do not support more


def median_distance(rows_ND: NDArray[np.floating]) -> float:
    """Median distance between two rows: the usual width of a Gaussian kernel (1 where most rows are equal)."""
    square_NN = _square_distances(rows_ND)
    median = float(np.median(np.sqrt(square_NN[np.triu_indices(len(square_NN), 1)])))
    return median if median > 0 else 1.0


def squared_mmd(rows_ND: NDArray[np.floating], blocks: GroupBlocks, width: float) -> Statistic:
    """Squared maximum mean discrepancy with the kernel exp(-d² / (2 width²)).

    The unbiased estimate (Gretton et al. 2012, eq. 3): 0 on average without a gap, for any number of tiles; it can be
    negative.
    NaN for a permutation that leaves a side with a single tile.
    """
    kernel_NN = np.exp(_square_distances(rows_ND) / (-2 * width**2))
    kernel_BB, count_B = blocks.sums(blocks.sums(kernel_NN), axis=1), blocks.count_B

    def statistic(permutations: Permutations) -> Doubles:
        a, b = permutations.first_RB, permutations.second_RB
        n, m = a @ count_B, b @ count_B
        with np.errstate(divide="ignore", invalid="ignore"):  # a side with a single tile
            within = (_form(a, kernel_BB, a) - n) / (n * (n - 1))  # the kernel of a row with itself is 1
            within += (_form(b, kernel_BB, b) - m) / (m * (m - 1))
        return np.asarray(np.where(np.minimum(n, m) > 1, within - 2 * _form(a, kernel_BB, b) / (n * m), np.nan))

    return statistic


def coral_distance(rows_ND: NDArray[np.floating], blocks: GroupBlocks) -> Statistic:
    """Squared Frobenius distance of the covariances, divided by 4 D² (Sun & Saenko 2016).

    It is computed from products of rows, without covariance matrices: with rows x_i, the second moments differ by
    A = sum w_i x_i x_i', and |A|² = sum w_i w_j (x_i x_j)²; the other terms are products with the two means.
    """
    gram_NN = _gram(rows_ND)
    gram_BN, count_B, features = blocks.sums(gram_NN), blocks.count_B, rows_ND.shape[1]
    gram_BB, square_BB = blocks.sums(gram_BN, axis=1), blocks.sums(blocks.sums(gram_NN**2), axis=1)

    def statistic(permutations: Permutations) -> Doubles:
        a, b = permutations.first_RB, permutations.second_RB
        n, m = a @ count_B, b @ count_B
        weight_RB = a / np.maximum(n - 1, 1)[:, None] - b / np.maximum(m - 1, 1)[:, None]
        total = _form(weight_RB, square_BB, weight_RB)
        mean_1, mean_2 = n * np.maximum(n - 1, 1), m * np.maximum(m - 1, 1)  # denominators of the products of means
        for part_RB, size, sign in ((a, mean_1, 1), (b, mean_2, -1)):
            along_RB = blocks.sums((part_RB @ gram_BN) ** 2, axis=1)
            total -= 2 * sign * (weight_RB * along_RB).sum(1) / size
            total += (_form(part_RB, gram_BB, part_RB) / size) ** 2
        total -= 2 * _form(a, gram_BB, b) ** 2 / (mean_1 * mean_2)
        return np.asarray(np.maximum(total, 0) / (4 * features**2))

    return statistic


def subspace_angle(rows_ND: NDArray[np.floating], blocks: GroupBlocks, leading: int = LEADING) -> Statistic:
    """Mean angle, in degrees, between the spaces of the `leading` principal components of the sides.

    A side of n tiles has n - 1 components. They are computed within the 32 leading components of all tiles: the rest is
    noise, and an eigenproblem in all features for every permutation would take minutes.
    """
    centred_ND = rows_ND - rows_ND.mean(0, dtype=np.float64)
    _, axes_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    scores_NP = centred_ND @ axes_DD[:, ::-1][:, :MOST_COMPONENTS]
    components, count_B = scores_NP.shape[1], blocks.count_B
    leading = max(1, min(leading, components // 2))  # larger spaces always intersect
    sum_BP = blocks.sums(scores_NP)
    stops = np.cumsum(count_B.astype(np.int64))
    moment_BQ = np.stack([(part.T @ part).ravel() for part in np.split(scores_NP, stops[:-1])])

    def axes_of(part_RB: Doubles) -> Doubles:
        n = (part_RB @ count_B)[:, None, None]
        mean_RP = part_RB @ sum_BP / n[:, 0]
        moment_RPP = (part_RB @ moment_BQ).reshape(-1, components, components) / n
        covariance_RPP = moment_RPP - mean_RP[:, :, None] * mean_RP[:, None, :]
        return np.linalg.eigh(covariance_RPP)[1][:, :, -leading:]

    def statistic(permutations: Permutations) -> Doubles:
        across_RKK = axes_of(permutations.first_RB).transpose(0, 2, 1) @ axes_of(permutations.second_RB)
        cosine_RK = np.linalg.svd(across_RKK, compute_uv=False)
        return np.asarray(np.rad2deg(np.arccos(np.minimum(cosine_RK, 1))).mean(1))

    return statistic


def proxy_a_distance(rows_ND: NDArray[np.floating], blocks: GroupBlocks) -> Statistic:
    """2 (1 - 2 error) of a domain classifier on held-out groups, both sides weighted equally (Ben-David et al. 2007).

    It is 2 where the classifier is always right, 0 at chance level, and negative below it. The classifier is Fisher's
    linear discriminant: its direction is the difference of the means times the inverse (Ledoit-Wolf) covariance of all
    tiles, which gives the same direction as the covariance within the sides and does not depend on the permutation. So
    one inverse per fold is enough, instead of two thousand iterative fits. Folds are made of groups, independently of
    the domains, so that the statistic is the same function for every permutation.
    """
    fold_G = _assign_folds(blocks)
    scaled_ND = Scale.of(rows_ND).apply(rows_ND)
    if scaled_ND.shape[1] > MOST_FEATURES:
        scaled_ND = scaled_ND @ np.linalg.eigh(scaled_ND.T @ scaled_ND)[1][:, -MOST_FEATURES:]
    folds = [_prepare(scaled_ND, blocks, fold_G == fold) for fold in range(int(fold_G.max()) + 1)]

    def statistic(permutations: Permutations) -> Doubles:
        wrong_R2, total_R2 = np.zeros((len(permutations), 2)), np.zeros((len(permutations), 2))
        for fold in folds:
            _count(fold, permutations, wrong_R2, total_R2)
        return np.asarray(2 * (1 - 2 * (wrong_R2 / total_R2).mean(1)))

    return statistic


def can_classify(blocks: GroupBlocks) -> bool:
    """Whether the training part of every fold has both domains."""
    fold_B = _assign_folds(blocks)[blocks.group_B]
    return all(len(np.unique(blocks.target_B[fold_B != fold])) == 2 for fold in range(int(fold_B.max()) + 1))


def _gram(rows_ND: NDArray[np.floating]) -> Doubles:
    """Products of centred rows: the mean does not affect the statistics, and centring avoids cancellation."""
    centred_ND = rows_ND - rows_ND.mean(0, dtype=np.float64)
    return np.asarray(centred_ND @ centred_ND.T)


def _square_distances(rows_ND: NDArray[np.floating]) -> Doubles:
    gram_NN = _gram(rows_ND)
    square_N = np.diag(gram_NN)
    square_NN = np.maximum(square_N[:, None] + square_N[None] - 2 * gram_NN, 0)
    np.fill_diagonal(square_NN, 0)
    return np.asarray(square_NN)


def _form(left_RB: Doubles, form_BB: Doubles, right_RB: Doubles) -> Doubles:
    """left' form right, the bilinear form for each permutation."""
    return np.asarray(((left_RB @ form_BB) * right_RB).sum(1))


@dataclass(frozen=True)
class _Fold:
    """The held-out rows and blocks of a fold, and the sums from which the classifier of a permutation is made."""

    held_HD: Doubles
    held_start: Codes
    held: Codes
    train: Codes
    sum_BD: Doubles
    count_B: Doubles
    precision_DD: Doubles


def _assign_folds(blocks: GroupBlocks) -> Codes:
    """The fold of each group: the largest groups first, each in the fold with the fewest tiles so far."""
    size_G = np.bincount(blocks.group_B, weights=blocks.count_B)
    fold_G = np.zeros(len(size_G), dtype=np.int64)
    total_F = np.zeros(min(MOST_FOLDS, len(size_G)))
    for group in np.argsort(-size_G, kind="stable"):
        fold_G[group] = total_F.argmin()
        total_F[fold_G[group]] += size_G[group]
    return fold_G


def _prepare(rows_ND: Doubles, blocks: GroupBlocks, held_G: NDArray[np.bool_]) -> _Fold:
    held_B, count_B, sum_BD = held_G[blocks.group_B], blocks.count_B, blocks.sums(rows_ND)
    held_N = held_B[blocks.block_N]
    centred_ND = rows_ND[~held_N] - rows_ND[~held_N].mean(0)
    shrinkage = float(ledoit_wolf_shrinkage(centred_ND, assume_centered=True))
    covariance_DD = centred_ND.T @ centred_ND / len(centred_ND)
    level = np.trace(covariance_DD) / len(covariance_DD)
    shrunk_DD = (1 - shrinkage) * covariance_DD + max(shrinkage, 1e-6) * level * np.eye(len(covariance_DD))
    starts = np.cumsum(np.r_[0, count_B[held_B]])[:-1].astype(np.int64)
    return _Fold(
        rows_ND[held_N], starts, np.flatnonzero(held_B), np.flatnonzero(~held_B), sum_BD[~held_B], count_B[~held_B],
        np.linalg.pinv(shrunk_DD, hermitian=True),
    )  # fmt: skip


def _count(fold: _Fold, permutations: Permutations, wrong_R2: Doubles, total_R2: Doubles) -> None:
    """Add the number of held-out tiles of each side, and of those that are misclassified."""
    parts = (permutations.first_RB, permutations.second_RB)
    trained = [part_RB[:, fold.train] for part_RB in parts]
    counts = [part_RB @ fold.count_B for part_RB in trained]
    means = [part_RB @ fold.sum_BD / np.maximum(n, 1)[:, None] for part_RB, n in zip(trained, counts, strict=True)]
    direction_RD = (means[1] - means[0]) @ fold.precision_DD
    middle_R = (direction_RD * (means[0] + means[1]) / 2).sum(1)
    score_RH = direction_RD @ fold.held_HD.T - middle_R[:, None]
    one_sided_R = (counts[0] == 0) | (counts[1] == 0)
    score_RH[one_sided_R] = 0  # trained on one side only: chance level
    share_RH = np.where(score_RH == 0, 0.5, score_RH > 0)  # classified as the second side
    taken_RB = np.add.reduceat(share_RH, fold.held_start, axis=1)
    held_B = np.diff(fold.held_start, append=len(fold.held_HD))
    for number, part_RB in enumerate(parts):
        here_RB = part_RB[:, fold.held]
        total_R2[:, number] += here_RB @ held_B
        missed_RB = taken_RB if number == 0 else held_B - taken_RB
        wrong_R2[:, number] += (here_RB * missed_RB).sum(1)
