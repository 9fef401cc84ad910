"""Which tiles stand on which side: deals of whole groups to two sides, and the p-values that follow from them.

N tiles, C cells (the tiles of one group in one domain), R deals
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.folds import codes_of
from geomae.randomness import generator

Doubles = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]

PERMUTATIONS = 1999  # a p-value can be 1 / 2000, so that Holm over a hundred tests can still reject at 0.05
FEWEST_DEALS = 20  # with fewer different ones no p-value reaches 0.05
HALVINGS = 100


@dataclass(frozen=True)
class Deals:
    """For each deal, which cells are on the first side and which on the second: 0 or 1."""

    first_RC: Doubles
    second_RC: Doubles

    def __len__(self) -> int:
        return len(self.first_RC)

    def take(self, rows: slice) -> "Deals":
        """Some of the deals."""
        return Deals(self.first_RC[rows], self.second_RC[rows])


Measure = Callable[[Deals], Doubles]  # a figure of each deal


@dataclass(frozen=True)
class Cells:
    """Tiles in cells, which are dealt as a whole. Tiles are ordered by cell; `order_N` is where each stood before."""

    order_N: Codes
    start_C: Codes
    group_C: Codes
    target_C: Mask

    @classmethod
    def of(cls, source_group_N: Sequence[Any] | NDArray[Any], target_group_M: Sequence[Any] | NDArray[Any]) -> "Cells":
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

    def observed(self) -> Deals:
        """Source against target, as they are."""
        return _deals(self.target_C[None])

    def permuted(self, seed: int) -> Deals | None:
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

    def halved(self, seed: int) -> Deals | None:
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


def _deals(second_RC: Mask) -> Deals:
    return Deals((~second_RC).astype(np.float64), second_RC.astype(np.float64))


def _different(pairs: int, alone: int, targets: int) -> int:
    """Number of deals that can differ in a figure for which it does not matter which side is which."""
    mirrored = 2 * targets == alone
    return int(2**pairs * comb(alone, targets)) // (2 if mirrored else 1)
