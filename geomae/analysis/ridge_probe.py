"""The linear probe of numbers: ridge regression.

T tiles, D features, S strengths
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.linalg import svd
from numpy.typing import NDArray

from geomae.analysis.linear_probe import Folds, Scale
from geomae.analysis.scores import Floats

STRENGTHS = tuple(10.0**power for power in range(-6, 4))


@dataclass(frozen=True)
class RidgeProbe:
    """A linear function of embeddings."""

    scale: Scale
    weight_D: Floats
    bias: float

    def predict(self, embedding_TD: NDArray[np.floating]) -> Floats:
        """Values (T,)."""
        return self.scale.apply(embedding_TD) @ self.weight_D + self.bias


def fit_ridge_path(embedding_TD: NDArray[np.floating], value_T: Floats, strengths: Sequence[float]) -> list[RidgeProbe]:
    """A probe for each strength, which is 1 / `alpha` of scikit-learn's Ridge on standardised embeddings."""
    scale, mean = Scale.of(embedding_TD), float(value_T.mean())
    left_TE, singular_E, axes_ED = svd(scale.apply(embedding_TD), full_matrices=False)
    along_E = left_TE.T @ (value_T - mean)
    return [
        RidgeProbe(scale, axes_ED.T @ (along_E * singular_E / (singular_E**2 + 1 / strength)), mean)
        for strength in strengths
    ]


def choose_ridge(
    embedding_TD: NDArray[np.floating], value_T: Floats, folds: Folds, strengths: Sequence[float] = STRENGTHS
) -> tuple[float, dict[float, float]]:
    """The strength with the lowest error over all held-out tiles of `folds`, and the RMSE of each.

    Of equal errors the stronger regularisation wins.
    """
    strengths = sorted(strengths)
    square_S, count = np.zeros(len(strengths)), 0
    for train, held_out in folds:
        count += len(held_out)
        for number, probe in enumerate(fit_ridge_path(embedding_TD[train], value_T[train], strengths)):
            square_S[number] += np.square(probe.predict(embedding_TD[held_out]) - value_T[held_out]).sum()
    rmse_S = np.sqrt(square_S / count)
    return strengths[int(rmse_S.argmin())], dict(zip(strengths, rmse_S.tolist(), strict=True))
