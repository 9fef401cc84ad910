"""The probe of an adaptation: what labels of the source say about the target, before it and after it.

Beside it stand what cannot be had without labels of the target: an oracle, and probes of a few of its labels.

T tiles, G groups, R resamples, D features
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geomae.encoders.selections import Embeddings
from geomae.evaluation.alignment import NONE
from geomae.evaluation.folds import TrainingFolds, assign_groups, codes_of
from geomae.evaluation.linear_probe import choose_C, fit_linear
from geomae.evaluation.probe_predictions import PredictionKey
from geomae.evaluation.probe_task import LabelledSelection, ProbeTask, class_codes
from geomae.evaluation.target_labels import LABELS, few_target_labels
from geomae.metrics.predictions import ALL, MOST_FOLDS, Codes, Floats, Measure, percentile_interval, resample_groups

BEFORE, AFTER, ALIGNED, ORACLE = "before", "after", "aligned", "oracle"
CHANGE, SHARE_CLOSED = "change", "share_closed"
Derived = Callable[[Mapping[str, Floats]], Floats]  # a figure of the figures of predictions
SMALLEST_GAP = 0.02  # for which the share closed is given: with a smaller gap it is a ratio of noise


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval (95 %, over resampled groups); None with too few groups."""

    value: float
    interval: tuple[float, float] | None = None


def probe_target(
    task: ProbeTask, by_label: Mapping[str, Embeddings], seed: int, align: str = NONE
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Figures on the target, and on the source before and after where there is an `after`.

    With `align` the probe is also asked behind this alignment. Labels of the target are used for scoring, by the
    oracle, and by the probes of few of them, whose groups are not scored.
    """
    (test,) = task.tests
    truth, linear = task.truths[test.name], PredictionKey(test.name, "linear")
    predicted = {label: task.predict(one).predicted[linear] for label, one in by_label.items()}
    derived: dict[str, Derived] = {}
    if align != NONE:
        aligning = replace(task, settings=replace(task.settings, alignments=(NONE, align)))
        predicted[ALIGNED] = aligning.predict(by_label[BEFORE]).predicted[linear._replace(align=align)]
    done = next((name for name in (AFTER, ALIGNED) if name in predicted), None)
    if done:
        derived[CHANGE] = gain(done)
    embedding_TD = by_label[BEFORE].of(test.selected)
    averaged_K = np.isin(task.names, task.averaged[test.name])
    several = averaged_K.sum() > 1  # a probe of one class is right without having learned anything
    best_T = cross_fitted(embedding_TD, truth.label_T, truth.group_T, len(task.names)) if several else None
    if best_T is not None:
        predicted[ORACLE] = [best_T]
        if done:
            derived[SHARE_CLOSED] = share_closed(done)
    few = few_target_labels(embedding_TD, truth, averaged_K, seed) if several else {}
    for count, draws in few.items():
        predicted[LABELS[count]] = draws
        derived[f"{LABELS[count]}_{CHANGE}"] = gain(LABELS[count])
    target = paired_estimates(predicted, truth.label_T, truth.group_T, truth.measure, seed, derived)
    return target, _at_home(task, by_label, truth.measure, seed) if AFTER in by_label else {}


def cross_fitted(embedding_TD: NDArray[np.floating], label_T: Codes, group_T: Codes, classes: int) -> Codes | None:
    """The class (T,) of each tile by a linear probe that was trained on the other groups.

    None for a single group, and where no class has two tiles. The strength is chosen on the same tiles, which is
    optimistic by design: the result serves as an upper bound.
    """
    groups, counts = len(np.unique(group_T)), np.unique(label_T, return_counts=True)[1]
    if groups < 2 or counts.max() < 2:
        return None
    fewest = int(counts.min())
    # A class too rare for the folds is predicted wrongly, which is correct here.
    folds = TrainingFolds(assign_groups(label_T, group_T, min(MOST_FOLDS, groups, max(fewest, 2))), "").parts()
    C, _ = choose_C(embedding_TD, label_T, classes, folds)
    predicted_T = np.zeros_like(label_T)
    for learn, held in folds:
        probe = fit_linear(embedding_TD[learn], label_T[learn], classes, C)
        predicted_T[held] = probe.predict(embedding_TD[held])
    return predicted_T


def paired_estimates(
    predicted: Mapping[str, Sequence[Codes]],
    label_T: Codes,
    group_T: Codes,
    measure: Measure,
    seed: int,
    derived: Mapping[str, Derived],
) -> dict[str, Estimate]:
    """The main figure of each prediction, the mean over its draws, and figures `derived` from them.

    All are computed on the same resamples of the groups.
    """
    groups = int(group_T.max()) + 1
    counts_RG = resample_groups(groups, seed)
    sums = {
        name: [measure.sums(label_T, codes_T, group_T, groups) for codes_T in draws]
        for name, draws in predicted.items()
    }

    def figures(summed: Callable[[Floats], Floats]) -> dict[str, Floats]:
        values = {
            name: np.mean([measure.values(summed(one))[measure.main, ALL] for one in draws], axis=0)
            for name, draws in sums.items()
        }
        return values | {name: function(values) for name, function in derived.items()}

    values = figures(lambda one: one.sum(0))
    drawn = {} if counts_RG is None else figures(lambda one: np.tensordot(counts_RG, one, axes=1))
    known = {name: percentile_interval(one) for name, one in drawn.items() if np.isfinite(one).all()}
    return {name: Estimate(float(value), known.get(name)) for name, value in values.items()}


def gain(name: str) -> Derived:
    """The main figure of a prediction minus that before the adaptation."""
    return lambda values: np.asarray(values[name] - values[BEFORE])


def share_closed(name: str) -> Derived:
    """(prediction - before) / (oracle - before); NaN where the oracle is less than SMALLEST_GAP better than before."""

    def share(values: Mapping[str, Floats]) -> Floats:
        gap = np.asarray(values[ORACLE] - values[BEFORE])
        closed = gain(name)(values)
        return np.asarray(np.divide(closed, gap, out=np.full(np.shape(gap), np.nan), where=gap >= SMALLEST_GAP))

    return share


def _at_home(task: ProbeTask, by_label: Mapping[str, Embeddings], measure: Measure, seed: int) -> dict[str, Estimate]:
    """Figures on the source before and after, each group by a probe without it; empty for a single group."""
    found = {label: _cross_fitted(task, task.train, by_label[label]) for label in (BEFORE, AFTER)}
    predicted = {label: [codes_T] for label, codes_T in found.items() if codes_T is not None}
    if not predicted:
        return {}
    label_T, (group_T, _) = class_codes(task.train, task.names), codes_of(task.train.unit_T)
    return paired_estimates(predicted, label_T, group_T, measure, seed, {CHANGE: gain(AFTER)})


def _cross_fitted(task: ProbeTask, labelled: LabelledSelection, embeddings: Embeddings) -> Codes | None:
    group_T, _ = codes_of(labelled.unit_T)
    label_T = class_codes(labelled, task.names)
    return cross_fitted(embeddings.of(labelled.selected), label_T, group_T, len(task.names))
