"""How far apart two domains are in the embeddings of one encoder, and whether that is more than chance.

N tiles of the source, M of the target, D features, R deals
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.gap_cells import Cells, Deals, Doubles, holm, p_value
from geomae.analysis.gap_classifier import can_classify, proxy_a_distance
from geomae.analysis.gap_measures import Measure, coral_distance, median_distance, squared_mmd, subspace_angle
from geomae.errors import EmbeddingError
from geomae.randomness import generator

MMD, CORAL, A_DISTANCE, ANGLE = "mmd2", "coral", "proxy_a_distance", "subspace_angle"
MEASURES = (MMD, CORAL, A_DISTANCE, ANGLE)
MOST_TILES = 1500  # of each domain; without groups, permutations then take half a minute
DEALS_AT_ONCE = 250


@dataclass(frozen=True)
class GapFigure:
    """One figure of a gap. `null_value` is its median between random halves of the source: what zero looks like.

    `p` is that of a permutation test by group, `p_holm` the same after Holm's correction over all that were tested
    together. Each is None where there are too few groups. A figure of pixels has a band; other bands are empty.
    """

    measure: str
    value: float
    null_value: float | None = None
    p: float | None = None
    p_holm: float | None = None
    band: str = ""
    unit: str = "1"


def embedding_gap(
    source_ND: NDArray[np.floating],
    source_group_N: Sequence[Any] | NDArray[Any],
    target_MD: NDArray[np.floating],
    target_group_M: Sequence[Any] | NDArray[Any],
    seed: int,
) -> list[GapFigure]:
    """Squared MMD, CORAL distance, proxy A-distance and subspace angle, with Holm over these four.

    A group that occurs in both domains is a pair. Of more than 1,500 tiles of a domain as many are drawn. The proxy
    A-distance is left out where a domain has too few groups for folds. Raises EmbeddingError for embeddings that are
    not finite, and for domains of fewer than two tiles.
    """
    check_embeddings(source_ND, "source")
    check_embeddings(target_MD, "target")
    source_ND, source_group_N = _draw(source_ND, source_group_N, seed, "source")
    target_MD, target_group_M = _draw(target_MD, target_group_M, seed, "target")
    cells, halves = Cells.of(source_group_N, target_group_M), Cells.of(source_group_N, ())
    pooled_ND = np.concatenate([source_ND, target_MD]).astype(np.float64)[cells.order_N]
    alone_ND = source_ND.astype(np.float64)[halves.order_N]
    permuted, halved = cells.permuted(seed), halves.halved(seed)
    figures = []
    for name in MEASURES:
        if name == A_DISTANCE and not can_classify(cells):
            continue
        width = median_distance(pooled_ND) if name == MMD else 0.0
        measure, null = _measure(name, pooled_ND, cells, width), None
        if halved is not None:
            null = float(np.median(evaluate(_measure(name, alone_ND, halves, width), halved)))
        value = float(measure(cells.observed())[0])
        p = p_value(value, evaluate(measure, permuted)) if permuted is not None else None
        figures.append(GapFigure(name, value, null, p, unit="degree" if name == ANGLE else "1"))
    return corrected(figures)


def corrected(figures: Sequence[GapFigure]) -> list[GapFigure]:
    """The figures with Holm's correction over all of them that were tested."""
    adjusted = iter(holm([one.p for one in figures if one.p is not None]))
    return [replace(one, p_holm=next(adjusted) if one.p is not None else None) for one in figures]


def evaluate(measure: Measure, deals: Deals) -> Doubles:
    """A measure of many deals, some at a time: their products with all tiles would not fit into memory."""
    parts = [slice(begin, begin + DEALS_AT_ONCE) for begin in range(0, len(deals), DEALS_AT_ONCE)]
    return np.concatenate([measure(deals.take(part)) for part in parts])


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


def _measure(name: str, rows_ND: Doubles, cells: Cells, width: float) -> Measure:
    if name == MMD:
        return squared_mmd(rows_ND, cells, width)
    return {CORAL: coral_distance, A_DISTANCE: proxy_a_distance, ANGLE: subspace_angle}[name](rows_ND, cells)


def _draw(
    rows_ND: NDArray[np.floating], group_N: Sequence[Any] | NDArray[Any], seed: int, what: str
) -> tuple[NDArray[np.floating], list[Any]]:
    if len(rows_ND) <= MOST_TILES:
        return rows_ND, list(group_N)
    chosen = np.sort(generator(seed, "gap tiles", what).permutation(len(rows_ND))[:MOST_TILES])
    return rows_ND[chosen], [group_N[place] for place in chosen]
