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


def group_interval(
    statistic: Callable[[NDArray[np.float64]], float], group_T: NDArray[np.int64], seed: int
) -> tuple[float, float] | None:
    """The percentile interval (95 %) of `statistic(weight_T)` over resampled groups; None with fewer than ten.

    `weight_T` says how often each tile counts. The same seed and groups give the same resamples, so that the interval
    of a difference is paired when the statistic is the difference.
    """
    groups = int(group_T.max()) + 1
    if groups < FEWEST_GROUPS:
        return None
    rng = generator(seed, "bootstrap")
    counts_RG = rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(np.float64)
    values = [statistic(counts_G[group_T]) for counts_G in counts_RG]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
