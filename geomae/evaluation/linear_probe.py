"""Linear probes: classes, numbers or classes of pixels predicted from frozen embeddings.

T rows (tiles), D features, K classes, S values of C, E directions of the features with variance; for segmentation
R x C patches of a tile, H x W pixels of a tile, N patches of all tiles
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.linalg import eigh, svd
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from geomae.evaluation.between_patches import between_patches
from geomae.metrics.predictions import UNKNOWN, Codes, Floats, average, balanced_accuracy, class_scores, confusion
from geomae.randomness import generator

CURVATURE = 0.25  # upper bound of the curvature of the logistic loss (Böhning 1992)
TINY = 1e-12  # share of the largest eigenvalue: directions below it are rounding
LOOSE, TIGHT = 1e-4, 1e-6  # largest gradient at the end; LOOSE changes no prediction at strengths that generalise
MOST_STEPS = 2000

Folds = Sequence[tuple[Codes, Codes]]
C_VALUES: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
RIDGE_C_VALUES = tuple(10.0**power for power in range(-6, 4))
MOST_PATCHES = 10_000  # for training; more change little and are slow
BLOCK = 64  # tiles whose pixels are in memory at once


class Logistic:
    """The rows of one fit, prepared for any number of values of C.

    Minimises `-sum(target_TK * log p_TK) + sum(weight_DK ** 2) / (2 * C)` without a penalty on intercepts, like
    scikit-learn's LogisticRegression with this C. A row of `target_TK` is the weight of the row, divided among its
    classes.

    Features are rotated to the principal axes of their weighted second moments, which does not change the penalty, and
    each axis is scaled by its curvature: then the minimiser needs far fewer steps.
    """

    def __init__(self, features_TD: Floats, target_TK: Floats) -> None:
        weight_T = target_TK.sum(1)
        if len(features_TD) < features_TD.shape[1]:
            _, singular_E, axes_ED = svd(features_TD * np.sqrt(weight_T)[:, None], full_matrices=False)
            self._spread_E, self._axes_DE = singular_E**2, axes_ED.T
        else:
            self._spread_E, self._axes_DE = eigh(features_TD.T @ (features_TD * weight_T[:, None]))
        kept_E = self._spread_E > self._spread_E.max() * TINY
        self._spread_E, self._axes_DE = self._spread_E[kept_E], self._axes_DE[:, kept_E]
        self._rows_TE = features_TD @ self._axes_DE
        self._total = float(weight_T.sum())
        self._weight_T1 = weight_T[:, None] / self._total
        self._target_TK = target_TK / self._total

    def solve(
        self, C: float, start: tuple[Floats, Floats] | None = None, tolerance: float = TIGHT
    ) -> tuple[Floats, Floats]:
        """Weights (D, K) and intercepts (K). `start` is the solution for another C, to start from."""
        penalty = 1 / (C * self._total)
        scale_E1 = 1 / np.sqrt(CURVATURE * self._spread_E / self._total + penalty)[:, None]
        scaled_TE, penalty_E1 = self._rows_TE * scale_E1[:, 0], penalty * scale_E1**2
        shape = (len(scale_E1) + 1, self._target_TK.shape[1])  # the last row holds the intercepts

        def loss(values: Floats) -> tuple[float, Floats]:
            place = values.reshape(shape)
            scores_TK = scaled_TE @ place[:-1]
            scores_TK += place[-1] / np.sqrt(CURVATURE)
            scores_TK -= scores_TK.max(1, keepdims=True)
            right = float((scores_TK * self._target_TK).sum())
            np.exp(scores_TK, out=scores_TK)
            sum_T1 = scores_TK.sum(1, keepdims=True)
            value = float((self._weight_T1 * np.log(sum_T1)).sum()) - right
            excess_TK = scores_TK * (self._weight_T1 / sum_T1) - self._target_TK
            pulled_EK = penalty_E1 * place[:-1]
            slope = np.empty(shape)
            slope[:-1] = scaled_TE.T @ excess_TK + pulled_EK
            slope[-1] = excess_TK.sum(0) / np.sqrt(CURVATURE)
            return value + 0.5 * float((place[:-1] * pulled_EK).sum()), slope.ravel()

        begin = np.zeros(shape)
        if start is not None:
            begin[:-1], begin[-1] = self._axes_DE.T @ start[0] / scale_E1, start[1] * np.sqrt(CURVATURE)
        limits = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "gtol": tolerance, "ftol": 0.0}
        end = minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=limits).x.reshape(shape)
        return self._axes_DE @ (scale_E1 * end[:-1]), end[-1] / np.sqrt(CURVATURE)


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process. Finding them takes milliseconds, hence once."""
    return ThreadpoolController().select(user_api="blas")


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each feature over the tiles that a probe is trained on."""

    mean_D: Floats
    std_D: Floats

    @classmethod
    def of(cls, embedding_TD: NDArray[np.floating], weight_T: Floats | None = None) -> "Scale":
        """The scale of some tiles, weighted by `weight_T` if given. Constant features have a deviation of 1."""
        wide_TD = embedding_TD.astype(np.float64)
        if weight_T is None:
            mean_D, std_D = wide_TD.mean(0), wide_TD.std(0)
        else:
            mean_D = np.average(wide_TD, axis=0, weights=weight_T)
            std_D = np.sqrt(np.average((wide_TD - mean_D) ** 2, axis=0, weights=weight_T))
        constant_D = std_D <= 1e-9 * np.abs(wide_TD).max(0)
        return cls(mean_D, np.where(constant_D, 1.0, std_D))

    def apply(self, embedding_TD: NDArray[np.floating]) -> Floats:
        """Standardised embeddings."""
        return (embedding_TD.astype(np.float64) - self.mean_D) / self.std_D


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of embeddings; a class that it was not trained on is never predicted."""

    scale: Scale
    weight_DK: Floats
    bias_K: Floats

    def scores(self, embedding_TD: NDArray[np.floating]) -> Floats:
        """Scores (T, K), whose softmax are probabilities."""
        return self.scale.apply(embedding_TD) @ self.weight_DK + self.bias_K

    def predict(self, embedding_TD: NDArray[np.floating]) -> Codes:
        """The class (T,) with the highest score."""
        return np.asarray(self.scores(embedding_TD).argmax(1))

    def shifted(self, offset_K: Floats) -> "LinearProbe":
        """The probe with `offset_K` added to its scores."""
        return replace(self, bias_K=self.bias_K + offset_K)


