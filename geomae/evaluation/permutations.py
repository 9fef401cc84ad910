"""Permutation tests of a gap: groups dealt anew to two sides, p-values, and what zero looks like.

N tiles, C cells (the tiles of one group in one domain), R deals

N tiles of the source, M of the target, R deals
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.folds import codes_of
from geomae.randomness import generator

Doubles = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]

PERMUTATIONS = 1999  # a p-value can be 1 / 2000, so that Holm over a hundred tests can still reject at 0.05
FEWEST_DEALS = 20  # with fewer different ones no p-value reaches 0.05
HALVINGS = 100


@dataclass(frozen=True)
class Permutations:
    """For each deal, which cells are on the first side and which on the second: 0 or 1."""

    first_RC: Doubles
    second_RC: Doubles

    def __len__(self) -> int:
        return len(self.first_RC)

    def take(self, rows: slice) -> "Permutations":
        """Some of the deals."""
        return Permutations(self.first_RC[rows], self.second_RC[rows])


Measure = Callable[[Permutations], Doubles]  # a figure of each deal


@dataclass(frozen=True)
class GroupBlocks:
    """Tiles in cells, which are dealt as a whole. Tiles are ordered by cell; `order_N` is where each stood before."""

    order_N: Codes
    start_C: Codes
    group_C: Codes
    target_C: Mask

    @classmethod
    def of(
        cls, source_group_N: Sequence[Any] | NDArray[Any], target_group_M: Sequence[Any] | NDArray[Any]
    ) -> "GroupBlocks":
        """The cells of the tiles of a source and those of a target after them; there may be no target."""
        group_N, _ = codes_of([*source_group_N, *target_group_M])
        target_N = np.arange(len(group_N)) >= len(source_group_N)
        cell_N = 2 * group_N + target_N
        order_N = np.argsort(cell_N, kind="stable")
        known_C, start_C = np.unique(cell_N[order_N], return_index=True)
        return cls(order_N, start_C, known_C // 2, known_C % 2 == 1)

    @property
    def count_C(self) -> Doubles:
        """Tiles of each cell."""
        return np.diff(self.start_C, append=len(self.order_N)).astype(np.float64)

    @property
    def cell_N(self) -> Codes:
        """The cell of each tile, in their order by cell."""
        return np.repeat(np.arange(len(self.start_C)), self.count_C.astype(np.int64))

    def sums(self, values: NDArray[Any], axis: int = 0) -> Doubles:
        """Sums over the tiles of each cell, along the axis of tiles (in their order by cell)."""
        return np.add.reduceat(values, self.start_C, axis=axis, dtype=np.float64)

    def observed(self) -> Permutations:
        """Source against target, as they are."""
        return _deals(self.target_C[None])

    def permuted(self, seed: int) -> Permutations | None:
        """Random deals that are as likely as the observed one if the domains do not differ; None with too few.

        A group that occurs in both domains swaps them within itself; among the others the domains are exchanged group
        by group, so that each domain keeps its number of groups. Tiles of one group never part, since they are alike.
        """
        paired_C = self._paired()
        alone = np.flatnonzero(~paired_C)
        if _different(int(paired_C.sum()) // 2, len(alone), int(self.target_C[alone].sum())) < FEWEST_DEALS:
            return None
        rng = generator(seed, "permutations")
        target_RC = np.tile(self.target_C, (PERMUTATIONS, 1))
        swap_RG = rng.random((PERMUTATIONS, int(self.group_C.max()) + 1)) < 0.5
        target_RC ^= swap_RG[:, self.group_C] & paired_C
        target_RC[:, alone] = rng.permuted(target_RC[:, alone], axis=1)
        return _deals(target_RC)

    def halved(self, seed: int) -> Permutations | None:
        """Random halves of the groups of all tiles; None for a single group."""
        groups = int(self.group_C.max()) + 1
        if groups < 2:
            return None
        second_G = np.arange(groups) >= groups // 2
        second_RG = generator(seed, "halves").permuted(np.tile(second_G, (HALVINGS, 1)), axis=1)
        return _deals(second_RG[:, self.group_C])

    def _paired(self) -> Mask:
        return np.asarray(np.bincount(self.group_C)[self.group_C] == 2)


def p_value(observed: float, permuted_R: Doubles) -> float:
    """Share of deals, the observed one among them, whose figure is at least as large (Phipson & Smyth 2010)."""
    reached = observed - 1e-9 * abs(observed)  # the same deal may come out a rounding below itself
    return float((1 + (permuted_R >= reached).sum()) / (1 + len(permuted_R)))


def holm(p_T: Sequence[float]) -> list[float]:
    """p-values such that rejecting those below a level errs anywhere with at most that probability (Holm 1979)."""
    order = np.argsort(p_T, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p_T, dtype=np.float64)[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(one) for one in adjusted]


def _deals(second_RC: Mask) -> Permutations:
    return Permutations((~second_RC).astype(np.float64), second_RC.astype(np.float64))


def _different(pairs: int, alone: int, targets: int) -> int:
    """Number of deals that can differ in a figure for which it does not matter which side is which."""
    mirrored = 2 * targets == alone
    return int(2**pairs * comb(alone, targets)) // (2 if mirrored else 1)


Prepare = Callable[[NDArray[Any], GroupBlocks], Measure]
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
class DomainComparison:
    """A source and a target, and the deals of their groups: as they are, at random, and the source alone in halves."""

    cells: GroupBlocks
    halves: GroupBlocks
    permuted: Permutations | None
    halved: Permutations | None

    @classmethod
    def of(
        cls, source_group_N: Sequence[Any] | NDArray[Any], target_group_M: Sequence[Any] | NDArray[Any], seed: int
    ) -> "DomainComparison":
        """Of tiles whose groups are known; a group that occurs in both domains is a pair."""
        cells, halves = GroupBlocks.of(source_group_N, target_group_M), GroupBlocks.of(source_group_N, ())
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


def evaluate(measure: Measure, deals: Permutations) -> Doubles:
    """A measure of many deals, some at a time: their products with all tiles would not fit into memory."""
    parts = [slice(begin, begin + DEALS_AT_ONCE) for begin in range(0, len(deals), DEALS_AT_ONCE)]
    return np.concatenate([measure(deals.take(part)) for part in parts])


def between_sums(sum_CV: Doubles, between: Callable[[Doubles, Doubles], Doubles]) -> Measure:
    """A measure of what cells hold, summed on either side of a deal: `between` takes the sums (R, V) of both."""

    def measure(deals: Permutations) -> Doubles:
        return np.asarray(between(deals.first_RC @ sum_CV, deals.second_RC @ sum_CV))

    return measure
