"""Predictions of probes: linear probe, nearest neighbours and few labels, the same for every encoder.

P tiles of the training side (including validation tiles), N training tiles of a plan, T tiles of a test set,
D features, E aligned features, K classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.alignment import NONE
from geomae.evaluation.alignment_choice import Evidence
from geomae.evaluation.choice_scores import (
    AGREEMENT,
    CIRCULAR,
    MIXED,
    WEIGHTED,
    circular_validation,
    domain_accuracy,
    group_agreement,
    mixed_validation,
    weighted_validation,
)
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.folds import FoldPlan, Labelled
from geomae.evaluation.linear_probe import (
    C_VALUES,
    LOOSE,
    LinearProbe,
    Scale,
    choose_C,
    choose_patch_C,
    choose_ridge,
    class_shares,
    fit_linear,
    fit_path,
    fit_ridge_path,
    one_hot,
    predict_pixels,
    training_patches,
)
from geomae.evaluation.methods import KEEP_STRENGTH, move
from geomae.evaluation.share_estimation import (
    LabelShift,
    TargetShares,
    estimate_label_shift,
    fit_source_probe,
    target_shares,
)
from geomae.metrics.predictions import Codes, Floats
from geomae.randomness import generator
from geomae.tiles.radiometry import RADIOMETRY

NEIGHBOURS = (5, 20)
TIE_STEP = 1e-14  # of cosine distances, for each position: more than their rounding, less than that of embeddings
BLOCK = 2048  # tiles whose similarities are in memory at once
SHOTS = (1, 5, 10, 50)
DRAWS = 10
FEW_LABELS_C = 1.0  # not chosen, as there are too few labels for it; 1 is scikit-learn's default
STRENGTH = "strength"  # beside the scores of a method, the C of the probe after it
EQUAL = 0.05  # smaller differences of circular validations are ties: about one standard error (Breiman et al. 1984)


def nearest_tiles(train_ND: NDArray[np.floating], test_TD: NDArray[np.floating], most: int) -> NDArray[np.int64]:
    """Positions (T, most) of the training tiles with the highest cosine similarity, the nearest first.

    Embeddings are normalised to length 1 and not standardised, as in kNN probes of self-supervised learning (Wu et al.
    2018). In a tie the first tile is used, also where tiles that are equal differ by rounding.
    """
    unit_ND, unit_TD = _unit(train_ND), _unit(test_TD)
    most = min(most, len(train_ND))
    nearest_TM = np.empty((len(unit_TD), most), dtype=np.int64)
    for begin in range(0, len(unit_TD), BLOCK):
        distance_TN = 1 - unit_TD[begin : begin + BLOCK] @ unit_ND.T
        distance_TN += TIE_STEP * np.arange(len(unit_ND))  # a partition alone may keep any of several equal tiles
        near = np.argpartition(distance_TN, most - 1, axis=1)[:, :most]
        order = np.argsort(np.take_along_axis(distance_TN, near, 1), axis=1)
        nearest_TM[begin : begin + BLOCK] = np.take_along_axis(near, order, 1)
    return nearest_TM


def vote(near_TM: NDArray[np.int64], label_N: Codes, classes: int, neighbours: int) -> Codes:
    """The most frequent class (T,) among the nearest tiles, each with one vote; the first class in a tie."""
    votes_TM = label_N[near_TM[:, :neighbours]]
    count_TK = (votes_TM[:, :, None] == np.arange(classes)).sum(1)
    return np.asarray(count_TK.argmax(1))


def knn_classes(
    train_ND: NDArray[np.floating],
    label_N: Codes,
    test_TD: NDArray[np.floating],
    classes: int,
    neighbours: Sequence[int] = NEIGHBOURS,
) -> dict[int, Codes]:
    """The class (T,) of each tile by its nearest neighbours, for each number of neighbours."""
    near_TM = nearest_tiles(train_ND, test_TD, max(neighbours))
    return {count: vote(near_TM, label_N, classes, count) for count in neighbours}


def knn_values(
    train_ND: NDArray[np.floating],
    value_N: Floats,
    test_TD: NDArray[np.floating],
    neighbours: Sequence[int] = NEIGHBOURS,
) -> dict[int, Floats]:
    """The mean value (T,) of the nearest tiles, for each number of neighbours."""
    near_TM = nearest_tiles(train_ND, test_TD, max(neighbours))
    return {count: value_N[near_TM[:, :count]].mean(1) for count in neighbours}


def _unit(embedding_TD: NDArray[np.floating]) -> Floats:
    wide_TD = embedding_TD.astype(np.float64)
    length_T1 = np.linalg.norm(wide_TD, axis=1, keepdims=True)
    return wide_TD / np.where(length_T1 > 0, length_T1, 1)


def draw_labelled_tiles(label_N: Codes, group_N: Codes, shots: int, seed: int, draw: int) -> Codes:
    """Positions of `shots` tiles of each class, spread over its groups: one per group in random order, then more."""
    rng = generator(seed, "few labels", shots, draw)
    chosen: list[int] = []
    for label in np.unique(label_N):
        mixed = rng.permutation(np.flatnonzero(label_N == label))
        rank_of_group = rng.permutation(int(group_N.max()) + 1)
        nth = _nth_of_group(group_N[mixed])
        order = np.lexsort((rank_of_group[group_N[mixed]], nth))
        chosen += mixed[order[:shots]].tolist()
    return np.array(chosen, dtype=np.int64)


def possible_shots(label_N: Codes, shots: tuple[int, ...] = SHOTS) -> tuple[int, ...]:
    """The numbers of labels per class that every class has."""
    fewest = int(np.unique(label_N, return_counts=True)[1].min())
    return tuple(number for number in shots if number <= fewest)


def shots_of_plans(label_P: Codes, plans: Sequence[FoldPlan], shots: tuple[int, ...] = SHOTS) -> tuple[int, ...]:
    """The numbers of labels per class that every class has in every fit, so that each tile of a test is predicted."""
    for plan in plans:
        shots = possible_shots(label_P[plan.train], shots)
    return shots


def few_label_classes(
    train_ND: NDArray[np.floating],
    label_N: Codes,
    group_N: Codes,
    test_TD: NDArray[np.floating],
    classes: int,
    seed: int,
    shots: tuple[int, ...] = SHOTS,
) -> dict[int, list[Codes]]:
    """The predicted class (T,) for each number of labels per class and each draw.

    Embeddings are standardised by all training tiles, which needs no labels.
    """
    scale = Scale.of(train_ND)
    predicted: dict[int, list[Codes]] = {}
    for count in possible_shots(label_N, shots):
        predicted[count] = []
        for draw in range(DRAWS):
            drawn = draw_labelled_tiles(label_N, group_N, count, seed, draw)
            share_NK = one_hot(label_N[drawn], classes)
            probe = fit_path(train_ND[drawn], share_NK, [FEW_LABELS_C], scale=scale, tolerance=LOOSE)[0]
            predicted[count].append(probe.predict(test_TD))
    return predicted


def _nth_of_group(group_N: Codes) -> Codes:
    """For each row the number of earlier rows of the same group."""
    order = np.argsort(group_N, kind="stable")
    ordered = group_N[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    length = np.diff(np.r_[start, len(ordered)])
    nth = np.empty(len(group_N), dtype=np.int64)
    nth[order] = np.arange(len(group_N)) - np.repeat(start, length)
    return nth


class PredictionKey(NamedTuple):
    """Key of a prediction: test set, method, labels per class (None: all labels), alignment."""

    test: str
    method: str
    shots: int | None = None
    align: str = NONE


@dataclass
class Predictions:
    """Predictions of one encoder, one array per draw; the strength of each fit, and the scores of all strengths."""

    predicted: dict[PredictionKey, list[NDArray[Any]]] = field(default_factory=dict)
    C_values: list[float] = field(default_factory=list)
    tried: list[dict[float, float]] = field(default_factory=list)
    evidence: dict[str, Evidence] = field(default_factory=dict)  # by test set, with alignments only
    shares: dict[str, TargetShares] = field(default_factory=dict)  # likewise

    def put(self, key: PredictionKey, draw: int, total: int, places: Codes, values: NDArray[Any]) -> None:
        """Set the predictions for some tiles of a test set with `total` tiles."""
        draws = self.predicted.setdefault(key, [])
        if draw == len(draws):
            draws.append(np.zeros((total, *values.shape[1:]), dtype=values.dtype))
        draws[draw][places] = values


def classify(
    plans: Sequence[FoldPlan],
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    tests: Mapping[str, NDArray[np.floating]],
    C: float | None,
    seed: int,
    shots: tuple[int, ...] = SHOTS,
) -> Predictions:
    """Linear probe, kNN and few labels of one encoder, on embeddings (T, D) by test set. C is chosen where None."""
    predictions, classes = Predictions(), len(labelled.names)
    shots = shots_of_plans(labelled.label_P, plans, shots)
    for plan in plans:
        chosen = C
        if chosen is None:
            chosen, tried = choose_C(train_PD, labelled.label_P, classes, plan.folds)
            predictions.tried.append(tried)
        predictions.C_values.append(chosen)
        embedding_ND, label_N = train_PD[plan.train], labelled.label_P[plan.train]
        probe = fit_linear(embedding_ND, label_N, classes, chosen)
        for test, places in plan.tests.items():
            total, embedding_TD = len(tests[test]), tests[test][places]
            predictions.put(PredictionKey(test, "linear"), 0, total, places, probe.predict(embedding_TD))
            for count, codes_T in knn_classes(embedding_ND, label_N, embedding_TD, classes).items():
                predictions.put(PredictionKey(test, f"knn{count}"), 0, total, places, codes_T)
        together = np.concatenate([tests[test][places] for test, places in plan.tests.items()])
        ends = np.cumsum([len(places) for places in plan.tests.values()])[:-1]
        few = few_label_classes(embedding_ND, label_N, labelled.group_P[plan.train], together, classes, seed, shots)
        for count, draws in few.items():
            for draw, codes in enumerate(draws):
                for (test, places), codes_T in zip(plan.tests.items(), np.split(codes, ends), strict=True):
                    predictions.put(PredictionKey(test, "linear", count), draw, len(tests[test]), places, codes_T)
    return predictions


def regress(
    plans: Sequence[FoldPlan],
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    tests: Mapping[str, NDArray[np.floating]],
    C: float | None,
) -> Predictions:
    """Ridge regression and kNN of one encoder; see `classify`."""
    predictions = Predictions()
    for plan in plans:
        chosen = C
        if chosen is None:
            chosen, tried = choose_ridge(train_PD, labelled.label_P, plan.folds)
            predictions.tried.append(tried)
        predictions.C_values.append(chosen)
        embedding_ND, value_N = train_PD[plan.train], labelled.label_P[plan.train]
        probe = fit_ridge_path(embedding_ND, value_N, [chosen])[0]
        for test, places in plan.tests.items():
            total, embedding_TD = len(tests[test]), tests[test][places]
            predictions.put(PredictionKey(test, "linear"), 0, total, places, probe.predict(embedding_TD))
            for count, values_T in knn_values(embedding_ND, value_N, embedding_TD, NEIGHBOURS).items():
                predictions.put(PredictionKey(test, f"knn{count}"), 0, total, places, values_T)
    return predictions


def segment(
    plans: Sequence[FoldPlan],
    train_PRCD: NDArray[np.floating],
    pixels_PHW: NDArray[np.int16],
    classes: int,
    tests: Mapping[str, NDArray[np.floating]],
    valid: Mapping[str, NDArray[np.bool_]],
    C: float | None,
    seed: int,
) -> Predictions:
    """The linear probe of one encoder on patch embeddings (T, R, C, D) by test set; see `classify`.

    `valid` says by test set which pixels (T, H, W) are valid in some band. Predictions are classes of pixels.
    """
    predictions = Predictions()
    share_PRCK = class_shares(pixels_PHW, train_PRCD.shape[1], train_PRCD.shape[2], classes)
    for plan in plans:
        chosen = C
        if chosen is None:
            chosen, tried = choose_patch_C(train_PRCD, share_PRCK, plan.folds, seed)
            predictions.tried.append(tried)
        predictions.C_values.append(chosen)
        patches_ND, share_NK = training_patches(train_PRCD[plan.train], share_PRCK[plan.train], seed)
        probe = fit_path(patches_ND, share_NK, [chosen], balanced=False)[0]
        for test, places in plan.tests.items():
            for part, codes_THW in predict_pixels(probe, tests[test][places], valid[test][places]):
                predictions.put(
                    PredictionKey(test, "linear"), 0, len(tests[test]), places[part], codes_THW.astype(np.int16)
                )
    return predictions


@dataclass(frozen=True)
class Target:
    """A test set without labels: embeddings (T, D), groups, and whether places are paired.

    `paired` says that both domains show mostly the same places. `mapped` are embeddings by radiometry.
    """

    embedding_TD: NDArray[np.floating]
    group_T: Codes
    paired: bool
    mapped: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)


def classify_aligned(
    predictions: Predictions,
    plans: Sequence[FoldPlan],
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    targets: Mapping[str, Target],
    methods: Sequence[str],
    C: float | None,
    seed: int = 0,
) -> None:
    """Add predictions with each method to those of one encoder without alignment; also evidence and class shares.

    The target of a method are all tiles of a test set, without labels; its source are the training tiles of a plan. The
    strength of a probe is chosen by circular validation, because folds of the source do not show the shift. Methods
    that do not change the features use the strength of the source probe.
    """
    sources = [
        fit_source_probe(train_PD, labelled, plan, plain)
        for plan, plain in zip(plans, predictions.C_values, strict=True)
    ]
    for test, target in targets.items():
        scores: dict[str, list[Mapping[str, float]]] = {}
        shifts: list[LabelShift] = []
        shares: list[TargetShares] = []
        accuracies: list[float] = []
        for plan, plain, source in zip(plans, predictions.C_values, sources, strict=True):
            domains = Domains(train_PD, labelled, plan, target.embedding_TD, plain, source, seed)
            shifts.append(estimate_label_shift(source, train_PD, labelled, plan, target.embedding_TD))
            about = target.embedding_TD, target.group_T, seed
            shares.append(target_shares(source, train_PD, labelled, plan, *about))
            accuracies.append(domain_accuracy(domains, target.group_T))
            for name in methods:
                if name in RADIOMETRY and name not in target.mapped:
                    continue
                moved = move(name, replace(domains, target_MD=target.mapped.get(name, target.embedding_TD)))
                scored, probe = _score_method(name, moved, C_VALUES if C is None else [C])
                scores.setdefault(name, []).append(scored)
                if name != NONE:  # whose predictions exist
                    _put_predictions(predictions, test, name, moved, probe)
        # The saved probe takes the strength, which is the median of the fits without alignment, too.
        middle = {
            name: {
                key: float((np.median if key == STRENGTH else np.mean)([one[key] for one in each])) for key in each[0]
            }
            for name, each in scores.items()
        }
        predictions.evidence[test] = Evidence(middle, shifts, target.paired, float(np.mean(accuracies)))
        predictions.shares[test] = TargetShares.mean(shares)


def _score_method(name: str, moved: Moved, C_values: Sequence[float]) -> tuple[dict[str, float], LinearProbe]:
    """Scores of a method without labels of the target; and the probe after it."""
    domains = moved.domains
    circular = circular_validation(
        moved.source_NE, domains.label_N, moved.target_ME, domains.classes, C_values, moved.probes(C_values, LOOSE)
    )
    best = max(circular.values())
    strongest = min(one for one, score in circular.items() if score >= best - EQUAL)
    taken = domains.C if name in KEEP_STRENGTH else strongest
    probe = moved.probes([taken])[0]
    known = {
        CIRCULAR: best,
        WEIGHTED: weighted_validation(moved, taken),
        MIXED: mixed_validation(probe, moved.target_ME, domains.seed),
        AGREEMENT: group_agreement(moved, taken),
        STRENGTH: taken,
    }
    return known, probe


def _put_predictions(predictions: Predictions, test: str, name: str, moved: Moved, probe: LinearProbe) -> None:
    """Store predictions of the probe, and of nearest neighbours unless the method only changes class shares."""
    domains = moved.domains
    places = domains.plan.tests[test]
    here_E = moved.target_ME[places]
    predicted = {"linear": probe.predict(here_E)}
    if moved.offset_K is None:
        rows, label = moved.learned()
        near = knn_classes(rows, label, here_E, domains.classes)
        predicted |= {f"knn{count}": codes_T for count, codes_T in near.items()}
    for method, codes_T in predicted.items():
        predictions.put(PredictionKey(test, method, None, name), 0, len(domains.target_MD), places, codes_T)