def one_hot(label_T: Codes, classes: int) -> Floats:
    """The classes (T, K) of tiles, as shares that are 0 or 1."""
    return np.eye(classes)[label_T]


def fit_path(
    embedding_TD: NDArray[np.floating],
    share_TK: Floats,
    C_values: Sequence[float],
    *,
    balanced: bool = True,
    scale: Scale | None = None,
    tolerance: float = TIGHT,
) -> list[LinearProbe]:
    """A probe for each strength (the C of scikit-learn's LogisticRegression), each started from the previous one.

    `share_TK` are the class shares of a tile or patch. With `balanced`, classes have equal weight
    (`class_weight="balanced"`). The scale is that of these tiles unless another is given.
    """
    scale = scale or Scale.of(embedding_TD)
    count_K = share_TK.sum(0)
    known_K = np.flatnonzero(count_K > 0)
    target_TK = share_TK[:, known_K]
    if balanced:
        target_TK = target_TK * (count_K.sum() / (len(known_K) * count_K[known_K]))
    probes: list[LinearProbe] = []
    solution = None
    # One thread: matrices with a column per class are small, and threads would spend more time waiting for each other.
    with _blas().limit(limits=1):
        problem = Logistic(scale.apply(embedding_TD), target_TK)
        for C in C_values:
            # With two classes, scikit-learn penalises the difference of both weight vectors: twice our penalty.
            solution = problem.solve(C / 2 if len(known_K) == 2 else C, solution, tolerance)
            weight_DK = np.zeros((embedding_TD.shape[1], len(count_K)))
            bias_K = np.full(len(count_K), -np.inf)
            weight_DK[:, known_K], bias_K[known_K] = solution
            probes.append(LinearProbe(scale, weight_DK, bias_K))
    return probes


