"""What every encoder is asked alike: which tiles it learns from, what its strength is chosen by, what it predicts.

P tiles of the training side (those to choose the strength by included), T tiles of a test set, D features
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.alignment import NONE
from geomae.analysis.alignment_choice import Evidence
from geomae.analysis.few_labels import few_label_classes
from geomae.analysis.knn_probe import NEIGHBOURS, knn_classes, knn_values
from geomae.analysis.linear_probe import choose_strength, fit_linear, fit_path
from geomae.analysis.plans import Labelled, Plan
from geomae.analysis.ridge_probe import choose_ridge, fit_ridge_path
from geomae.analysis.scores import Codes
from geomae.analysis.segmentation import choose_patch_strength, class_shares, predict_pixels, training_patches


class Asked(NamedTuple):
    """One prediction: of a test set, by a method, from so many labels per class (None: from all)."""

    test: str
    method: str
    shots: int | None = None
    align: str = NONE


@dataclass
class Answers:
    """What one encoder predicted, one array per draw; the strength of each fit, and what each strength scored there."""

    predicted: dict[Asked, list[NDArray[Any]]] = field(default_factory=dict)
    strengths: list[float] = field(default_factory=list)
    tried: list[dict[float, float]] = field(default_factory=list)
    evidence: dict[str, Evidence] = field(default_factory=dict)  # by test set, where alignments were asked for

    def put(self, asked: Asked, draw: int, total: int, places: Codes, values: NDArray[Any]) -> None:
        """Enter predictions for some tiles of a test set with `total` tiles."""
        draws = self.predicted.setdefault(asked, [])
        if draw == len(draws):
            draws.append(np.zeros((total, *values.shape[1:]), dtype=values.dtype))
        draws[draw][places] = values


def classify(
    plans: Sequence[Plan],
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    tests: Mapping[str, NDArray[np.floating]],
    strength: float | None,
    seed: int,
) -> Answers:
    """Linear probe, kNN and few labels of one encoder, on embeddings (T, D) by test set; `strength` None is chosen."""
    answers, classes = Answers(), len(labelled.names)
    for plan in plans:
        chosen = strength
        if chosen is None:
            chosen, tried = choose_strength(train_PD, labelled.label_P, classes, plan.folds)
            answers.tried.append(tried)
        answers.strengths.append(chosen)
        embedding_ND, label_N = train_PD[plan.train], labelled.label_P[plan.train]
        probe = fit_linear(embedding_ND, label_N, classes, chosen)
        for test, places in plan.tests.items():
            total, embedding_TD = len(tests[test]), tests[test][places]
            answers.put(Asked(test, "linear"), 0, total, places, probe.predict(embedding_TD))
            for count, codes_T in knn_classes(embedding_ND, label_N, embedding_TD, classes).items():
                answers.put(Asked(test, f"knn{count}"), 0, total, places, codes_T)
        together = np.concatenate([tests[test][places] for test, places in plan.tests.items()])
        ends = np.cumsum([len(places) for places in plan.tests.values()])[:-1]
        few = few_label_classes(embedding_ND, label_N, labelled.group_P[plan.train], together, classes, seed)
        for shots, draws in few.items():
            for draw, codes in enumerate(draws):
                for (test, places), codes_T in zip(plan.tests.items(), np.split(codes, ends), strict=True):
                    answers.put(Asked(test, "linear", shots), draw, len(tests[test]), places, codes_T)
    return answers


def regress(
    plans: Sequence[Plan],
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    tests: Mapping[str, NDArray[np.floating]],
    strength: float | None,
) -> Answers:
    """Ridge regression and kNN of one encoder; see `classify`."""
    answers = Answers()
    for plan in plans:
        chosen = strength
        if chosen is None:
            chosen, tried = choose_ridge(train_PD, labelled.label_P, plan.folds)
            answers.tried.append(tried)
        answers.strengths.append(chosen)
        embedding_ND, value_N = train_PD[plan.train], labelled.label_P[plan.train]
        probe = fit_ridge_path(embedding_ND, value_N, [chosen])[0]
        for test, places in plan.tests.items():
            total, embedding_TD = len(tests[test]), tests[test][places]
            answers.put(Asked(test, "linear"), 0, total, places, probe.predict(embedding_TD))
            for count, values_T in knn_values(embedding_ND, value_N, embedding_TD, NEIGHBOURS).items():
                answers.put(Asked(test, f"knn{count}"), 0, total, places, values_T)
    return answers


def segment(
    plans: Sequence[Plan],
    train_PRCD: NDArray[np.floating],
    pixels_PHW: NDArray[np.int16],
    classes: int,
    tests: Mapping[str, NDArray[np.floating]],
    strength: float | None,
    seed: int,
) -> Answers:
    """The linear probe of patches, of one encoder, on patch embeddings (T, R, C, D) by test set; see `classify`.

    Answers are classes of pixels (T, H, W).
    """
    answers = Answers()
    share_PRCK = class_shares(pixels_PHW, train_PRCD.shape[1], train_PRCD.shape[2], classes)
    for plan in plans:
        chosen = strength
        if chosen is None:
            chosen, tried = choose_patch_strength(train_PRCD, share_PRCK, plan.folds, seed)
            answers.tried.append(tried)
        answers.strengths.append(chosen)
        patches_ND, share_NK = training_patches(train_PRCD[plan.train], share_PRCK[plan.train], seed)
        probe = fit_path(patches_ND, share_NK, [chosen], balanced=False)[0]
        for test, places in plan.tests.items():
            for part, codes_THW in predict_pixels(probe, tests[test][places], pixels_PHW.shape[1], pixels_PHW.shape[2]):
                answers.put(Asked(test, "linear"), 0, len(tests[test]), places[part], codes_THW.astype(np.int16))
    return answers
