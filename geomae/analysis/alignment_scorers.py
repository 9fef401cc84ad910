"""How good an alignment seems without any label of the target.

N rows of the source, M rows of the target, E aligned features, K classes
"""

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator

from geomae.analysis.linear_probe import LinearProbe, fit_path, one_hot
from geomae.analysis.logistic import LOOSE
from geomae.analysis.scores import Codes, Floats, balanced_accuracy, confusion
from geomae.analysis.skada_maps import skada_settings

CIRCULAR, ENTROPY, DENSITY = SCORERS = ("circular_validation", "prediction_entropy", "soft_neighborhood_density")


def circular_validation(
    source_NE: Floats, label_N: Codes, target_ME: Floats, classes: int, strengths: Sequence[float]
) -> dict[float, float]:
    """Circular validation (Bruzzone & Marconcini 2010) of a linear probe of each strength, in aligned features.

    The probe of the source labels the target; a second probe learns from these labels; its balanced accuracy on the
    source is the score. Where the classes of the source land on the wrong tiles of the target, it does not come back.
    """
    share_NK = one_hot(label_N, classes)
    scores = {}
    for strength, there in zip(strengths, fit_path(source_NE, share_NK, strengths, tolerance=LOOSE), strict=True):
        guessed_M = there.predict(target_ME)
        if len(np.unique(guessed_M)) > 1:
            back = fit_path(target_ME, one_hot(guessed_M, classes), [strength], tolerance=LOOSE)[0]
            returned_N = back.predict(source_NE)
        else:
            returned_N = np.full(len(label_N), guessed_M[0])
        scores[strength] = float(balanced_accuracy(confusion(label_N, returned_N, classes)))
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