def fit_linear(
    embedding_TD: NDArray[np.floating], label_T: Codes, classes: int, C: float, scale: Scale | None = None
) -> LinearProbe:
    """The probe of one strength; see `fit_path`."""
    return fit_path(embedding_TD, one_hot(label_T, classes), [C], scale=scale)[0]


def choose_C(
    embedding_TD: NDArray[np.floating],
    label_T: Codes,
    classes: int,
    folds: Folds,
    C_values: Sequence[float] = C_VALUES,
) -> tuple[float, dict[float, float]]:
    """The strength with the highest balanced accuracy over all held-out tiles of `folds`, and the score of each.

    Each fold is (tiles to train on, tiles held out). In a tie the stronger regularisation is chosen. A class that is
    missing in the training part of a fold is wrong at every strength, and so does not affect the choice.
    """
    C_values = sorted(C_values)
    counts_SKK = np.zeros((len(C_values), classes, classes))
    for train, held_out in folds:
        probes = fit_path(embedding_TD[train], one_hot(label_T[train], classes), C_values, tolerance=LOOSE)
        for number, probe in enumerate(probes):
            counts_SKK[number] += confusion(label_T[held_out], probe.predict(embedding_TD[held_out]), classes)
    score_S = balanced_accuracy(counts_SKK)
    return C_values[int(score_S.argmax())], dict(zip(C_values, score_S.tolist(), strict=True))


@dataclass(frozen=True)
class RidgeProbe:
    """A linear function of embeddings."""

    scale: Scale
    weight_D: Floats
    bias: float

    def predict(self, embedding_TD: NDArray[np.floating]) -> Floats:
        """Values (T,)."""
        return self.scale.apply(embedding_TD) @ self.weight_D + self.bias


def fit_ridge_path(embedding_TD: NDArray[np.floating], value_T: Floats, C_values: Sequence[float]) -> list[RidgeProbe]:
    """A probe for each strength, which is 1 / `alpha` of scikit-learn's Ridge on standardised embeddings."""
    scale, mean = Scale.of(embedding_TD), float(value_T.mean())
    left_TE, singular_E, axes_ED = svd(scale.apply(embedding_TD), full_matrices=False)
    along_E = left_TE.T @ (value_T - mean)
    return [RidgeProbe(scale, axes_ED.T @ (along_E * singular_E / (singular_E**2 + 1 / C)), mean) for C in C_values]


def choose_ridge(
    embedding_TD: NDArray[np.floating], value_T: Floats, folds: Folds, C_values: Sequence[float] = RIDGE_C_VALUES
) -> tuple[float, dict[float, float]]:
    """The strength with the lowest error over all held-out tiles of `folds`, and the RMSE of each.

    In a tie the stronger regularisation is chosen.
    """
    C_values = sorted(C_values)
    square_S, count = np.zeros(len(C_values)), 0
    for train, held_out in folds:
        count += len(held_out)
        for number, probe in enumerate(fit_ridge_path(embedding_TD[train], value_T[train], C_values)):
            square_S[number] += np.square(probe.predict(embedding_TD[held_out]) - value_T[held_out]).sum()
    rmse_S = np.sqrt(square_S / count)
    return C_values[int(rmse_S.argmin())], dict(zip(C_values, rmse_S.tolist(), strict=True))


