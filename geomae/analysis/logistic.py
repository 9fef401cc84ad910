"""Multinomial logistic regression by L-BFGS, in coordinates in which the problem is nearly round.

T rows, D features, K classes, E directions of the features that carry anything
"""

import numpy as np
from numpy.linalg import eigh, svd
from scipy.optimize import minimize  # type: ignore[import-untyped]

from geomae.analysis.scores import Floats

CURVATURE = 0.25  # of the logistic loss at most (Böhning 1992), so that no step is too long
TINY = 1e-12  # share of the largest eigenvalue below which a direction is rounding
LOOSE, TIGHT = 1e-4, 1e-6  # largest slope at the end; loose changes no prediction at strengths that generalise
MOST_STEPS = 2000


class Logistic:
    """The rows of one fit, prepared for any number of strengths.

    Minimises `-sum(target_TK * log p_TK) + sum(weight_DK ** 2) / (2 * strength)`, the intercepts free: what
    scikit-learn's LogisticRegression minimises with C = `strength`. A row of `target_TK` is the weight of the row,
    shared out over its classes.

    Turning the features to the principal axes of their weighted products leaves the penalty as it is; scaling each axis
    by its curvature then needs a small part of the steps.
    """

    def __init__(self, features_TD: Floats, target_TK: Floats) -> None:
        weight_T = target_TK.sum(1)
        if len(features_TD) < features_TD.shape[1]:
            _, singular_E, axes_ED = svd(features_TD * np.sqrt(weight_T)[:, None], full_matrices=False)
            self._spread_E, self._axes_DE = singular_E**2, axes_ED.T
        else:
            self._spread_E, self._axes_DE = eigh(features_TD.T @ (features_TD * weight_T[:, None]))
        kept_E = self._spread_E > self._spread_E.max() * TINY
        self._spread_E, self._axes_DE = self._spread_E[kept_E], self._axes_DE[:, kept_E]
        self._rows_TE = features_TD @ self._axes_DE
        self._total = float(weight_T.sum())
        self._weight_T1 = weight_T[:, None] / self._total
        self._target_TK = target_TK / self._total

    def solve(
        self, strength: float, start: tuple[Floats, Floats] | None = None, tolerance: float = TIGHT
    ) -> tuple[Floats, Floats]:
        """Weights (D, K) and intercepts (K), from those of another strength where they are given."""
        penalty = 1 / (strength * self._total)
        scale_E1 = 1 / np.sqrt(CURVATURE * self._spread_E / self._total + penalty)[:, None]
        scaled_TE, penalty_E1 = self._rows_TE * scale_E1[:, 0], penalty * scale_E1**2
        shape = (len(scale_E1) + 1, self._target_TK.shape[1])  # the last row holds the intercepts

        def loss(values: Floats) -> tuple[float, Floats]:
            place = values.reshape(shape)
            scores_TK = scaled_TE @ place[:-1]
            scores_TK += place[-1] / np.sqrt(CURVATURE)
            scores_TK -= scores_TK.max(1, keepdims=True)
            right = float((scores_TK * self._target_TK).sum())
            np.exp(scores_TK, out=scores_TK)
            sum_T1 = scores_TK.sum(1, keepdims=True)
            value = float((self._weight_T1 * np.log(sum_T1)).sum()) - right
            excess_TK = scores_TK * (self._weight_T1 / sum_T1) - self._target_TK
            pulled_EK = penalty_E1 * place[:-1]
            slope = np.empty(shape)
            slope[:-1] = scaled_TE.T @ excess_TK + pulled_EK
            slope[-1] = excess_TK.sum(0) / np.sqrt(CURVATURE)
            return value + 0.5 * float((place[:-1] * pulled_EK).sum()), slope.ravel()

        begin = np.zeros(shape)
        if start is not None:
            begin[:-1], begin[-1] = self._axes_DE.T @ start[0] / scale_E1, start[1] * np.sqrt(CURVATURE)
        limits = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "gtol": tolerance, "ftol": 0.0}
        end = minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=limits).x.reshape(shape)
        return self._axes_DE @ (scale_E1 * end[:-1]), end[-1] / np.sqrt(CURVATURE)
