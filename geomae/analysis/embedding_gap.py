"""How far apart two domains are in the embeddings of one encoder, and whether that is more than chance.

N tiles of the source, M of the target, D features
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.gap_classifier import can_classify, proxy_a_distance
from geomae.analysis.gap_contrast import Contrast, GapFigure, corrected
from geomae.analysis.gap_measures import LEADING, coral_distance, median_distance, squared_mmd, subspace_angle
from geomae.errors import EmbeddingError
from geomae.randomness import generator

MMD, CORAL, A_DISTANCE, ANGLE = "mmd2", "coral", "proxy_a_distance", "subspace_angle"
MOST_TILES = 1500  # of each domain; without groups, permutations then take half a minute


def embedding_gap(
    source_ND: NDArray[np.floating],
    source_group_N: Sequence[Any] | NDArray[Any],
    target_MD: NDArray[np.floating],
    target_group_M: Sequence[Any] | NDArray[Any],
    seed: int,
) -> list[GapFigure]:
    """Squared MMD, CORAL distance, proxy A-distance and subspace angle, with Holm over these four.

    A group that occurs in both domains is a pair. Of more than 1,500 tiles of a domain as many are drawn. The proxy
    A-distance is left out where a domain has too few groups for folds, and the angle where there are too few tiles for
    an axis. Raises EmbeddingError for embeddings that are not finite, and for domains of fewer than two tiles.
    """
    check_embeddings(source_ND, "source")
    check_embeddings(target_MD, "target")
    places = [draw_tiles(len(rows), seed, what) for rows, what in ((source_ND, "source"), (target_MD, "target"))]
    x_ND, y_MD = source_ND[places[0]].astype(np.float64), target_MD[places[1]].astype(np.float64)
    groups: list[Any] = [source_group_N, target_group_M]
    groups_N, groups_M = ([of[place] for place in here] for of, here in zip(groups, places, strict=True))
    contrast = Contrast.of(groups_N, groups_M, seed)
    width = median_distance(np.concatenate([x_ND, y_MD]))
    figures = [
        contrast.figure(MMD, partial(squared_mmd, width=width), x_ND, y_MD),
        contrast.figure(CORAL, coral_distance, x_ND, y_MD),
    ]
    if can_classify(contrast.cells):
        figures.append(contrast.figure(A_DISTANCE, proxy_a_distance, x_ND, y_MD))
    leading = min(LEADING, min(len(x_ND) // 2, len(y_MD)) - 1)  # as many for the halves of the source
    if leading > 0:
        prepare = partial(subspace_angle, leading=leading)
        figures.append(contrast.figure(ANGLE, prepare, x_ND, y_MD, unit="degree"))
    return corrected(figures)


def draw_tiles(tiles: int, seed: int, what: str) -> NDArray[np.int64]:
    """Positions of at most 1,500 tiles, in their order; the same for the same seed."""
    return np.sort(generator(seed, "gap tiles", what).permutation(tiles)[:MOST_TILES])


def check_embeddings(rows_ND: NDArray[np.floating], what: str) -> None:
    """Raise EmbeddingError where embeddings are not finite, or are fewer than two."""
    broken_N = ~np.isfinite(rows_ND).all(1)
    if broken_N.any():
        raise EmbeddingError(
            f"{what}: the embeddings of {broken_N.sum()} of {len(rows_ND)} tiles are not finite (the first is tile "
            f"number {broken_N.argmax()}); leave these tiles out with `where`, or look at the model's weights"
        )
    if len(rows_ND) < 2:
        raise EmbeddingError(f"{what}: has {len(rows_ND)} tiles; a gap takes two or more on either side")
