"""A figure of a gap: what it is, what it is between halves of the source, and how often chance alone gives as much.

N tiles of the source, M of the target, R deals
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.gap_cells import Cells, Deals, Doubles, Measure, holm, p_value

Prepare = Callable[[NDArray[Any], Cells], Measure]
DEALS_AT_ONCE = 250


@dataclass(frozen=True)
class GapFigure:
    """One figure of a gap. `null_value` is its median between random halves of the source: what zero looks like.

    `p` is that of a permutation test by group, `p_holm` the same after Holm's correction over all that were tested
    together. Each is None where there are too few groups or tiles, or where nothing is tested. Figures of pixels have a
    band.
    """

    measure: str
    value: float
    null_value: float | None = None
    p: float | None = None
    p_holm: float | None = None
    band: str = ""
    unit: str = "1"


@dataclass(frozen=True)
class Contrast:
    """A source and a target, and the deals of their groups: as they are, at random, and the source alone in halves."""

    cells: Cells
    halves: Cells
    permuted: Deals | None
    halved: Deals | None

    @classmethod
    def of(
        cls, source_group_N: Sequence[Any] | NDArray[Any], target_group_M: Sequence[Any] | NDArray[Any], seed: int
    ) -> "Contrast":
        """Of tiles whose groups are known; a group that occurs in both domains is a pair."""
        cells, halves = Cells.of(source_group_N, target_group_M), Cells.of(source_group_N, ())
        return cls(cells, halves, cells.permuted(seed), halves.halved(seed))

    def figure(
        self,
        name: str,
        prepare: Prepare,
        source_N: NDArray[Any],
        target_M: NDArray[Any],
        *,
        value: float | None = None,
        tested: bool = True,
        band: str = "",
        unit: str = "1",
    ) -> GapFigure:
        """The figure that `prepare` makes a measure of, from what is known of each tile (in the order of the groups).

        `value` is shown in its place where it is finer than what can be dealt two thousand times.
        """
        measure = prepare(np.concatenate([source_N, target_M])[self.cells.order_N], self.cells)
        observed = float(measure(self.cells.observed())[0])
        null = p = None
        if self.halved is not None:
            halved = evaluate(prepare(source_N[self.halves.order_N], self.halves), self.halved)
            null = float(np.median(halved)) if np.isfinite(halved).all() else None
        if self.permuted is not None and tested:
            permuted = evaluate(measure, self.permuted)
            p = p_value(observed, permuted) if np.isfinite(permuted).all() else None
        return GapFigure(name, observed if value is None else value, null, p, band=band, unit=unit)


def corrected(figures: Sequence[GapFigure]) -> list[GapFigure]:
    """The figures with Holm's correction over all of them that were tested."""
    adjusted = iter(holm([one.p for one in figures if one.p is not None]))
    return [replace(one, p_holm=next(adjusted) if one.p is not None else None) for one in figures]


def evaluate(measure: Measure, deals: Deals) -> Doubles:
    """A measure of many deals, some at a time: their products with all tiles would not fit into memory."""
    parts = [slice(begin, begin + DEALS_AT_ONCE) for begin in range(0, len(deals), DEALS_AT_ONCE)]
    return np.concatenate([measure(deals.take(part)) for part in parts])


def between_sums(sum_CV: Doubles, between: Callable[[Doubles, Doubles], Doubles]) -> Measure:
    """A measure of what cells hold, summed on either side of a deal: `between` takes the sums (R, V) of both."""

    def measure(deals: Deals) -> Doubles:
        return np.asarray(between(deals.first_RC @ sum_CV, deals.second_RC @ sum_CV))

    return measure
