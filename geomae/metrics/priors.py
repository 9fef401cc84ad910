"""Class shares (priors) of an unlabelled target from calibrated probabilities, and probabilities corrected for them.

T tiles (or pixels), K classes, G groups, R resamples; X any leading dimensions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomae.metrics.predictions import FEWEST_GROUPS, Codes, Floats, percentile_interval, resample_groups

FEWEST_TILES = 100  # estimates from fewer tiles are mostly noise
NEARLY_SINGULAR = 0.1  # smallest singular value of the confusion: errors of shares grow by its inverse
SETTLED = 0.01  # converged when the total log likelihood can gain at most this; 0.5 is one standard deviation
MOST_STEPS = 2000
AT_ONCE = 2**21  # tiles times resamples that are computed at once, to bound the memory


@dataclass(frozen=True)
class ShareEstimate:
    """Estimated class shares of the target (`share_K`) and class shares of the training data (`trained_K`).

    `interval_K2` is the 95 % bootstrap interval over groups of tiles, None where groups are too few. `reasons` say why
    the estimate should not be trusted; it may be used where there are none.
    """

    trained_K: Floats
    share_K: Floats
    interval_K2: Floats | None
    reasons: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
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
    """Estimate the class shares of a target from calibrated probabilities of its tiles, with bootstrap intervals.

    Assumes label shift: each class looks the same in source and target, and only its share differs. Tiles without
    labels cannot confirm this. `trained_K` are the class shares for which the probabilities are calibrated;
    `validation_KK` is the confusion matrix (truth, predicted) of held-out tiles. Groups are independent of each other;
    a tile without a group is a group of its own.
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
        reasons += (f"the estimate had not converged after {MOST_STEPS} steps",)
    return ShareEstimate(trained_K, share_K, interval_K2, reasons)


def most_likely_shares(probability_TK: Floats, trained_K: Floats) -> tuple[Floats, bool]:
    """Class shares (K) by expectation maximisation that begins at `trained_K` (Saerens et al. 2002).

    Also returns whether it converged. A class without training data keeps the share 0.
    """
    everywhere_1T = np.ones((1, len(probability_TK)))
    share_1K, settled = _maximise(_likelihood(probability_TK, trained_K), everywhere_1T, trained_K[None])
    return share_1K[0], settled


def correct_probabilities(probability_XK: Floats, trained_K: Floats, share_K: Floats) -> Floats:
    """Correct probabilities (..., K), calibrated for class shares `trained_K`, for the class shares `share_K`."""
    factor_K = np.divide(share_K, trained_K, out=np.zeros(len(trained_K)), where=trained_K > 0)
    weighted_XK = probability_XK * factor_K
    sum_X1 = weighted_XK.sum(-1, keepdims=True)
    # Where all probability lies on classes of share 0, nothing is left to normalise: probabilities stay unchanged.
    return np.asarray(np.divide(weighted_XK, sum_X1, out=probability_XK.astype(np.float64), where=sum_X1 > 0))


def reasons_not_to_trust(
    validation_KK: Floats, trained_K: Floats, names: Sequence[str], tiles: int, groups: int
) -> tuple[str, ...]:
    """Why estimated shares are unreliable: few tiles or groups, classes without validation tiles or often confused."""
    reasons = []
    if tiles < FEWEST_TILES:
        reasons.append(f"{tiles} tiles, fewer than {FEWEST_TILES}")
    if groups < FEWEST_GROUPS:
        reasons.append(f"{groups} group{'s' * (groups != 1)}, fewer than {FEWEST_GROUPS}: no interval")
    learned_K = trained_K > 0
    unseen = [names[code] for code in np.flatnonzero(learned_K & (validation_KK.sum(1) == 0)).tolist()]
    if unseen:
        reasons.append(f"no validation tile of {', '.join(unseen)}: how often it is confused with others is unknown")
    known = np.flatnonzero(learned_K & (validation_KK.sum(1) > 0))
    if len(known) > 1:
        given_KK = validation_KK[known] / validation_KK[known].sum(1, keepdims=True)
        directions_KK, singular_K, _ = np.linalg.svd(given_KK)
        if singular_K[-1] < NEARLY_SINGULAR:
            # Shares that change along this direction hardly change the predictions.
            hidden_K = directions_KK[:, -1]
            pair = sorted((names[known[hidden_K.argmin()]], names[known[hidden_K.argmax()]]))
            reasons.append(
                f"the confusion matrix is nearly singular (smallest singular value {singular_K[-1]:.2f}, below "
                f"{NEARLY_SINGULAR:g}): the shares of {pair[0]} and {pair[1]} cannot be estimated separately"
            )
    return tuple(reasons)


def _likelihood(probability_TK: Floats, trained_K: Floats) -> Floats:
    """Likelihood (T, K) of each tile under each class, up to a factor per tile."""
    likelihood_TK = np.divide(probability_TK, trained_K, out=np.zeros(probability_TK.shape), where=trained_K > 0)
    return np.asarray(likelihood_TK / np.maximum(likelihood_TK.max(1, keepdims=True), np.finfo(float).tiny))


def _resampled_shares(
    probability_TK: Floats, trained_K: Floats, share_K: Floats, group_T: Codes, counts_RG: Floats
) -> Floats:
    likelihood_TK = _likelihood(probability_TK, trained_K)
    # Expectation maximisation cannot leave a share of 0, so it begins slightly above.
    begin_K = 0.99 * share_K + 0.01 * trained_K
    at_once = max(1, AT_ONCE // len(probability_TK))
    parts = [counts_RG[i : i + at_once] for i in range(0, len(counts_RG), at_once)]
    return np.concatenate(
        [_maximise(likelihood_TK, part_RG[:, group_T], np.tile(begin_K, (len(part_RG), 1)))[0] for part_RG in parts]
    )


def _maximise(likelihood_TK: Floats, weight_RT: Floats, share_RK: Floats) -> tuple[Floats, bool]:
    """Expectation maximisation of each resample (R, K) until SETTLED is reached; whether all converged."""
    total_R1 = weight_RT.sum(1, keepdims=True)
    share_RK, moving = share_RK.copy(), np.arange(len(share_RK))
    for _ in range(MOST_STEPS):
        mixed_MT = np.maximum(share_RK[moving] @ likelihood_TK.T, np.finfo(float).tiny)
        slope_MK = (weight_RT[moving] / mixed_MT) @ likelihood_TK / total_R1[moving]
        # The log likelihood is concave: its mean can gain at most the amount by which the largest slope exceeds 1.
        gain_M = (slope_MK.max(1) - 1) * total_R1[moving, 0]
        moving, slope_MK = moving[gain_M > SETTLED], slope_MK[gain_M > SETTLED]
        if len(moving) == 0:
            return share_RK, True
        step_MK = share_RK[moving] * slope_MK
        share_RK[moving] = step_MK / step_MK.sum(1, keepdims=True)
    return share_RK, False
