"""A rule that chooses an alignment without labels of the target, and its evidence.

N rows of the source, M rows of the target, D features, E aligned features, K classes

The rule was made on a suite of shifts, and tested with each shift and each family of shifts left out of its making in
turn (`pipelines.shift_rule`, docs/adaptation.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomae.evaluation.alignment import AFTER, NONE, STANDARDISE
from geomae.evaluation.choice_scores import CIRCULAR, MIXED
from geomae.evaluation.share_estimation import LabelShift
from geomae.tiles.radiometry import QUANTILES


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
    """`margin` is by how much a candidate's score by `scorer` has to exceed that of none; of those that do, the one
    with the best score by `ranker` is taken.

    From `shift` and `explained` on, label shift forbids an alignment, because it would remove a real difference of
    class shares; paired domains have none. `domain_accuracy` is the accuracy that a domain classifier must reach:
    below it, the domains hardly differ. `candidates` are the methods that the rule may choose.
    """

    candidates: tuple[str, ...] = (QUANTILES, STANDARDISE, "coral", AFTER + "coral")
    scorer: str = CIRCULAR
    ranker: str = MIXED
    margin: float = 0.05
    shift: float = 0.15
    explained: float = 1 / 3
    domain_accuracy: float = 0.7


@dataclass(frozen=True)
class Choice:
    """The chosen alignment, and the reason in a sentence."""

    align: str
    why: str


RULE = Rule()


def pick(evidence: Evidence, rule: Rule = RULE) -> str:
    """The candidate with the best score of those that are better than none by the margin; else none."""
    if evidence.domain_accuracy < rule.domain_accuracy or _shares_differ(evidence, rule):
        return NONE
    better = _better(evidence, rule)
    return max(better, key=lambda name: evidence.scores[name][rule.ranker]) if better else NONE


def choose(evidence: Evidence, rule: Rule = RULE) -> Choice:
    """What `pick` returns, and why."""
    align = pick(evidence, rule)
    if not any(name in evidence.scores for name in rule.candidates):
        return Choice(align, "there is no alignment among those that the rule may choose")
    if evidence.domain_accuracy < rule.domain_accuracy:
        return Choice(
            align,
            f"a domain classifier has a balanced accuracy of {evidence.domain_accuracy:.0%}, and chance gives 50%: "
            "the domains hardly differ",
        )
    if _shares_differ(evidence, rule):
        return Choice(
            align,
            f"the classes seem to differ in frequency (total variation {evidence.shift:.2f} by black-box estimation), "
            f"which explains {evidence.explained:.0%} of the distance between the domains: an alignment would mix up "
            "classes",
        )
    scores = {name: one[rule.scorer] for name, one in evidence.scores.items()}
    named = most_promising(evidence, rule) if align == NONE else align
    why = (
        f"{_words(rule.scorer)} gives {scores[named]:.3f} for {named} and {scores[NONE]:.3f} for none, "
        f"{'not ' if align == NONE else ''}more than the {rule.margin:g} that is required"
    )
    others = [name for name in _better(evidence, rule) if name != align]
    if others:
        why += f"; the same is true of {' and '.join(others)}, and {_words(rule.ranker)} prefers {align}"
    return Choice(align, why)


def most_promising(evidence: Evidence, rule: Rule = RULE) -> str:
    """The candidate with the best score, whether or not it is better than none."""
    known = [name for name in rule.candidates if name in evidence.scores]
    return max(known, key=lambda name: evidence.scores[name][rule.scorer])


def _shares_differ(evidence: Evidence, rule: Rule) -> bool:
    return not evidence.paired and evidence.shift >= rule.shift and evidence.explained >= rule.explained


def _better(evidence: Evidence, rule: Rule) -> list[str]:
    """The candidates whose score exceeds that of none by the margin."""
    least = evidence.scores[NONE][rule.scorer] + rule.margin
    return [name for name in rule.candidates if name in evidence.scores and evidence.scores[name][rule.scorer] > least]


def _words(scorer: str) -> str:
    return scorer.replace("_", " ")
