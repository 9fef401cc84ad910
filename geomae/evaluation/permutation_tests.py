"""Permutation tests of a gap: permutations of whole groups between domains, p-values, and values without a gap.

N tiles (of the source, where there is M: tiles of the target), G groups, B blocks (a block is the tiles of one group in
one domain), R permutations, V values of a block
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
FEWEST_PERMUTATIONS = 20  # with fewer distinct ones no p-value reaches 0.05
HALVINGS = 100
PERMUTATIONS_AT_ONCE = 250


@dataclass(frozen=True)
class Permutations:
    """The blocks on the first and on the second side of each permutation, as 0 or 1."""

    first_RB: Doubles
    second_RB: Doubles

    def __len__(self) -> int:
        return len(self.first_RB)

    def take(self, rows: slice) -> "Permutations":
        """Some of the permutations."""
        return Permutations(self.first_RB[rows], self.second_RB[rows])


Statistic = Callable[[Permutations], Doubles]  # the value for each permutation


@dataclass(frozen=True)
class GroupBlocks:
    """Tiles in blocks, which are permuted as a whole. Tiles are sorted by block; `order_N` are their old positions."""

    order_N: Codes
    start_B: Codes
    group_B: Codes
    target_B: Mask

    @classmethod
    def of(
        cls, source_group_N: Sequence[Any] | NDArray[Any], target_group_M: Sequence[Any] | NDArray[Any]
    ) -> "GroupBlocks":
        """The blocks of the tiles of a source, followed by a target, which may be empty."""
        group_N, _ = codes_of([*source_group_N, *target_group_M])
        target_N = np.arange(len(group_N)) >= len(source_group_N)
        block_N = 2 * group_N + target_N
        order_N = np.argsort(block_N, kind="stable")
        known_B, start_B = np.unique(block_N[order_N], return_index=True)
        return cls(order_N, start_B, known_B // 2, known_B % 2 == 1)

    @property
    def count_B(self) -> Doubles:
        """Tiles of each block."""
        return np.diff(self.start_B, append=len(self.order_N)).astype(np.float64)

    @property
    def block_N(self) -> Codes:
        """The block of each tile, sorted by block."""
        return np.repeat(np.arange(len(self.start_B)), self.count_B.astype(np.int64))

    def sums(self, values: NDArray[Any], axis: int = 0) -> Doubles:
        """Sums over the tiles of each block, along the axis of tiles (sorted by block)."""
        return np.add.reduceat(values, self.start_B, axis=axis, dtype=np.float64)

    def observed(self) -> Permutations:
        """The observed assignment: source against target."""
        return _of_second_domain(self.target_B[None])

    def permuted(self, seed: int) -> Permutations | None:
        """Random permutations, as likely as the observed one if the domains do not differ; None with too few groups.

        In a group that occurs in both domains, these are swapped at random. The domains of the other groups are
        permuted among them, so that each domain keeps its number of groups. Tiles of one group stay together, because
        they are not independent.
        """
        paired_B = self._paired()
        alone = np.flatnonzero(~paired_B)
        if _different(int(paired_B.sum()) // 2, len(alone), int(self.target_B[alone].sum())) < FEWEST_PERMUTATIONS:
            return None
        rng = generator(seed, "permutations")
        target_RB = np.tile(self.target_B, (PERMUTATIONS, 1))
        swap_RG = rng.random((PERMUTATIONS, int(self.group_B.max()) + 1)) < 0.5
        target_RB ^= swap_RG[:, self.group_B] & paired_B
        target_RB[:, alone] = rng.permuted(target_RB[:, alone], axis=1)
        return _of_second_domain(target_RB)

    def halved(self, seed: int) -> Permutations | None:
        """Random halves of the groups of all tiles; None for a single group."""
        groups = int(self.group_B.max()) + 1
        if groups < 2:
            return None
        second_G = np.arange(groups) >= groups // 2
        second_RG = generator(seed, "halves").permuted(np.tile(second_G, (HALVINGS, 1)), axis=1)
        return _of_second_domain(second_RG[:, self.group_B])

    def _paired(self) -> Mask:
        return np.asarray(np.bincount(self.group_B)[self.group_B] == 2)


def p_value(observed: float, permuted_R: Doubles) -> float:
    """Share of permutations, the observed one among them, whose figure is at least as large (Phipson & Smyth 2010)."""
    reached = observed - 1e-9 * abs(observed)  # an identical permutation may differ by rounding
    return float((1 + (permuted_R >= reached).sum()) / (1 + len(permuted_R)))


def holm(p_T: Sequence[float]) -> list[float]:
    """Adjusted p-values that control the family-wise error rate (Holm 1979)."""
    order = np.argsort(p_T, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p_T, dtype=np.float64)[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(one) for one in adjusted]


StatisticFactory = Callable[[NDArray[Any], GroupBlocks], Statistic]


@dataclass(frozen=True)
class GapFigure:
    """One figure of a gap. `null_value` is its median between random halves of the source: its value without a gap.

    `p` is the p-value of a permutation test by group, `p_holm` after Holm's correction over all tests. They are
    None where there are too few groups or tiles, or where nothing is tested. Figures of pixels have a band.
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
    """A source and a target with permutations of their groups, and random halves of the source."""

    blocks: GroupBlocks
    halves: GroupBlocks
    permuted: Permutations | None
    halved: Permutations | None

    @classmethod
    def of(
        cls, source_group_N: Sequence[Any] | NDArray[Any], target_group_M: Sequence[Any] | NDArray[Any], seed: int
    ) -> "DomainComparison":
        """The comparison of tiles with these groups; a group that occurs in both domains is a pair."""
        blocks, halves = GroupBlocks.of(source_group_N, target_group_M), GroupBlocks.of(source_group_N, ())
        return cls(blocks, halves, blocks.permuted(seed), halves.halved(seed))

    def figure(
        self,
        name: str,
        statistic_of: StatisticFactory,
        source_N: NDArray[Any],
        target_M: NDArray[Any],
        *,
        value: float | None = None,
        tested: bool = True,
        band: str = "",
        unit: str = "1",
    ) -> GapFigure:
        """The figure of the statistic that `statistic_of` makes from the values of each tile, sorted by block.

        `value` replaces the observed value where it is more exact than what can be computed for every permutation.
        """
        statistic = statistic_of(np.concatenate([source_N, target_M])[self.blocks.order_N], self.blocks)
        observed = float(statistic(self.blocks.observed())[0])
        null = p = None
        if self.halved is not None:
            halved = evaluate(statistic_of(source_N[self.halves.order_N], self.halves), self.halved)
            null = float(np.median(halved)) if np.isfinite(halved).all() else None
        if self.permuted is not None and tested:
            permuted = evaluate(statistic, self.permuted)
            p = p_value(observed, permuted) if np.isfinite(permuted).all() else None
        return GapFigure(name, observed if value is None else value, null, p, band=band, unit=unit)


