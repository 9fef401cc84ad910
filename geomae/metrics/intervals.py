"""Intervals by resampling groups: tiles of one place or scene are alike, so a tile alone is no independent sample.

T tiles, G groups, R resamples
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geomae.randomness import generator

FEWEST_GROUPS = 10  # below, an interval would claim more than the groups can carry
RESAMPLES = 1000
LEVEL = 0.95


def resample_groups(groups: int, seed: int) -> NDArray[np.float64] | None:
    """How often each group counts in each resample: (R, G); None with fewer than ten groups.

    The same seed and number of groups give the same resamples, so that the interval of a difference is paired.
    """
    if groups < FEWEST_GROUPS:
        return None
    rng = generator(seed, "bootstrap")
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(np.float64)


def percentile_interval(values_R: NDArray[np.float64]) -> tuple[float, float]:
    """The interval (95 %) of a statistic by its values in the resamples; those in which it is unknown do not count."""
    low, high = np.nanquantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def group_interval(
    statistic: Callable[[NDArray[np.float64]], float], group_T: NDArray[np.int64], seed: int
) -> tuple[float, float] | None:
    """The percentile interval (95 %) of `statistic(weight_T)` over resampled groups; None with fewer than ten.

    `weight_T` says how often each tile counts. See `resample_groups` for differences.
    """
    counts_RG = resample_groups(int(group_T.max()) + 1, seed)
    if counts_RG is None:
        return None
    return percentile_interval(np.array([statistic(counts_G[group_T]) for counts_G in counts_RG]))
