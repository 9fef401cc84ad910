"""Scores of predicted classes, pixels and numbers from sums over groups, with bootstrap intervals over the groups.

T tiles, G groups, K classes, R resamples; X any leading dimensions, such as resamples. A confusion matrix has truth in
rows and predictions in columns.

TILE_SCORES and PIXEL_SCORES are the registries: a new score is a function and an entry there (CONTRIBUTING.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geomae.randomness import generator

MOST_FOLDS = 5  # of the training tiles, in which a probe chooses its regularisation
FEWEST_GROUPS = 10  # a bootstrap interval over fewer groups would be too narrow
RESAMPLES = 1000
LEVEL = 0.95
ROUNDING = 1e-12  # share of a sum of squares below which a difference from it is only rounding


Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
UNKNOWN = -1  # the class of a pixel that is not scored
ALL = "all"
Values = dict[tuple[str, str], Floats]  # by metric and class
SPELLED = {
    "mean_iou": "mean IoU", "iou": "IoU", "r2": "R²", "macro_f1": "macro F1", "f1": "F1", "rmse": "RMSE", "mae": "MAE",
}  # fmt: skip


def metric_name(metric: str) -> str:
    """Return the name of a metric for tables and figures."""
    return SPELLED.get(metric, metric.replace("_", " "))


def resample_groups(groups: int, seed: int) -> NDArray[np.float64] | None:
    """Draw bootstrap weights (R, G): how often each group is drawn in each resample; None with fewer than ten groups.

    The same seed and number of groups give the same resamples, so that intervals of differences are paired.
    """
    if groups < FEWEST_GROUPS:
        return None
    rng = generator(seed, "bootstrap")
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(np.float64)


def percentile_interval(values_R: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic from its values in the resamples; NaN values are left out."""
    low, high = np.nanquantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def group_interval(
    statistic: Callable[[NDArray[np.float64]], float], group_T: NDArray[np.int64], seed: int
) -> tuple[float, float] | None:
    """The 95 % percentile interval of `statistic(weight_T)` over resampled groups; None with fewer than ten groups.

    `weight_T` says how often each tile counts. `resample_groups` tells why intervals of differences are paired.
    """
    counts_RG = resample_groups(int(group_T.max()) + 1, seed)
    if counts_RG is None:
        return None
    return percentile_interval(np.array([statistic(counts_G[group_T]) for counts_G in counts_RG]))


def confusion(truth_T: Codes, predicted_T: Codes, classes: int) -> Floats:
    """Confusion matrix (K, K): counts by true class (row) and predicted class (column)."""
    one_group_T = np.zeros(len(truth_T), dtype=np.int64)
    return np.asarray(confusion_by_group(truth_T, predicted_T, one_group_T, classes, 1)[0])


def confusion_by_group(truth_T: Codes, predicted_T: Codes, group_T: Codes, classes: int, groups: int) -> Floats:
    """Confusion matrix of each group: (G, K, K); their sum is the matrix of all tiles."""
    cell_T = (group_T * classes + truth_T) * classes + predicted_T
    counts = np.bincount(cell_T, minlength=groups * classes * classes)
    return counts.reshape(groups, classes, classes).astype(np.float64)


def accuracy(counts_XKK: Floats) -> Floats:
    """Fraction of correct predictions: (X)."""
    right_X = np.trace(counts_XKK, axis1=-2, axis2=-1)
    return _share(right_X, counts_XKK.sum((-2, -1)))


def class_scores(counts_XKK: Floats) -> dict[str, Floats]:
    """Recall, precision, F1 and intersection over union (IoU) of each class: (X, K).

    Recall is NaN for a class that is absent from the truth. Precision, F1 and IoU are 0 for a class of the truth that
    was never predicted. All are NaN for a class that is absent from both.
    """
    right_XK = np.diagonal(counts_XKK, axis1=-2, axis2=-1)
    truth_XK, predicted_XK = counts_XKK.sum(-1), counts_XKK.sum(-2)
    either_XK = truth_XK + predicted_XK - right_XK
    return {
        "recall": _share(right_XK, truth_XK),
        "precision": np.where((predicted_XK == 0) & (truth_XK > 0), 0.0, _share(right_XK, predicted_XK)),
        "f1": _share(2 * right_XK, truth_XK + predicted_XK),
        "iou": _share(right_XK, either_XK),
    }


def balanced_accuracy(counts_XKK: Floats, averaged_K: NDArray[np.bool_] | None = None) -> Floats:
    """Mean recall (X) over the classes of the truth, or over those of them that `averaged_K` selects."""
    return average(class_scores(counts_XKK)["recall"], averaged_K)


def average(score_XK: Floats, averaged_K: NDArray[np.bool_] | None = None) -> Floats:
    """Mean score (X) over the classes whose score is not NaN, or over those of them that `averaged_K` selects."""
    chosen_XK = score_XK if averaged_K is None else np.where(averaged_K, score_XK, np.nan)
    known_XK = ~np.isnan(chosen_XK)
    return _share(np.where(known_XK, chosen_XK, 0).sum(-1), known_XK.sum(-1))


def macro_f1(counts_XKK: Floats, averaged_K: NDArray[np.bool_] | None = None) -> Floats:
    """Mean F1 (X) over the classes of the truth, or over those of them that `averaged_K` selects."""
    return average(class_scores(counts_XKK)["f1"], averaged_K)


def mean_iou(counts_XKK: Floats, averaged_K: NDArray[np.bool_] | None = None) -> Floats:
    """Mean IoU (X) over the classes of truth and prediction, or over those of them that `averaged_K` selects."""
    return average(class_scores(counts_XKK)["iou"], averaged_K)


