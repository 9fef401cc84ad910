"""Scores of predicted classes, all functions of the confusion matrix, so that resampling groups costs a product.

T tiles, G groups, K classes; X any leading dimensions, such as resamples; a confusion counts (truth, predicted)
"""

import warnings

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
UNKNOWN = -1  # the class of a pixel that is not scored


def confusion(truth_T: Codes, predicted_T: Codes, classes: int) -> Floats:
    """How often each class (row) was taken for each (column): (K, K)."""
    one_group_T = np.zeros(len(truth_T), dtype=np.int64)
    return np.asarray(confusion_by_group(truth_T, predicted_T, one_group_T, classes, 1)[0])


def confusion_by_group(truth_T: Codes, predicted_T: Codes, group_T: Codes, classes: int, groups: int) -> Floats:
    """The confusion of each group: (G, K, K); the groups' sum is that of all."""
    cell_T = (group_T * classes + truth_T) * classes + predicted_T
    counts = np.bincount(cell_T, minlength=groups * classes * classes)
    return counts.reshape(groups, classes, classes).astype(np.float64)


def accuracy(counts_XKK: Floats) -> Floats:
    """Share of what was predicted right: (X)."""
    right_X = np.trace(counts_XKK, axis1=-2, axis2=-1)
    return _share(right_X, counts_XKK.sum((-2, -1)))


def class_scores(counts_XKK: Floats) -> dict[str, Floats]:
    """Recall, precision, F1 and intersection over union of each class: (X, K).

    Recall is unknown (NaN) for a class without truth; the others are 0 for one that was never predicted, and unknown
    where it neither was there nor was predicted.
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
    """Mean recall of the classes that are there, or of those among them that `averaged_K` says: (X)."""
    return average(class_scores(counts_XKK)["recall"], averaged_K)


def average(score_XK: Floats, averaged_K: NDArray[np.bool_] | None = None) -> Floats:
    """Mean over classes whose score is known, or over those among them that `averaged_K` says: (X)."""
    chosen_XK = score_XK if averaged_K is None else np.where(averaged_K, score_XK, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no class is known: the mean is unknown, too
        return np.asarray(np.nanmean(chosen_XK, axis=-1))


def _share(part_X: Floats, whole_X: Floats) -> Floats:
    unknown_X = np.full(np.shape(whole_X), np.nan)
    return np.asarray(np.divide(part_X, whole_X, out=unknown_X, where=whole_X > 0))
