"""How far apart two sets of embeddings are: MMD, CORAL distance and angles of their leading components.

Each measure is prepared once for all tiles; a deal of groups to two sides then costs sums over groups.

N tiles, C cells, R deals, D features, P components of all tiles, K leading components of a side
"""

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.gap_cells import Cells, Deals, Doubles, Measure

MOST_COMPONENTS = 32
LEADING = 5


def median_distance(rows_ND: NDArray[np.floating]) -> float:
    """Median distance between two rows: the usual width of a Gaussian kernel (1 where most rows are equal)."""
    square_NN = _square_distances(rows_ND)
    median = float(np.median(np.sqrt(square_NN[np.triu_indices(len(square_NN), 1)])))
    return median if median > 0 else 1.0


def squared_mmd(rows_ND: NDArray[np.floating], cells: Cells, width: float) -> Measure:
    """Squared maximum mean discrepancy with the kernel exp(-d² / (2 width²)).

    The unbiased estimate (Gretton et al. 2012, eq. 3): about 0 without a gap, however few the tiles; it can be below.
    NaN for a deal that leaves a side with a single tile.
    """
    kernel_NN = np.exp(_square_distances(rows_ND) / (-2 * width**2))
    kernel_CC, count_C = cells.sums(cells.sums(kernel_NN), axis=1), cells.count_C

    def measure(deals: Deals) -> Doubles:
        a, b = deals.first_RC, deals.second_RC
        n, m = a @ count_C, b @ count_C
        with np.errstate(divide="ignore", invalid="ignore"):  # of a single tile nothing is known within
            within = (_form(a, kernel_CC, a) - n) / (n * (n - 1))  # the kernel of a row with itself is 1
            within += (_form(b, kernel_CC, b) - m) / (m * (m - 1))
        return np.asarray(np.where(np.minimum(n, m) > 1, within - 2 * _form(a, kernel_CC, b) / (n * m), np.nan))

    return measure


def coral_distance(rows_ND: NDArray[np.floating], cells: Cells) -> Measure:
    """Squared Frobenius distance of the covariances, divided by 4 D² (Sun & Saenko 2016).

    Of products of rows alone: with x_i the rows, the second moments differ by A = sum w_i x_i x_i', and
    |A|² = sum w_i w_j (x_i x_j)²; what is left are products with the two means. So no covariance is ever formed.
    """
    gram_NN = _gram(rows_ND)
    gram_CN, count_C, features = cells.sums(gram_NN), cells.count_C, rows_ND.shape[1]
    gram_CC, square_CC = cells.sums(gram_CN, axis=1), cells.sums(cells.sums(gram_NN**2), axis=1)

    def measure(deals: Deals) -> Doubles:
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


def subspace_angle(rows_ND: NDArray[np.floating], cells: Cells, leading: int = LEADING) -> Measure:
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

    def measure(deals: Deals) -> Doubles:
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
