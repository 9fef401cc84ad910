"""The probe that is saved: a linear map from embeddings to classes or numbers, calibrated on held-out tiles.

T tiles, N rows (tiles, or patches of a segmentation), D features, K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.encoders.selections import Embeddings
from geomae.evaluation.alignment import NONE
from geomae.evaluation.alignment_choice import Choice
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.folds import FoldPlan, Labelled, codes_of
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
from geomae.evaluation.methods import move
from geomae.evaluation.probe_predictions import STRENGTH, Predictions
from geomae.evaluation.probe_task import REGRESSION, SEGMENTATION, LabelledSelection, ProbeTask, class_codes
from geomae.evaluation.share_estimation import fit_source_probe
from geomae.metrics.calibration import Calibration, balanced_weights, fit_calibration
from geomae.metrics.predictions import UNKNOWN, Codes, Floats, confusion


@dataclass(frozen=True)
class LinearMap:
    """A map of unaligned embeddings, `embedding @ weight_DK + bias_K`, to logits or to numbers (K is 1).

    `calibration` is None for numbers. `confusion_KK` counts (truth, predicted) of held-out rows; None without folds.
    `align` names the alignment that is part of the map, and `why` is the reason for it. `share_K` are the class shares
    that its probabilities correspond to; None for those of its training.
    """

    weight_DK: Floats
    bias_K: Floats
    calibration: Calibration | None = None
    confusion_KK: Floats | None = None
    align: str = NONE
    why: str = ""
    share_K: Floats | None = None

    def apply(self, embedding_XD: NDArray[np.floating]) -> Floats:
        """Calibrated probabilities (..., K) of embeddings (..., D), or numbers (..., 1)."""
        scores_XK = embedding_XD.astype(np.float64) @ self.weight_DK + self.bias_K
        return scores_XK if self.calibration is None else self.calibration.apply(scores_XK)


@dataclass(frozen=True)
class FinalProbe:
    """The map without alignment, and by test set the map with the alignment that was chosen for it.

    `strength` is C of the fit, `trained_K` the class shares that its probabilities correspond to, empty for numbers.
    """

    plain: LinearMap
    aligned: dict[str, LinearMap]
    strength: float
    trained_K: Floats


@dataclass(frozen=True)
class _Rows:
    """Data of a fit: embeddings (T, ...), labels, positions of the training tiles, and folds for calibration."""

    embedding: NDArray[np.floating]
    label: NDArray[Any]
    train: Codes
    folds: Folds


def fit_final_probe(
    task: ProbeTask, embeddings: Embeddings, predictions: Predictions, chosen: dict[str, Choice]
) -> FinalProbe:
    """Fit the probe that is saved, on all training tiles, with the strength that was chosen for the scores.

    `chosen` are the alignments by test set. With cross-fitting, which fits several probes, the strength is the median
    of theirs. Classes of tiles have equal weight in the fit and in the calibration, so that probabilities correspond to
    equal shares; pixels are not balanced, and probabilities correspond to their shares in training.
    """
    strength = float(np.median(predictions.C_values))
    embedding = np.concatenate([embeddings.of(part.selected) for part in task.pool])
    label = np.concatenate([class_codes(part, task.names) for part in task.pool])
    plan, classes = final_plan(task, len(label)), len(task.names)
    train = plan.train
    rows = _Rows(embedding, label, train, plan.folds)
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
        taken = float(predictions.evidence[test.name].scores[choice.align][STRENGTH])
        moved = move(choice.align, final_domains(task, embeddings, test, strength, choice.align))
        composed = _composed(moved, _of_tiles(_mapped_rows(moved, rows), classes, task.names, taken))
        aligned[test.name] = replace(composed, align=choice.align, why=choice.why)
    trained_K = np.bincount(label[train], minlength=classes) > 0
    return FinalProbe(plain, aligned, strength, trained_K / trained_K.sum())


def final_plan(task: ProbeTask, tiles: int) -> FoldPlan:
    """The plan of the saved probe: all training tiles, with the folds of the scores for calibration."""
    if len(task.plans) == 1:
        return task.plans[0]
    every = np.arange(tiles)
    return FoldPlan(every, [(plan.train, np.setdiff1d(every, plan.train)) for plan in task.plans], {})


def final_domains(task: ProbeTask, embeddings: Embeddings, test: LabelledSelection, C: float, method: str) -> Domains:
    """The input of a method that is fitted on all training tiles and all tiles of a test set."""
    mapped = embeddings.mapped.get((method, test.name))
    target = (mapped.embeddings if mapped else embeddings).of(test.selected)
    pool = np.concatenate([embeddings.of(part.selected) for part in task.pool])
    label = np.concatenate([class_codes(part, task.names) for part in task.pool])
    group, _ = codes_of([unit for part in task.pool for unit in part.unit_T])
    labelled, plan = Labelled(label, group, task.names), final_plan(task, len(label))
    source = fit_source_probe(pool, labelled, plan, C)
    return Domains(pool, labelled, plan, target, C, source, task.settings.seed)


def _mapped_rows(moved: Moved, rows: _Rows) -> _Rows:
    """The mapped labelled tiles, followed by the target tiles with pseudo-labels, which are in every training part."""
    if moved.pseudo_M is None:
        return replace(rows, embedding=moved.pool_PE)
    there = np.flatnonzero(moved.pseudo_M != UNKNOWN)
    more = len(rows.label) + np.arange(len(there))
    return _Rows(
        np.concatenate([moved.pool_PE, moved.target_ME[there]]),
        np.concatenate([rows.label, moved.pseudo_M[there]]),
        np.concatenate([rows.train, more]),
        [(np.concatenate([learn, more]), held) for learn, held in rows.folds],
    )


def _composed(moved: Moved, probe: LinearMap) -> LinearMap:
    """The composition of the map of the target and a probe after it, as a map of unaligned embeddings."""
    weight_DK = moved.target.weight_DE @ probe.weight_DK
    whole = replace(probe, weight_DK=weight_DK, bias_K=moved.target.bias_E @ probe.weight_DK + probe.bias_K)
    if moved.offset_K is None:
        return whole
    # The offset includes the biases of the calibration.
    temperature = moved.domains.source.calibration.temperature
    calibration = Calibration(temperature, np.zeros(len(moved.offset_K)), moved.domains.source.calibration.notes)
    return replace(whole, bias_K=whole.bias_K + moved.offset_K, calibration=calibration, share_K=moved.share_K)


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
    return _calibrated(whole, logits_NK, truth_N, balanced_weights(truth_N, classes), names)


def _of_patches(rows: _Rows, classes: int, names: Sequence[str], C: float, seed: int) -> FinalProbe:
    """The probe of patches. A patch has its most frequent class; the patches of a tile have a weight of 1 together."""
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
    said = "the strength was fixed, so that no tile was held out for calibration: probabilities are not calibrated"
    return replace(whole, calibration=Calibration.none(classes, said))


def _of_linear(probe: LinearProbe) -> LinearMap:
    weight_DK = probe.weight_DK / probe.scale.std_D[:, None]
    return LinearMap(weight_DK, probe.bias_K - probe.scale.mean_D @ weight_DK)


def _of_ridge(probe: RidgeProbe) -> LinearMap:
    weight_D1 = (probe.weight_D / probe.scale.std_D)[:, None]
    return LinearMap(weight_D1, probe.bias - probe.scale.mean_D @ weight_D1)
