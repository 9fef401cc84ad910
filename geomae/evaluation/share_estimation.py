"""Class shares of a target without its labels: by expectation maximisation, and by inverting a confusion matrix.

P labelled tiles, N training tiles of a plan, H held-out tiles of its folds, M tiles of the target, D features,
K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[import-untyped]

from geomae.evaluation.folds import FoldPlan, Labelled
from geomae.evaluation.linear_probe import LOOSE, LinearProbe, Scale, fit_path, one_hot
from geomae.metrics.calibration import Calibration, balanced_weights, fit_calibration
from geomae.metrics.predictions import Codes, Floats, confusion
from geomae.metrics.priors import ShareEstimate, estimate_shares, most_likely_shares

SUM = 100.0  # weight of the row that makes estimated shares sum to 1
DIFFERS, EXPLAINS = 0.15, 0.5  # shares that differ by DIFFERS (total variation) should explain EXPLAINS of the distance


@dataclass(frozen=True)
class SourceProbe:
    """A linear probe of the source, with its scores of held-out tiles and its calibration.

    `score_HK` are the scores of held-out tiles, of classes `truth_H`. Classes have equal weight in the fit and in the
    calibration, so that probabilities correspond to equal shares, `equal_K`, of the trained classes.
    """

    probe: LinearProbe
    score_HK: Floats
    truth_H: Codes
    calibration: Calibration
    equal_K: Floats

    @property
    def confusion_KK(self) -> Floats:
        """Counts (truth, predicted) of the held-out tiles."""
        return confusion(self.truth_H, self.score_HK.argmax(1), len(self.equal_K))

    def probabilities(self, embedding_MD: NDArray[np.floating]) -> Floats:
        """Calibrated probabilities (M, K)."""
        return self.calibration.apply(self.probe.scores(embedding_MD))


def fit_source_probe(train_PD: NDArray[np.floating], labelled: Labelled, plan: FoldPlan, C: float) -> SourceProbe:
    """The probe of a plan's training tiles, with scores of held-out tiles by probes of its folds."""
    label_P, classes = labelled.label_P, len(labelled.names)

    def fit(tiles: Codes) -> LinearProbe:
        return fit_path(train_PD[tiles], one_hot(label_P[tiles], classes), [C], tolerance=LOOSE)[0]

    score_HK = np.concatenate([fit(learn).scores(train_PD[held]) for learn, held in plan.folds])
    truth_H = np.concatenate([label_P[held] for _, held in plan.folds])
    calibration = fit_calibration(score_HK, truth_H, balanced_weights(truth_H, classes), labelled.names)
    learned_K = np.bincount(label_P[plan.train], minlength=classes) > 0
    return SourceProbe(fit(plan.train), score_HK, truth_H, calibration, learned_K / learned_K.sum())


def black_box_shares(confusion_KK: Floats, predicted_K: Floats) -> Floats:
    """Class shares (K) for which the expected shares of predictions are `predicted_K` (Lipton et al. 2018).

    `confusion_KK` counts (truth, predicted) of held-out tiles. Shares are not negative and sum to 1; a class without
    held-out tiles has a share of 0.
    """
    known_K = confusion_KK.sum(1) > 0
    given_KK = confusion_KK[known_K] / confusion_KK[known_K].sum(1, keepdims=True)  # predictions by true class
    shares, _ = nnls(np.vstack([given_KK.T, np.full(len(given_KK), SUM)]), np.append(predicted_K, SUM))
    share_K = np.zeros(len(confusion_KK))
    share_K[known_K] = shares / shares.sum()
    return share_K


@dataclass(frozen=True)
class TargetShares:
    """Class shares (K) of the source and of the target, by maximum likelihood and by the confusion matrix."""

    source_K: Floats
    likely: ShareEstimate
    black_box_K: Floats

    def record(self) -> dict[str, Any]:
        """As JSON."""
        likely = self.likely.record()
        likely.pop("trained")  # equal for all classes
        return {"source": self.source_K.tolist(), **likely, "black_box": self.black_box_K.tolist()}

    @classmethod
    def mean(cls, of_fits: Sequence["TargetShares"]) -> "TargetShares":
        """The mean over several fits or seeds, with the reasons for distrust of all of them."""
        first = of_fits[0].likely
        intervals = [one.likely.interval_K2 for one in of_fits if one.likely.interval_K2 is not None]
        likely = replace(
            first,
            share_K=np.mean([one.likely.share_K for one in of_fits], axis=0),
            interval_K2=np.mean(intervals, axis=0) if intervals else None,
            reasons=tuple(dict.fromkeys(reason for one in of_fits for reason in one.likely.reasons)),
        )
        source_K, black_box_K = (
            np.mean(each, axis=0) for each in zip(*((one.source_K, one.black_box_K) for one in of_fits), strict=True)
        )
        return cls(source_K, likely, black_box_K)


