"""The linear probe: how well classes can be told apart by a linear function of frozen embeddings.

T tiles, D features, K classes, S strengths
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.logistic import LOOSE, TIGHT, Logistic
from geomae.analysis.scores import Codes, Floats, balanced_accuracy, confusion

Folds = Sequence[tuple[Codes, Codes]]
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each feature over the tiles that a probe is trained on."""

    mean_D: Floats
    std_D: Floats

    @classmethod
    def of(cls, embedding_TD: NDArray[np.floating]) -> "Scale":
        """Those of some tiles; a feature that is the same everywhere keeps its unit."""
        wide_TD = embedding_TD.astype(np.float64)
        std_D = wide_TD.std(0)
        constant_D = std_D <= 1e-9 * np.abs(wide_TD).max(0)
        return cls(wide_TD.mean(0), np.where(constant_D, 1.0, std_D))

    def apply(self, embedding_TD: NDArray[np.floating]) -> Floats:
        """Standardised embeddings."""
        return (embedding_TD.astype(np.float64) - self.mean_D) / self.std_D


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of embeddings; a class that it was not trained on is never predicted."""

    scale: Scale
    weight_DK: Floats
    bias_K: Floats

    def scores(self, embedding_TD: NDArray[np.floating]) -> Floats:
        """Scores (T, K), whose softmax are probabilities."""
        return self.scale.apply(embedding_TD) @ self.weight_DK + self.bias_K

    def predict(self, embedding_TD: NDArray[np.floating]) -> Codes:
        """The class (T,) with the highest score."""
        return np.asarray(self.scores(embedding_TD).argmax(1))


def one_hot(label_T: Codes, classes: int) -> Floats:
    """The classes (T, K) of tiles, as shares that are 0 or 1."""
    return np.eye(classes)[label_T]


def fit_path(
    embedding_TD: NDArray[np.floating],
    share_TK: Floats,
    strengths: Sequence[float],
    *,
    balanced: bool = True,
    scale: Scale | None = None,
    tolerance: float = TIGHT,
) -> list[LinearProbe]:
    """A probe for each strength (the C of scikit-learn's LogisticRegression), each begun at the one before.

    `share_TK` says how much of each class a tile or patch is. Where `balanced`, each class counts the same
    (`class_weight="balanced"`). The scale is that of these tiles unless another is given.
    """
    scale = scale or Scale.of(embedding_TD)
    count_K = share_TK.sum(0)
    known_K = np.flatnonzero(count_K > 0)
    target_TK = share_TK[:, known_K]
    if balanced:
        target_TK = target_TK * (count_K.sum() / (len(known_K) * count_K[known_K]))
    problem = Logistic(scale.apply(embedding_TD), target_TK)
    found: list[LinearProbe] = []
    solution = None
    for strength in strengths:
        # Of two classes, scikit-learn penalises the one difference of weights, which is half of both.
        solution = problem.solve(strength / 2 if len(known_K) == 2 else strength, solution, tolerance)
        weight_DK = np.zeros((embedding_TD.shape[1], len(count_K)))
        bias_K = np.full(len(count_K), -np.inf)
        weight_DK[:, known_K], bias_K[known_K] = solution
        found.append(LinearProbe(scale, weight_DK, bias_K))
    return found


def fit_linear(
    embedding_TD: NDArray[np.floating], label_T: Codes, classes: int, strength: float, scale: Scale | None = None
) -> LinearProbe:
    """The probe of one strength; see `fit_path`."""
    return fit_path(embedding_TD, one_hot(label_T, classes), [strength], scale=scale)[0]


def choose_strength(
    embedding_TD: NDArray[np.floating],
    label_T: Codes,
    classes: int,
    folds: Folds,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[float, dict[float, float]]:
    """The strength with the highest balanced accuracy over all held-out tiles of `folds`, and the score of each.

    Each fold is (tiles to train on, tiles held out). Of equal scores the stronger regularisation wins. A class that a
    fold's training part lacks is wrong at every strength, so that it does not speak for any.
    """
    strengths = sorted(strengths)
    counts_SKK = np.zeros((len(strengths), classes, classes))
    for train, held_out in folds:
        probes = fit_path(embedding_TD[train], one_hot(label_T[train], classes), strengths, tolerance=LOOSE)
        for number, probe in enumerate(probes):
            counts_SKK[number] += confusion(label_T[held_out], probe.predict(embedding_TD[held_out]), classes)
    score_S = balanced_accuracy(counts_SKK)
    return strengths[int(score_S.argmax())], dict(zip(strengths, score_S.tolist(), strict=True))
