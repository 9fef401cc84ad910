"""Which alignment to take, by a rule that reads no label of the target; and the evidence for it.

N rows of the source, M rows of the target, D features, E aligned features, K classes

The rule was made and tested on five shifts, each left out of its making in turn (docs/adaptation.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from geomae.evaluation.alignment import AFTER, NONE, skada_settings
from geomae.evaluation.linear_probe import LOOSE, LinearProbe, fit_path, one_hot
from geomae.evaluation.share_estimation import LabelShift
from geomae.metrics.predictions import Codes, Floats, balanced_accuracy, confusion

CIRCULAR, ENTROPY, DENSITY = SCORERS = ("circular_validation", "prediction_entropy", "soft_neighborhood_density")


def circular_validation(
    source_NE: Floats,
    label_N: Codes,
    target_ME: Floats,
    classes: int,
    C_values: Sequence[float],
    probes: Sequence[LinearProbe] = (),
) -> dict[float, float]:
    """Circular validation (Bruzzone & Marconcini 2010) of a linear probe of each strength, in aligned features.

    The probe of the source labels the target; a second probe learns from these labels; its balanced accuracy on the
    source is the score. Where the classes of the source land on the wrong tiles of the target, it does not come back.
    `probes` are the first ones, where a method learns from more than the source.
    """
    probes = probes or fit_path(source_NE, one_hot(label_N, classes), C_values, tolerance=LOOSE)
    scores = {}
    for C, there in zip(C_values, probes, strict=True):
        guessed_M = there.predict(target_ME)
        if len(np.unique(guessed_M)) > 1:
            back = fit_path(target_ME, one_hot(guessed_M, classes), [C], tolerance=LOOSE)[0]
            returned_N = back.predict(source_NE)
        else:
            returned_N = np.full(len(label_N), guessed_M[0])
        scores[C] = float(balanced_accuracy(confusion(label_N, returned_N, classes)))
    return scores


class _Fitted(BaseEstimator):  # type: ignore[misc]
    """A fitted probe as skada's scorers take it."""

    def __init__(self, probe: LinearProbe) -> None:
        self.probe = probe

    def predict_proba(self, rows: Floats, **_: object) -> Floats:
        score_MK = self.probe.scores(rows)
        share_MK = np.exp(score_MK - score_MK.max(1, keepdims=True))
        return np.asarray(share_MK / share_MK.sum(1, keepdims=True))


def prediction_scores(probe: LinearProbe, target_ME: Floats) -> dict[str, float]:
    """Prediction entropy (Morerio et al. 2018, its negative) and soft neighbourhood density (Saito et al. 2021).

    Both are skada's, of what the probe predicts for the target; more is better.
    """
    domain_M = np.full(len(target_ME), -1)  # skada's mark of a target
    hidden_M = np.full(len(target_ME), -1)  # and of a label that must not be read
    estimator = _Fitted(probe)
    with skada_settings():
        from skada.metrics import (  # type: ignore[import-untyped]
            PredictionEntropyScorer,
            SoftNeighborhoodDensity,
        )

        scorers = {ENTROPY: PredictionEntropyScorer(), DENSITY: SoftNeighborhoodDensity()}
        return {name: float(scorer(estimator, target_ME, hidden_M, domain_M)) for name, scorer in scorers.items()}


@dataclass(frozen=True)
class Evidence:
    """What is known of the alignments to a test set without its labels, the mean over fits.

    `scores` are those of SCORERS by alignment. `paired` says that the domains show the same places, so that classes
    are as frequent in both.
    """

    scores: Mapping[str, Mapping[str, float]]
    shifts: Sequence[LabelShift]
    paired: bool

    @classmethod
    def mean(cls, of_seeds: Sequence["Evidence"]) -> "Evidence":
        """That of several seeds of one encoder."""
        first = of_seeds[0]
        scores = {
            name: {key: float(np.mean([one.scores[name][key] for one in of_seeds])) for key in keys}
            for name, keys in first.scores.items()
        }
        return cls(scores, [shift for one in of_seeds for shift in one.shifts], first.paired)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"scores": self.scores, "shift": self.shift, "explained": self.explained, "paired": self.paired}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Evidence":
        """What `record` gave, of class shares no more than how far they differ."""
        distance_K = np.array([record["shift"], -record["shift"]])
        return cls(record["scores"], [LabelShift(distance_K * 0, distance_K, record["explained"])], record["paired"])

    @property
    def shift(self) -> float:
        """Total variation between the class shares of the source and the estimated ones of the target."""
        return float(np.mean([one.distance for one in self.shifts]))

    @property
    def explained(self) -> float:
        """How much of the domains' distance the label shift explains."""
        return float(np.mean([one.explained for one in self.shifts]))


@dataclass(frozen=True)
class Rule:
    """`margin` is by how much an alignment's score has to exceed that of none; less evidence is needed of pairs.

    `shift` and `explained` say from where on label shift forbids an alignment, which would bring together what differs
    for good reason. `candidates` are the alignments that it may choose.
    """

    candidates: tuple[str, ...] = (AFTER + "coral",)
    scorer: str = CIRCULAR
    margin: float = 0.2
    margin_paired: float = 0.0
    shift: float = 0.15
    explained: float = 0.5


@dataclass(frozen=True)
class Choice:
    """The alignment, and why, in a sentence."""

    align: str
    why: str


RULE = Rule()


def choose(evidence: Evidence, rule: Rule = RULE) -> Choice:
    """The candidate with the best score, where it is better than none by the margin; else none."""
    scores = {name: score_of[rule.scorer] for name, score_of in evidence.scores.items()}
    known = [name for name in rule.candidates if name in scores]
    if not known:
        return Choice(NONE, "there is no alignment among those that the rule may choose")
    if not evidence.paired and evidence.shift >= rule.shift and evidence.explained >= rule.explained:
        return Choice(
            NONE,
            f"the classes seem to differ in frequency (total variation {evidence.shift:.2f}), which explains "
            f"{evidence.explained:.0%} of the distance between the domains: an alignment would mix them up",
        )
    best = max(known, key=lambda name: scores[name])
    gain, margin = scores[best] - scores[NONE], rule.margin_paired if evidence.paired else rule.margin
    what = f"{rule.scorer.replace('_', ' ')} gives {scores[best]:.3f} for {best} and {scores[NONE]:.3f} for none"
    pairs = "places that both domains show" if evidence.paired else "domains that share no places"
    if gain > margin:
        return Choice(best, f"{what}, more than the {margin:g} that is asked of {pairs}")
    return Choice(NONE, f"{what}, not more than the {margin:g} that is asked of {pairs}")
