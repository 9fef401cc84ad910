"""The kNN probe: how well the nearest embeddings tell the class; it has nothing to train and little to choose.

T tiles, N tiles of the training part, D features, K classes
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.scores import Codes, Floats

NEIGHBOURS = (5, 20)
BLOCK = 2048  # tiles whose similarities are in memory at a time


def nearest_tiles(train_ND: NDArray[np.floating], test_TD: NDArray[np.floating], most: int) -> NDArray[np.int64]:
    """Positions (T, most) of the training tiles of highest cosine similarity, the nearest first.

    Embeddings are brought to length 1 and not standardised, as the kNN probes of self-supervised learning do (Wu et al.
    2018). Of equally near ones the first in order counts.
    """
    unit_ND, unit_TD = _unit(train_ND), _unit(test_TD)
    most = min(most, len(train_ND))
    found = []
    for begin in range(0, len(unit_TD), BLOCK):
        distance_TN = 1 - unit_TD[begin : begin + BLOCK] @ unit_ND.T
        near = np.sort(np.argpartition(distance_TN, most - 1, axis=1)[:, :most], axis=1)
        order = np.argsort(np.take_along_axis(distance_TN, near, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(near, order, 1))
    return np.concatenate(found)


def vote(near_TM: NDArray[np.int64], label_N: Codes, classes: int, neighbours: int) -> Codes:
    """The most frequent class (T,) among the nearest tiles, each with one vote; of equally frequent ones the first."""
    votes_TM = label_N[near_TM[:, :neighbours]]
    count_TK = (votes_TM[:, :, None] == np.arange(classes)).sum(1)
    return np.asarray(count_TK.argmax(1))


def knn_classes(
    train_ND: NDArray[np.floating],
    label_N: Codes,
    test_TD: NDArray[np.floating],
    classes: int,
    neighbours: Sequence[int] = NEIGHBOURS,
) -> dict[int, Codes]:
    """The class (T,) of each tile by its nearest, for each number of neighbours."""
    near_TM = nearest_tiles(train_ND, test_TD, max(neighbours))
    return {count: vote(near_TM, label_N, classes, count) for count in neighbours}


def knn_values(
    train_ND: NDArray[np.floating],
    value_N: Floats,
    test_TD: NDArray[np.floating],
    neighbours: Sequence[int] = NEIGHBOURS,
) -> dict[int, Floats]:
    """The mean value (T,) of the nearest tiles, for each number of neighbours."""
    near_TM = nearest_tiles(train_ND, test_TD, max(neighbours))
    return {count: value_N[near_TM[:, :count]].mean(1) for count in neighbours}


def _unit(embedding_TD: NDArray[np.floating]) -> Floats:
    wide_TD = embedding_TD.astype(np.float64)
    length_T1 = np.linalg.norm(wide_TD, axis=1, keepdims=True)
    return wide_TD / np.where(length_T1 > 0, length_T1, 1)
