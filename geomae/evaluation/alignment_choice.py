"""A rule that chooses an alignment without labels of the target, and its evidence.

N rows of the source, M rows of the target, D features, E aligned features, K classes

The rule was made on a suite of shifts, and tested with each shift and each family of shifts left out of its making in
turn (`pipelines.shift_rule`, docs/adaptation.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomae.evaluation.alignment import AFTER, NONE
from geomae.evaluation.choice_scores import CIRCULAR
from geomae.evaluation.share_estimation import LabelShift


@dataclass(frozen=True)
class Evidence:
    """Evidence on alignments to a test set without its labels, the mean over fits, of their strengths the median.

    `scores` are those of SCORERS by alignment. `paired` says that the domains show the same places, so that class
    shares are equal. `domain_accuracy` is the accuracy of a domain classifier, 0.5 at chance level.
    """

    scores: Mapping[str, Mapping[str, float]]
    shifts: Sequence[LabelShift]
    paired: bool
    domain_accuracy: float = 1.0

    @classmethod
    def mean(cls, of_seeds: Sequence["Evidence"]) -> "Evidence":
        """The mean over several seeds of one encoder."""
        first = of_seeds[0]
        scores = {
            name: {key: float(np.mean([one.scores[name][key] for one in of_seeds])) for key in keys}
            for name, keys in first.scores.items()
        }
        domain_accuracy = float(np.mean([one.domain_accuracy for one in of_seeds]))
        return cls(scores, [shift for one in of_seeds for shift in one.shifts], first.paired, domain_accuracy)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        domains = {"shift": self.shift, "explained": self.explained, "domain_accuracy": self.domain_accuracy}
        return {"scores": self.scores, **domains, "paired": self.paired}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Evidence":
        """The inverse of `record`; of class shares only their distance is restored."""
        distance_K = np.array([record["shift"], -record["shift"]])
        shift = LabelShift(distance_K * 0, distance_K, record["explained"])
        return cls(record["scores"], [shift], record["paired"], record["domain_accuracy"])

    @property
    def shift(self) -> float:
        """Total variation between the class shares of the source and the estimated ones of the target."""
        return float(np.mean([one.distance for one in self.shifts]))

    @property
    def explained(self) -> float:
        """The share of the distance between the domains that the label shift explains."""
        return float(np.mean([one.explained for one in self.shifts]))


@dataclass(frozen=True)
class Rule:
    """`margin` is by how much an alignment's score has to exceed that of none; it is smaller for paired domains.

    From `shift` and `explained` on, label shift forbids an alignment, because it would remove a real difference of
    class shares. `domain_accuracy` is the accuracy that a domain classifier must reach: below it, the domains hardly
    differ. `candidates` are the alignments that the rule may choose.
    """

    candidates: tuple[str, ...] = (AFTER + "coral",)
    scorer: str = CIRCULAR
    margin: float = 0.05
    margin_paired: float = 0.02
    shift: float = 0.15
    explained: float = 0.5
    domain_accuracy: float = 0.7


@dataclass(frozen=True)
class Choice:
    """The chosen alignment, and the reason in a sentence."""

    align: str
    why: str


RULE = Rule()


def choose(evidence: Evidence, rule: Rule = RULE) -> Choice:
    """The candidate with the best score, where it is better than none by the margin; else none."""
    scores = {name: score_of[rule.scorer] for name, score_of in evidence.scores.items()}
    known = [name for name in rule.candidates if name in scores]
    if not known:
        return Choice(NONE, "there is no alignment among those that the rule may choose")
    if evidence.domain_accuracy < rule.domain_accuracy:
        return Choice(
            NONE,
            f"a domain classifier has a balanced accuracy of {evidence.domain_accuracy:.0%}, and chance gives 50%: "
            "the domains hardly differ",
        )
    if not evidence.paired and evidence.shift >= rule.shift and evidence.explained >= rule.explained:
        return Choice(
            NONE,
            f"the classes seem to differ in frequency (total variation {evidence.shift:.2f} by black-box estimation), "
            f"which explains {evidence.explained:.0%} of the distance between the domains: an alignment would mix up "
            "classes",
        )
    best = max(known, key=lambda name: scores[name])
    gain, margin = scores[best] - scores[NONE], rule.margin_paired if evidence.paired else rule.margin
    what = f"{rule.scorer.replace('_', ' ')} gives {scores[best]:.3f} for {best} and {scores[NONE]:.3f} for none"
    pairs = "places that both domains show" if evidence.paired else "domains that share no places"
    if gain > margin:
        return Choice(best, f"{what}, more than the {margin:g} that is required for {pairs}")
    return Choice(NONE, f"{what}, not more than the {margin:g} that is required for {pairs}")
