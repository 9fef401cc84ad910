"""Few labels: what a linear probe makes of 1, 5, 10 or 50 tiles per class, over several draws of them.

T tiles, N tiles of the training part, D features, K classes
"""

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.linear_probe import Scale, fit_path, one_hot
from geomae.analysis.logistic import LOOSE
from geomae.analysis.scores import Codes
from geomae.randomness import generator

SHOTS = (1, 5, 10, 50)
DRAWS = 10
STRENGTH = 1.0  # so few labels leave nothing to choose it by; 1 is scikit-learn's default


def draw_tiles(label_N: Codes, group_N: Codes, shots: int, seed: int, draw: int) -> Codes:
    """Positions of `shots` tiles of each class, spread over its groups: one of each in random order, then the next."""
    rng = generator(seed, "few labels", shots, draw)
    chosen: list[int] = []
    for label in np.unique(label_N):
        mixed = rng.permutation(np.flatnonzero(label_N == label))
        rank_of_group = rng.permutation(int(group_N.max()) + 1)
        nth = _nth_of_group(group_N[mixed])
        order = np.lexsort((rank_of_group[group_N[mixed]], nth))
        chosen += mixed[order[:shots]].tolist()
    return np.array(chosen, dtype=np.int64)


def possible_shots(label_N: Codes, shots: tuple[int, ...] = SHOTS) -> tuple[int, ...]:
    """Those numbers of labels that every class has."""
    fewest = int(np.unique(label_N, return_counts=True)[1].min())
    return tuple(number for number in shots if number <= fewest)


def few_label_classes(
    train_ND: NDArray[np.floating],
    label_N: Codes,
    group_N: Codes,
    test_TD: NDArray[np.floating],
    classes: int,
    seed: int,
) -> dict[int, list[Codes]]:
    """The predicted class (T,) for each number of labels per class and each draw.

    Embeddings are standardised by all training tiles, which takes no labels.
    """
    scale = Scale.of(train_ND)
    found: dict[int, list[Codes]] = {}
    for shots in possible_shots(label_N):
        found[shots] = []
        for draw in range(DRAWS):
            drawn = draw_tiles(label_N, group_N, shots, seed, draw)
            share_NK = one_hot(label_N[drawn], classes)
            probe = fit_path(train_ND[drawn], share_NK, [STRENGTH], scale=scale, tolerance=LOOSE)[0]
            found[shots].append(probe.predict(test_TD))
    return found


def _nth_of_group(group_N: Codes) -> Codes:
    """How many before it are of the same group."""
    order = np.argsort(group_N, kind="stable")
    ordered = group_N[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    length = np.diff(np.r_[start, len(ordered)])
    nth = np.empty(len(group_N), dtype=np.int64)
    nth[order] = np.arange(len(group_N)) - np.repeat(start, length)
    return nth
