"""Class shares of a target without labels, from calibrated probabilities; and probabilities corrected for them.

T tiles (or pixels), K classes, G groups, R resamples; X any leading dimensions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomae.metrics.predictions import FEWEST_GROUPS, Codes, Floats, percentile_interval, resample_groups

FEWEST_TILES = 100  # below, shares are mostly chance
NEARLY_SINGULAR = 0.1  # smallest singular value of the confusion: errors of shares grow by its inverse
SETTLED = 0.01  # of the log likelihood of all tiles to be gained at most: 0.5 is one standard deviation
MOST_STEPS = 2000
AT_ONCE = 2**21  # tiles times resamples whose likelihood is in memory


@dataclass(frozen=True)
class ShareEstimate:
    """Class shares of the target beside those that the model was trained on.

    `interval_K2` (95 %) tells by how much other tiles of the target would have changed them, None where the groups
    cannot carry it. `reasons` are those not to trust the estimate; there are none where it may be used.
    """

    trained_K: Floats
    share_K: Floats
    interval_K2: Floats | None
    reasons: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        interval = None if self.interval_K2 is None else self.interval_K2.tolist()
        shares = {"trained": self.trained_K.tolist(), "estimated": self.share_K.tolist(), "interval": interval}
        return {**shares, "reasons": list(self.reasons)}


def estimate_shares(
    probability_TK: Floats,
    trained_K: Floats,
    group_T: Codes,
    names: Sequence[str],
    validation_KK: Floats,
    seed: int,
) -> ShareEstimate:
    """Class shares of a target from calibrated probabilities of its tiles, with an interval over resampled groups.

    It holds where a class looks the same in both, and only its share differs; that cannot be seen from the tiles.
    `trained_K` are the shares that the probabilities go with, `validation_KK` the confusion (truth, predicted) on
    tiles that the model did not learn from. A group is what is independent of the rest, where there is none the tile.
    """
    groups = int(group_T.max()) + 1
    share_K, settled = most_likely_shares(probability_TK, trained_K)
    counts_RG = resample_groups(groups, seed)
    interval_K2 = None
    if counts_RG is not None:
        share_RK = _resampled_shares(probability_TK, trained_K, share_K, group_T, counts_RG)
        interval_K2 = np.array([percentile_interval(share_R) for share_R in share_RK.T])
    reasons = reasons_not_to_trust(validation_KK, trained_K, names, len(probability_TK), groups)
    if not settled:
        reasons += (f"the estimate had not settled after {MOST_STEPS} steps",)
    return ShareEstimate(trained_K, share_K, interval_K2, reasons)


def most_likely_shares(probability_TK: Floats, trained_K: Floats) -> tuple[Floats, bool]:
    """Class shares (K) by expectation maximisation (Saerens et al. 2002) from the trained ones; whether it settled.

    A class that the model was not trained on keeps the share 0.
    """
    everywhere_1T = np.ones((1, len(probability_TK)))
    share_1K, settled = _maximise(_likelihood(probability_TK, trained_K), everywhere_1T, trained_K[None])
    return share_1K[0], settled


def correct_probabilities(probability_XK: Floats, trained_K: Floats, share_K: Floats) -> Floats:
    """Probabilities (..., K) as they are where classes have other shares than in training."""
    factor_K = np.divide(share_K, trained_K, out=np.zeros(len(trained_K)), where=trained_K > 0)
    weighted_XK = probability_XK * factor_K
    sum_X1 = weighted_XK.sum(-1, keepdims=True)
    # What only classes of share 0 could explain stays as it was.
    return np.asarray(np.divide(weighted_XK, sum_X1, out=probability_XK.astype(np.float64), where=sum_X1 > 0))


def reasons_not_to_trust(
    validation_KK: Floats, trained_K: Floats, names: Sequence[str], tiles: int, groups: int
) -> tuple[str, ...]:
    """Why estimated shares say little: few tiles, few groups, classes without validation or that are not told apart."""
    reasons = []
    if tiles < FEWEST_TILES:
        reasons.append(f"{tiles} tiles, fewer than {FEWEST_TILES}")
    if groups < FEWEST_GROUPS:
        reasons.append(f"{groups} group{'s' * (groups != 1)}, fewer than {FEWEST_GROUPS}: no interval")
    learned_K = trained_K > 0
    unseen = [names[code] for code in np.flatnonzero(learned_K & (validation_KK.sum(1) == 0)).tolist()]
    if unseen:
        reasons.append(f"no validation tile of {', '.join(unseen)}: how it is taken for others is unknown")
    known = np.flatnonzero(learned_K & (validation_KK.sum(1) > 0))
    if len(known) > 1:
        given_KK = validation_KK[known] / validation_KK[known].sum(1, keepdims=True)
        directions_KK, singular_K, _ = np.linalg.svd(given_KK)
        if singular_K[-1] < NEARLY_SINGULAR:
            # Shares along this direction change nothing in what is predicted.
            hidden_K = directions_KK[:, -1]
            pair = sorted((names[known[hidden_K.argmin()]], names[known[hidden_K.argmax()]]))
            reasons.append(
                f"the confusion matrix is nearly singular (smallest singular value {singular_K[-1]:.2f}, below "
                f"{NEARLY_SINGULAR:g}): shares of {pair[0]} and {pair[1]} can hardly be told apart"
            )
    return tuple(reasons)


def _likelihood(probability_TK: Floats, trained_K: Floats) -> Floats:
    """How likely each tile is by class, up to a factor of the tile."""
    likelihood_TK = np.divide(probability_TK, trained_K, out=np.zeros(probability_TK.shape), where=trained_K > 0)
    return np.asarray(likelihood_TK / np.maximum(likelihood_TK.max(1, keepdims=True), np.finfo(float).tiny))


def _resampled_shares(
    probability_TK: Floats, trained_K: Floats, share_K: Floats, group_T: Codes, counts_RG: Floats
) -> Floats:
    likelihood_TK = _likelihood(probability_TK, trained_K)
    # A share of 0 would stay 0; begun a little inside, it is free to grow.
    begin_K = 0.99 * share_K + 0.01 * trained_K
    at_once = max(1, AT_ONCE // len(probability_TK))
    parts = [counts_RG[i : i + at_once] for i in range(0, len(counts_RG), at_once)]
    return np.concatenate(
        [_maximise(likelihood_TK, part_RG[:, group_T], np.tile(begin_K, (len(part_RG), 1)))[0] for part_RG in parts]
    )


def _maximise(likelihood_TK: Floats, weight_RT: Floats, share_RK: Floats) -> tuple[Floats, bool]:
    """Expectation maximisation of each resample until its log likelihood can gain no more than SETTLED."""
    total_R1 = weight_RT.sum(1, keepdims=True)
    share_RK, moving = share_RK.copy(), np.arange(len(share_RK))
    for _ in range(MOST_STEPS):
        mixed_MT = np.maximum(share_RK[moving] @ likelihood_TK.T, np.finfo(float).tiny)
        slope_MK = (weight_RT[moving] / mixed_MT) @ likelihood_TK / total_R1[moving]
        # The log likelihood is concave: its mean gains no more than the steepest slope exceeds 1.
        gain_M = (slope_MK.max(1) - 1) * total_R1[moving, 0]
        moving, slope_MK = moving[gain_M > SETTLED], slope_MK[gain_M > SETTLED]
        if len(moving) == 0:
            return share_RK, True
        step_MK = share_RK[moving] * slope_MK
        share_RK[moving] = step_MK / step_MK.sum(1, keepdims=True)
    return share_RK, False