def corrected(figures: Sequence[GapFigure]) -> list[GapFigure]:
    """The figures with Holm's correction over all of them that were tested."""
    adjusted = iter(holm([one.p for one in figures if one.p is not None]))
    return [replace(one, p_holm=next(adjusted) if one.p is not None else None) for one in figures]


def evaluate(statistic: Statistic, permutations: Permutations) -> Doubles:
    """A statistic of many permutations, in parts: products of all with all tiles would not fit into memory."""
    parts = [slice(begin, begin + PERMUTATIONS_AT_ONCE) for begin in range(0, len(permutations), PERMUTATIONS_AT_ONCE)]
    return np.concatenate([statistic(permutations.take(part)) for part in parts])


def between_sums(sum_BV: Doubles, between: Callable[[Doubles, Doubles], Doubles]) -> Statistic:
    """A statistic of sums over the blocks of each side: `between` takes the sums (R, V) of both sides."""

    def statistic(permutations: Permutations) -> Doubles:
        return np.asarray(between(permutations.first_RB @ sum_BV, permutations.second_RB @ sum_BV))

    return statistic


def _of_second_domain(second_RB: Mask) -> Permutations:
    return Permutations((~second_RB).astype(np.float64), second_RB.astype(np.float64))


def _different(pairs: int, alone: int, targets: int) -> int:
    """The number of distinct permutations for a statistic that is symmetric in the two sides."""
    mirrored = 2 * targets == alone
    return int(2**pairs * comb(alone, targets)) // (2 if mirrored else 1)
