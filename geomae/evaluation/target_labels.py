"""References with labels of the target: probes from few of them, and an oracle that chooses the method by them.

The target's groups are divided into two halves. A probe that is trained, or a method that is chosen, on one half
predicts only the other, so that labels of a group are never used for its own predictions.

T tiles of the target, D features, H tiles of a half
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.folds import assign_groups
from geomae.evaluation.probe_predictions import few_label_classes, possible_shots
from geomae.evaluation.probe_scores import GroundTruth
from geomae.metrics.predictions import Codes, Floats, average, class_scores, confusion

ORACLE = "oracle"
LABELS = {5: "labels-5", 10: "labels-10"}  # labels of each class


def oracle(predicted: Mapping[str, Codes], truth: GroundTruth, averaged_K: NDArray[np.bool_]) -> Codes | None:
    """The class (T,) by the method that scores best on the other half of the groups; None for a single group."""
    chosen_T = np.zeros_like(truth.label_T)
    halves = list(_halves(truth, averaged_K))
    for here, there in halves:

        def score(codes_T: Codes, there: Codes = there) -> Floats:
            counts_KK = confusion(truth.label_T[there], codes_T[there], len(averaged_K))
            return average(class_scores(counts_KK)["recall"], averaged_K)

        best = max(predicted.values(), key=score)  # the first in a tie, which is the simplest
        chosen_T[here] = best[here]
    return chosen_T if halves else None


def few_target_labels(
    embedding_TD: NDArray[np.floating], truth: GroundTruth, averaged_K: NDArray[np.bool_], seed: int
) -> dict[int, list[Codes]]:
    """The class (T,) by probes of few labels of the other half, by labels per class and draw.

    They are trained on the scored classes. Numbers that exceed the tiles of a class in one of the halves are left out.
    """
    scored_T = averaged_K[truth.label_T]
    predicted: dict[int, list[Codes]] = {}
    halves = list(_halves(truth, averaged_K))
    learned = [there[scored_T[there]] for _, there in halves]
    known = [set(possible_shots(truth.label_T[there], tuple(LABELS))) for there in learned]
    shots = tuple(sorted(set.intersection(*known))) if known else ()
    for (here, _), there in zip(halves, learned, strict=True):
        few = few_label_classes(
            embedding_TD[there], truth.label_T[there], truth.group_T[there], embedding_TD[here], len(averaged_K), seed,
            shots,
        )  # fmt: skip
        for count, draws in few.items():
            whole = predicted.setdefault(count, [np.zeros_like(truth.label_T) for _ in draws])
            for codes_T, codes_H in zip(whole, draws, strict=True):
                codes_T[here] = codes_H
    return predicted


def _halves(truth: GroundTruth, averaged_K: NDArray[np.bool_]) -> Iterator[tuple[Codes, Codes]]:
    """Tiles of each half and of the other one, by whole groups; nothing where a half would be empty."""
    if truth.groups < 2:
        return
    half_T = assign_groups(truth.label_T, truth.group_T, 2)
    for half in (0, 1):
        yield np.flatnonzero(half_T == half), np.flatnonzero(half_T != half)