def target_shares(
    source: SourceProbe,
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    plan: FoldPlan,
    target_MD: NDArray[np.floating],
    group_M: Codes,
    seed: int,
) -> TargetShares:
    """Both estimates of class shares; maximum likelihood with an interval over resampled groups.

    `reasons` not to trust them apply to both: confusion of two classes, and features that differ within classes.
    """
    share_MK = source.probabilities(target_MD)
    likely = estimate_shares(share_MK, source.equal_K, group_M, labelled.names, source.confusion_KK, seed)
    shift = _shift(train_PD, labelled, plan, target_MD, likely.share_K)
    if shift.distance >= DIFFERS and shift.explained < EXPLAINS:
        reason = (
            f"shares that differ by {shift.distance:.2f} explain {max(shift.explained, 0):.0%} of the distance between "
            "the domains: features differ within classes, too"
        )
        likely = replace(likely, reasons=(*likely.reasons, reason))
    return TargetShares(shift.source_K, likely, _black_box(source, target_MD))


def likely_shares(source: SourceProbe, target_MD: NDArray[np.floating]) -> Floats:
    """The maximum likelihood shares (K)."""
    return most_likely_shares(source.probabilities(target_MD), source.equal_K)[0]


def source_shares(labelled: Labelled, plan: FoldPlan) -> Floats:
    """The class shares (K) of the training tiles."""
    return np.bincount(labelled.label_P[plan.train], minlength=len(labelled.names)) / len(plan.train)


def _black_box(source: SourceProbe, target_MD: NDArray[np.floating]) -> Floats:
    predicted_M = source.probe.predict(target_MD)
    return black_box_shares(
        source.confusion_KK, np.bincount(predicted_M, minlength=len(source.equal_K)) / len(predicted_M)
    )


@dataclass(frozen=True)
class LabelShift:
    """Class shares of the source, estimated shares of the target, and the share of the distance that they explain.

    `explained` is 1 where the source, weighted to the estimated shares, has the mean of the target, and 0 or less where
    weighting does not reduce the distance: features then differ within classes, and the estimate is not reliable.
    """

    source_K: Floats
    target_K: Floats
    explained: float

    @property
    def distance(self) -> float:
        """Total variation between both shares, 0 to 1."""
        return 0.5 * float(np.abs(self.target_K - self.source_K).sum())


def estimate_label_shift(
    source: SourceProbe,
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    plan: FoldPlan,
    target_MD: NDArray[np.floating],
) -> LabelShift:
    """Black-box shift estimation (Lipton et al. 2018), from the predictions of the source probe."""
    return _shift(train_PD, labelled, plan, target_MD, _black_box(source, target_MD))


def _shift(
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    plan: FoldPlan,
    target_MD: NDArray[np.floating],
    target_K: Floats,
) -> LabelShift:
    source_K = source_shares(labelled, plan)
    source_ND, label_N = train_PD[plan.train], labelled.label_P[plan.train]
    return LabelShift(source_K, target_K, _explained(source_ND, label_N, target_MD, source_K, target_K))


def _explained(
    source_ND: NDArray[np.floating], label_N: Codes, target_MD: NDArray[np.floating], source_K: Floats, target_K: Floats
) -> float:
    """The share by which weights reduce the squared distance of the means, in standard deviations of the source."""
    scale = Scale.of(source_ND)
    target_D = scale.apply(target_MD).mean(0)
    weight_N = (target_K / np.where(source_K > 0, source_K, 1))[label_N]
    weighted_D = np.average(scale.apply(source_ND), axis=0, weights=weight_N)
    before, after = float((target_D**2).sum()), float(((target_D - weighted_D) ** 2).sum())
    return 1 - after / before if before > 0 else 0.0
