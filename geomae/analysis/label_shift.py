"""Label shift: whether the target differs from the source in how often classes occur, estimated without its labels.

N rows of the source, M rows of the target, D features, K classes
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[import-untyped]

from geomae.analysis.linear_probe import Scale, fit_path, one_hot
from geomae.analysis.logistic import LOOSE
from geomae.analysis.plans import Labelled, Plan
from geomae.analysis.scores import Codes, Floats, confusion


@dataclass(frozen=True)
class LabelShift:
    """Class shares of the source, those estimated for the target, and how much of the domains' distance they explain.

    `explained` is 1 where the source, weighted to the estimated shares, has the target's mean, and 0 or less where the
    weights do not bring it nearer: then the features differ within classes, and the estimate is not to be trusted.
    """

    source_K: Floats
    target_K: Floats
    explained: float

    @property
    def distance(self) -> float:
        """Total variation between both shares, 0 to 1."""
        return 0.5 * float(np.abs(self.target_K - self.source_K).sum())


def estimate_label_shift(
    train_PD: NDArray[np.floating], labelled: Labelled, plan: Plan, target_MD: NDArray[np.floating], strength: float
) -> LabelShift:
    """Black-box shift estimation (Lipton et al. 2018): the shares that explain what the source's probe predicts.

    The confusion matrix is that of the held-out tiles of the plan's folds; shares are not negative and sum to 1.
    """
    label_P, classes = labelled.label_P, len(labelled.names)
    counts_KK = np.zeros((classes, classes))
    for learn, held in plan.folds:
        probe = fit_path(train_PD[learn], one_hot(label_P[learn], classes), [strength], tolerance=LOOSE)[0]
        counts_KK += confusion(label_P[held], probe.predict(train_PD[held]), classes)
    source_ND, label_N = train_PD[plan.train], label_P[plan.train]
    source_K = np.bincount(label_N, minlength=classes) / len(label_N)
    known_K = counts_KK.sum(1) > 0
    given_KK = counts_KK[known_K] / counts_KK[known_K].sum(1, keepdims=True)  # of a true class: what is predicted
    probe = fit_path(source_ND, one_hot(label_N, classes), [strength], tolerance=LOOSE)[0]
    predicted_K = np.bincount(probe.predict(target_MD), minlength=classes) / len(target_MD)
    # A heavy last row makes the shares sum to 1.
    shares, _ = nnls(np.vstack([given_KK.T, np.full(len(given_KK), 100.0)]), np.append(predicted_K, 100.0))
    target_K = np.zeros(classes)
    target_K[known_K] = shares / shares.sum()
    return LabelShift(source_K, target_K, _explained(source_ND, label_N, target_MD, source_K, target_K))


def _explained(
    source_ND: NDArray[np.floating], label_N: Codes, target_MD: NDArray[np.floating], source_K: Floats, target_K: Floats
) -> float:
    """The share of the squared distance of the means, in standard deviations of the source, that the weights take."""
    scale = Scale.of(source_ND)
    target_D = scale.apply(target_MD).mean(0)
    weight_N = (target_K / np.where(source_K > 0, source_K, 1))[label_N]
    weighted_D = np.average(scale.apply(source_ND), axis=0, weights=weight_N)
    before, after = float((target_D**2).sum()), float(((target_D - weighted_D) ** 2).sum())
    return 1 - after / before if before > 0 else 0.0
