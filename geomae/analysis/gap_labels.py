"""How far apart two domains are in their labels, and the tiles of one class in their embeddings.

N tiles of the source, M of the target, D features, K classes, R deals
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.embedding_gap import MMD
from geomae.analysis.gap_cells import Cells, Doubles, Measure
from geomae.analysis.gap_contrast import Contrast, GapFigure, between_sums
from geomae.analysis.gap_measures import median_distance, squared_mmd

LABEL_SHIFT = "label_shift"


def label_shift(source_label_N: NDArray[np.str_], target_label_M: NDArray[np.str_], contrast: Contrast) -> GapFigure:
    """Total variation between the shares of the classes: half the sum of their differences, 0 to 1."""
    names = sorted({*source_label_N.tolist(), *target_label_M.tolist()})
    source_NK, target_MK = (one[:, None] == np.array(names) for one in (source_label_N, target_label_M))
    return contrast.figure(LABEL_SHIFT, _total_variation, source_NK, target_MK)


def class_distances(
    source_ND: NDArray[np.floating],
    source_group_N: Sequence[Any],
    source_label_N: NDArray[np.str_],
    target_MD: NDArray[np.floating],
    target_group_M: Sequence[Any],
    target_label_M: NDArray[np.str_],
    seed: int,
) -> list[GapFigure]:
    """Squared MMD between the tiles of each class that has two or more on both sides; not tested, they may be many."""
    found = []
    for name in sorted({*source_label_N.tolist()} & {*target_label_M.tolist()} - {""}):  # "" is no class
        here_N, here_M = np.flatnonzero(source_label_N == name), np.flatnonzero(target_label_M == name)
        if min(len(here_N), len(here_M)) < 2:
            continue
        x_ND, y_MD = source_ND[here_N].astype(np.float64), target_MD[here_M].astype(np.float64)
        groups_N = [source_group_N[place] for place in here_N.tolist()]
        groups_M = [target_group_M[place] for place in here_M.tolist()]
        width = median_distance(np.concatenate([x_ND, y_MD]))
        prepare = partial(squared_mmd, width=width)
        contrast = Contrast.of(groups_N, groups_M, seed)
        found.append(contrast.figure(f"{MMD}/{name}", prepare, x_ND, y_MD, tested=False))
    return found


def _total_variation(member_NK: NDArray[np.bool_], cells: Cells) -> Measure:
    def between(one_RK: Doubles, other_RK: Doubles) -> Doubles:
        shares = [side / side.sum(1, keepdims=True) for side in (one_RK, other_RK)]
        return np.asarray(np.abs(shares[0] - shares[1]).sum(1) / 2)

    return between_sums(cells.sums(member_NK), between)
