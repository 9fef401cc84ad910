"""The probe that is kept: a linear map from embeddings to classes or numbers, calibrated on held-out tiles.

T tiles, N rows (tiles, or patches of a segmentation), D features, K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.encoders.selections import Embeddings
from geomae.evaluation.alignment import NONE, SOURCE, TARGET, Alignment
from geomae.evaluation.alignment_choice import Choice
from geomae.evaluation.linear_probe import (
    Folds,
    LinearProbe,
    RidgeProbe,
    class_shares,
    fit_linear,
    fit_path,
    fit_ridge_path,
    training_patches,
)
from geomae.evaluation.probe_predictions import Predictions
from geomae.evaluation.probe_task import REGRESSION, SEGMENTATION, ProbeTask, class_codes
from geomae.metrics.calibration import Calibration, fit_calibration
from geomae.metrics.predictions import Codes, Floats, confusion


@dataclass(frozen=True)
class LinearMap:
    """Embeddings as an encoder gives them become `embedding @ weight_DK + bias_K`: logits, or numbers (K is 1).

    `calibration` is None for numbers. `confusion_KK` counts (truth, predicted) of rows that the fit had not seen, and
    is empty where no folds told that. `align` names the alignment that is part of the map, and `why` it was taken.
    """

    weight_DK: Floats
    bias_K: Floats
    calibration: Calibration | None = None
    confusion_KK: Floats | None = None
    align: str = NONE
    why: str = ""

    def apply(self, embedding_XD: NDArray[np.floating]) -> Floats:
        """Calibrated probabilities (..., K) of embeddings (..., D), or numbers (..., 1)."""
        scores_XK = embedding_XD.astype(np.float64) @ self.weight_DK + self.bias_K
        return scores_XK if self.calibration is None else self.calibration.apply(scores_XK)


@dataclass(frozen=True)
class FinalProbe:
    """The map that every tile goes through, and by test set that of the alignment that was chosen for it.

    `strength` is C of its fit, `trained_K` the class shares that its probabilities go with, empty for numbers.
    """

    plain: LinearMap
    aligned: dict[str, LinearMap]
    strength: float
    trained_K: Floats


@dataclass(frozen=True)
class _Rows:
    """What a fit learns from: tiles (T, ...) by position, their labels, and the folds that tell how right it is."""

    embedding: NDArray[np.floating]
    label: NDArray[Any]
    train: Codes
    folds: Folds


def fit_final_probe(
    task: ProbeTask, embeddings: Embeddings, predictions: Predictions, chosen: dict[str, Choice]
) -> FinalProbe:
    """Fit the probe that is kept: on all training tiles, with the strength that was chosen for the scores.

    `chosen` are the alignments by test set. With cross-fitting, which fits several probes, the strength is the middle
    one of theirs. Classes of tiles count alike in the fit and in the calibration, so that probabilities go with equal
    shares; pixels count each, and go with the shares that they have.
    """
    strength = float(np.median(predictions.C_values))
    embedding = np.concatenate([embeddings.of(part.selected) for part in task.pool])
    label = np.concatenate([class_codes(part, task.names) for part in task.pool])
    plans, classes = task.plans, len(task.names)
    train = plans[0].train if len(plans) == 1 else np.arange(len(label))
    folds = plans[0].folds
    if len(plans) > 1:
        folds = [(plan.train, np.setdiff1d(train, plan.train)) for plan in plans]
    rows = _Rows(embedding, label, train, folds)
    if task.settings.task == REGRESSION:
        ridge = fit_ridge_path(embedding[train], label[train], [strength])[0]
        return FinalProbe(_of_ridge(ridge), {}, strength, np.empty(0))
    if task.settings.task == SEGMENTATION:
        return _of_patches(rows, classes, task.names, strength, task.settings.seed)
    plain = _of_tiles(rows, classes, task.names, strength)
    aligned = {}
    for test in task.tests:
        choice = chosen.get(test.name)
        if choice is None or choice.align == NONE:
            continue
        alignment = Alignment.fit(choice.align, embedding[train], embeddings.of(test.selected))
        source = replace(rows, embedding=alignment.transform(embedding, SOURCE))
        taken = float(predictions.evidence[test.name].scores[choice.align]["strength"])
        behind, before = _of_tiles(source, classes, task.names, taken), alignment.maps[TARGET]
        aligned[test.name] = replace(
            behind,
            weight_DK=before.weight_DE @ behind.weight_DK,
            bias_K=before.bias_E @ behind.weight_DK + behind.bias_K,
            align=choice.align,
            why=choice.why,
        )
    trained_K = np.bincount(label[train], minlength=classes) > 0
    return FinalProbe(plain, aligned, strength, trained_K / trained_K.sum())


def _of_tiles(rows: _Rows, classes: int, names: Sequence[str], C: float) -> LinearMap:
    logits, truth = [], []
    for learn, held in rows.folds:
        probe = fit_linear(rows.embedding[learn], rows.label[learn], classes, C)
        logits.append(probe.scores(rows.embedding[held]))
        truth.append(rows.label[held])
    whole = _of_linear(fit_linear(rows.embedding[rows.train], rows.label[rows.train], classes, C))
    if not logits:
        return _uncalibrated(whole, classes)
    logits_NK, truth_N = np.concatenate(logits), np.concatenate(truth)
    count_K = np.bincount(truth_N, minlength=classes)
    weight_N = len(truth_N) / ((count_K > 0).sum() * count_K[truth_N])
    return _calibrated(whole, logits_NK, truth_N, weight_N, names)


def _of_patches(rows: _Rows, classes: int, names: Sequence[str], C: float, seed: int) -> FinalProbe:
    """A patch is of the class that most of it has; together those of a tile count as one row does."""
    share_TRCK = class_shares(rows.label, rows.embedding.shape[1], rows.embedding.shape[2], classes)

    def fit(tiles: Codes) -> tuple[LinearProbe, Floats]:
        patches_ND, share_NK = training_patches(rows.embedding[tiles], share_TRCK[tiles], seed)
        return fit_path(patches_ND, share_NK, [C], balanced=False)[0], share_NK.sum(0) / share_NK.sum()

    logits, truth = [], []
    for learn, held in rows.folds:
        share_NK = share_TRCK[held].reshape(-1, classes)
        known = share_NK.sum(1) > 0
        patches_ND = rows.embedding[held].reshape(len(share_NK), -1)[known]
        logits.append(fit(learn)[0].scores(patches_ND))
        truth.append(share_NK[known].argmax(1))
    probe, trained_K = fit(rows.train)
    whole = _of_linear(probe)
    if not logits:
        return FinalProbe(_uncalibrated(whole, classes), {}, C, trained_K)
    weight = 1 / (share_TRCK.shape[1] * share_TRCK.shape[2])
    truth_N = np.concatenate(truth)
    calibrated = _calibrated(whole, np.concatenate(logits), truth_N, np.full(len(truth_N), weight), names)
    return FinalProbe(calibrated, {}, C, trained_K)


def _calibrated(
    whole: LinearMap, logits_NK: Floats, truth_N: Codes, weight_N: Floats, names: Sequence[str]
) -> LinearMap:
    calibration = fit_calibration(logits_NK, truth_N, weight_N, names)
    counts_KK = confusion(truth_N, calibration.apply(logits_NK).argmax(1), len(names))
    return replace(whole, calibration=calibration, confusion_KK=counts_KK)


def _uncalibrated(whole: LinearMap, classes: int) -> LinearMap:
    said = "the strength was fixed, so that no tile was held out to calibrate on: probabilities stay as they are"
    return replace(whole, calibration=Calibration.none(classes, said))


def _of_linear(probe: LinearProbe) -> LinearMap:
    weight_DK = probe.weight_DK / probe.scale.std_D[:, None]
    return LinearMap(weight_DK, probe.bias_K - probe.scale.mean_D @ weight_DK)


def _of_ridge(probe: RidgeProbe) -> LinearMap:
    weight_D1 = (probe.weight_D / probe.scale.std_D)[:, None]
    return LinearMap(weight_D1, probe.bias - probe.scale.mean_D @ weight_D1)