# Each makes of confusion matrices (X, K, K), and of the classes that averages count, one score (X).
Score = Callable[[Floats, NDArray[np.bool_] | None], Floats]
_ACCURACY: dict[str, Score] = {
    "accuracy": lambda counts_XKK, _: accuracy(counts_XKK),
    "balanced_accuracy": balanced_accuracy,
}
TILE_SCORES: Mapping[str, Score] = {**_ACCURACY, "macro_f1": macro_f1}
PIXEL_SCORES: Mapping[str, Score] = {"mean_iou": mean_iou, **_ACCURACY}


def _share(part_X: Floats, whole_X: Floats) -> Floats:
    unknown_X = np.full(np.shape(whole_X), np.nan)
    return np.asarray(np.divide(part_X, whole_X, out=unknown_X, where=whole_X > 0))


class Measure(Protocol):
    """A set of scores: sums per group that can be added and weighted, and the scores of such sums."""

    @property
    def main(self) -> str:
        """Name of the score by which encoders are compared."""

    def sums(self, truth: NDArray[Any], predicted: NDArray[Any], group_T: Codes, groups: int) -> Floats:
        """The sums of each group from which the scores are computed: (G, ...)."""

    def values(self, sums_X: Floats) -> Values:
        """The scores of (weighted) sums of groups: each (X,)."""

    def groups(self, sums: Floats) -> dict[str, int]:
        """Number of groups in `sums` (G, ...), and of those that hold each class."""


@dataclass(frozen=True)
class ClassMeasure:
    """Scores of one class per tile; `averaged_K` selects the classes that count in the averages."""

    names: Sequence[str]
    averaged_K: NDArray[np.bool_]
    main: str = "balanced_accuracy"

    def sums(self, truth: NDArray[Any], predicted: NDArray[Any], group_T: Codes, groups: int) -> Floats:
        """Confusion matrix of each group: (G, K, K)."""
        return confusion_by_group(truth, predicted, group_T, len(self.names), groups)

    def values(self, sums_X: Floats) -> Values:
        """The scores of TILE_SCORES; recall, precision and F1 of each class."""
        values = {(name, ALL): score(sums_X, self.averaged_K) for name, score in TILE_SCORES.items()}
        return values | _of_classes(class_scores(sums_X), ("recall", "precision", "f1"), self.names)

    def groups(self, sums: Floats) -> dict[str, int]:
        """Number of groups, and of those that hold each class."""
        return _groups(sums, self.names)


@dataclass(frozen=True)
class PixelMeasure:
    """Scores of one class per pixel, of tiles (T, H, W); pixels whose truth is UNKNOWN do not count."""

    names: Sequence[str]
    averaged_K: NDArray[np.bool_]
    main: str = "mean_iou"

    def sums(self, truth: NDArray[Any], predicted: NDArray[Any], group_T: Codes, groups: int) -> Floats:
        """Confusion matrix of each group, in pixels: (G, K, K)."""
        group_THW = np.broadcast_to(group_T[:, None, None], truth.shape)
        known_THW = truth != UNKNOWN
        parts = (truth[known_THW].astype(np.int64), predicted[known_THW].astype(np.int64), group_THW[known_THW])
        return confusion_by_group(*parts, len(self.names), groups)

    def values(self, sums_X: Floats) -> Values:
        """The scores of PIXEL_SCORES; IoU and recall of each class."""
        values = {(name, ALL): score(sums_X, self.averaged_K) for name, score in PIXEL_SCORES.items()}
        return values | _of_classes(class_scores(sums_X), ("iou", "recall"), self.names)

    def groups(self, sums: Floats) -> dict[str, int]:
        """Number of groups, and of those that hold each class."""
        return _groups(sums, self.names)


@dataclass(frozen=True)
class NumberMeasure:
    """Scores of predicted numbers. `middle` should be near the mean of the truth, so that sums stay accurate."""

    middle: float
    main: str = "r2"

    def sums(self, truth: NDArray[Any], predicted: NDArray[Any], group_T: Codes, groups: int) -> Floats:
        """Count, sum and sum of squares of the truth, sum of absolute and of squared errors: (G, 5)."""
        distance_T, error_T = truth - self.middle, predicted - truth
        columns = (np.ones(len(truth)), distance_T, distance_T**2, np.abs(error_T), error_T**2)
        return np.stack([np.bincount(group_T, one, minlength=groups) for one in columns], axis=1)

    def values(self, sums_X: Floats) -> Values:
        """Coefficient of determination R2, root mean square error and mean absolute error."""
        count, first, second, absolute, square = np.moveaxis(sums_X, -1, 0)
        spread = second - first**2 / count
        varies = spread > ROUNDING * second  # numbers that are all the same have a spread that is only rounding
        r2 = np.where(varies, 1 - square / np.where(varies, spread, 1), np.nan)
        return {("r2", ALL): r2, ("rmse", ALL): np.sqrt(square / count), ("mae", ALL): absolute / count}

    def groups(self, sums: Floats) -> dict[str, int]:
        """Number of groups."""
        return {ALL: len(sums)}


def _of_classes(by_class: dict[str, Floats], metrics: Sequence[str], names: Sequence[str]) -> Values:
    return {(metric, name): by_class[metric][..., code] for metric in metrics for code, name in enumerate(names)}


def _groups(sums_GKK: Floats, names: Sequence[str]) -> dict[str, int]:
    holding_K = (sums_GKK.sum(-1) > 0).sum(0)
    return {ALL: len(sums_GKK), **dict(zip(names, holding_K.tolist(), strict=True))}
