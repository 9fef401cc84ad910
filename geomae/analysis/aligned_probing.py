"""A linear probe behind each alignment, and the evidence that one is chosen by.

P tiles of the training side, T tiles of a test set, N training tiles of a plan, D features, E aligned features
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.alignment import NONE, SOURCE, TARGET, Alignment
from geomae.analysis.alignment_choice import Evidence
from geomae.analysis.alignment_scorers import CIRCULAR, circular_validation, prediction_scores
from geomae.analysis.knn_probe import knn_classes
from geomae.analysis.label_shift import LabelShift, estimate_label_shift
from geomae.analysis.linear_probe import STRENGTHS, fit_linear
from geomae.analysis.plans import Labelled, Plan
from geomae.analysis.probing import Answers, Asked

EQUAL = 0.05  # nearer circular validations are one: about a standard error of some dozen groups (Breiman et al. 1984)


def classify_aligned(
    answers: Answers,
    plans: Sequence[Plan],
    train_PD: NDArray[np.floating],
    labelled: Labelled,
    tests: Mapping[str, NDArray[np.floating]],
    alignments: Sequence[str],
    strength: float | None,
    paired: Mapping[str, bool],
) -> None:
    """Add to the answers of one encoder, which has those without alignment, those behind each; and the evidence.

    The target of an alignment are all tiles of a test set, whose labels are not here; its source are the training tiles
    of a plan. Behind an alignment the strength of a probe is chosen by circular validation, since folds of the source
    cannot see the shift; without one it is what it is in a probe that knows no target.
    """
    for test, embedding_TD in tests.items():
        scores: dict[str, list[Mapping[str, float]]] = {}
        shifts: list[LabelShift] = []
        for plan, plain in zip(plans, answers.strengths, strict=True):
            label_N = labelled.label_P[plan.train]
            shifts.append(estimate_label_shift(train_PD, labelled, plan, embedding_TD, plain))
            for name in alignments:
                alignment = Alignment.fit(name, train_PD[plan.train], embedding_TD)
                source_NE = alignment.transform(train_PD[plan.train], SOURCE)
                target_TE = alignment.transform(embedding_TD, TARGET)
                known = (source_NE, label_N, target_TE, len(labelled.names))
                circular = circular_validation(*known, STRENGTHS if strength is None else [strength])
                best = max(circular.values())
                strongest = min(one for one, score in circular.items() if score >= best - EQUAL)
                taken = plain if name == NONE else strongest
                probe = fit_linear(source_NE, label_N, len(labelled.names), taken)
                found = {CIRCULAR: best, **prediction_scores(probe, target_TE), "strength": taken}
                scores.setdefault(name, []).append(found)
                if name == NONE:
                    continue  # its answers are there
                here_E = target_TE[plan.tests[test]]
                predicted = {"linear": probe.predict(here_E)}
                near = knn_classes(source_NE, label_N, here_E, len(labelled.names))
                predicted |= {f"knn{count}": codes_T for count, codes_T in near.items()}
                for method, codes_T in predicted.items():
                    asked = Asked(test, method, None, name)
                    answers.put(asked, 0, len(embedding_TD), plan.tests[test], codes_T)
        mean = {
            name: {key: float(np.mean([one[key] for one in each])) for key in each[0]} for name, each in scores.items()
        }
        answers.evidence[test] = Evidence(mean, shifts, paired[test])
