"""How much of the way from a probe of the source to one of the target an adaptation has gone.

T tiles, G groups, R resamples, D features, K classes
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.folds import TrainingFolds, assign_groups
from geomae.evaluation.linear_probe import choose_strength, fit_linear
from geomae.metrics.intervals import percentile_interval, resample_groups
from geomae.metrics.predictions import ALL, Codes, Floats, Measure

MOST_FOLDS = 5
SMALLEST_GAP = 0.02  # of which a share is told: a smaller one is a quotient of roundings


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval (95 %, over resampled groups), where the groups carry one."""

    value: float
    interval: tuple[float, float] | None = None


def cross_fitted(embedding_TD: NDArray[np.floating], label_T: Codes, group_T: Codes, classes: int) -> Codes | None:
    """The class (T,) of each tile by a linear probe that saw the labels of other groups.

    None for a single group, and where no class has two tiles. The strength is the best one for these very tiles. That
    flatters a little, as it should what others are measured by.
    """
    groups, counts = len(np.unique(group_T)), np.unique(label_T, return_counts=True)[1]
    if groups < 2 or counts.max() < 2:
        return None
    fewest = int(counts.min())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # it is then told wrong, as it should
        folds = TrainingFolds(assign_groups(label_T, group_T, min(MOST_FOLDS, groups, max(fewest, 2))), "").parts()
    strength, _ = choose_strength(embedding_TD, label_T, classes, folds)
    predicted_T = np.zeros_like(label_T)
    for learn, held in folds:
        probe = fit_linear(embedding_TD[learn], label_T[learn], classes, strength)
        predicted_T[held] = probe.predict(embedding_TD[held])
    return predicted_T


def compare(
    predicted: Mapping[str, Codes],
    label_T: Codes,
    group_T: Codes,
    measure: Measure,
    seed: int,
    derived: Mapping[str, Callable[[Mapping[str, Floats]], Floats]],
) -> dict[str, Estimate]:
    """The main figure of each prediction, and figures `derived` from them, all on the same resamples of the groups."""
    groups = int(group_T.max()) + 1
    counts_RG = resample_groups(groups, seed)
    sums = {name: measure.sums(label_T, codes_T, group_T, groups) for name, codes_T in predicted.items()}
    values = {name: measure.values(one.sum(0))[measure.main, ALL] for name, one in sums.items()}
    values |= {name: function(values) for name, function in derived.items()}
    if counts_RG is None:
        return {name: Estimate(float(value)) for name, value in values.items()}
    drawn = {
        name: measure.values(np.tensordot(counts_RG, one, axes=1))[measure.main, ALL] for name, one in sums.items()
    }
    drawn |= {name: function(drawn) for name, function in derived.items()}
    known = {name: percentile_interval(one) for name, one in drawn.items() if np.isfinite(one).all()}
    return {name: Estimate(float(value), known.get(name)) for name, value in values.items()}


def change(values: Mapping[str, Floats]) -> Floats:
    """What the adaptation changed."""
    return np.asarray(values["after"] - values["before"])


def share_closed(values: Mapping[str, Floats]) -> Floats:
    """(after - before) / (oracle - before); unknown (NaN) where the oracle is hardly better than `before`."""
    gap = np.asarray(values["oracle"] - values["before"])
    share = np.divide(change(values), gap, out=np.full(np.shape(gap), np.nan), where=gap >= SMALLEST_GAP)
    return np.asarray(share)