def class_shares(class_THW: NDArray[np.int16], rows: int, cols: int, classes: int) -> Floats:
    """Share of each class (T, R, C, K) in all pixels of a patch; unknown pixels have no class.

    A pixel belongs to the patch that contains its centre.
    """
    tiles, height, width = class_THW.shape
    row_H = (np.arange(height) * 2 + 1) * rows // (2 * height)
    col_W = (np.arange(width) * 2 + 1) * cols // (2 * width)
    patch_THW = (np.arange(tiles)[:, None, None] * rows + row_H[:, None]) * cols + col_W
    known_THW = class_THW != UNKNOWN
    class_of_patch = patch_THW[known_THW] * classes + class_THW[known_THW]
    count = np.bincount(class_of_patch, minlength=tiles * rows * cols * classes).reshape(tiles, rows, cols, classes)
    pixels_RC = np.outer(np.bincount(row_H, minlength=rows), np.bincount(col_W, minlength=cols))
    return count / np.maximum(pixels_RC, 1)[:, :, None]


def draw_patches(share_TRCK: Floats, seed: int, most: int = MOST_PATCHES) -> Codes:
    """Sorted positions of at most `most` patches to train on, drawn at random from those with a known class."""
    usable = np.flatnonzero(share_TRCK.sum(-1).ravel() > 0)
    if len(usable) > most:
        usable = generator(seed, "segmentation patches").choice(usable, most, replace=False)
    return np.sort(usable)


def choose_patch_C(
    patches_TRCD: NDArray[np.floating],
    share_TRCK: Floats,
    folds: Folds,
    seed: int,
    C_values: Sequence[float] = C_VALUES,
) -> tuple[float, dict[float, float]]:
    """The strength with the highest mean IoU over the patches of all held-out tiles, and the score of each.

    Patches are counted by their class shares. Classes are not balanced, because every pixel has equal weight in an IoU.
    In a tie the stronger regularisation is chosen.
    """
    C_values = sorted(C_values)
    classes = share_TRCK.shape[-1]
    counts_SKK = np.zeros((len(C_values), classes, classes))
    for learn, held in folds:
        patches_ND, share_NK = training_patches(patches_TRCD[learn], share_TRCK[learn], seed)
        probes = fit_path(patches_ND, share_NK, C_values, balanced=False, tolerance=LOOSE)
        truth_NK = share_TRCK[held].reshape(-1, classes)
        for number, probe in enumerate(probes):
            predicted_N = probe.predict(patches_TRCD[held].reshape(len(truth_NK), -1))
            counts_SKK[number] += truth_NK.T @ one_hot(predicted_N, classes)
    score_S = average(class_scores(counts_SKK)["iou"])
    return C_values[int(score_S.argmax())], dict(zip(C_values, score_S.tolist(), strict=True))


def training_patches(
    patches_TRCD: NDArray[np.floating], share_TRCK: Floats, seed: int
) -> tuple[NDArray[np.floating], Floats]:
    """Patches (N, D) to train on and the shares (N, K) of their classes."""
    drawn = draw_patches(share_TRCK, seed)
    flat_ND = patches_TRCD.reshape(-1, patches_TRCD.shape[-1])
    return flat_ND[drawn], share_TRCK.reshape(-1, share_TRCK.shape[-1])[drawn]


def predict_pixels(
    probe: LinearProbe, patches_TRCD: NDArray[np.floating], valid_THW: NDArray[np.bool_]
) -> Iterator[tuple[slice, Codes]]:
    """Parts of the tiles, as slices, and the class (T, H, W) of each of their pixels, as maps have it.

    The probabilities of the patches are interpolated between the centres of those with a valid pixel.
    """
    for begin in range(0, len(patches_TRCD), BLOCK):
        part = slice(begin, min(begin + BLOCK, len(patches_TRCD)))
        scores_TRCK = torch.from_numpy(probe.scores(patches_TRCD[part]))
        probability_TKRC = scores_TRCK.softmax(-1).permute(0, 3, 1, 2)
        probability_TKHW = between_patches(probability_TKRC, torch.from_numpy(valid_THW[part]))
        yield part, probability_TKHW.argmax(1).numpy()
