"""Alignments with class shares: source tiles are weighted to the estimated class shares of the target.

Means and covariances of two domains differ where class shares differ; an alignment would then map one class onto
another. After weighting the source to the shares of the target, only the other differences remain.

P labelled tiles, N training tiles, M tiles of the target, D features, K classes
"""

from collections.abc import Callable

import numpy as np
from numpy.linalg import eigh
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from geomae.evaluation.alignment import DOMAINS, AffineMap, Alignment
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.linear_probe import Scale
from geomae.evaluation.share_estimation import fit_source_probe, likely_shares, source_shares
from geomae.metrics.predictions import Floats

MOST_ROUNDS = 5
SETTLED = 0.01  # total variation between the shares of two rounds

WeightedFit = Callable[[NDArray[np.floating], Floats, NDArray[np.floating]], tuple[AffineMap, AffineMap]]


def weighted_standardise(
    source_ND: NDArray[np.floating], weight_N: Floats, target_MD: NDArray[np.floating]
) -> tuple[AffineMap, AffineMap]:
    """Standardise each domain by its own mean and standard deviation, weighted for the source."""
    return AffineMap.standardising(Scale.of(source_ND, weight_N)), AffineMap.standardising(Scale.of(target_MD))


def weighted_coral(
    source_ND: NDArray[np.floating], weight_N: Floats, target_MD: NDArray[np.floating]
) -> tuple[AffineMap, AffineMap]:
    """Correlation alignment (Sun et al. 2016) to the weighted covariance of the source, with the usual shrinkage."""
    (mean_D, cov_DD), (there_D, cov_there_DD) = _moments(source_ND, weight_N), _moments(target_MD)
    weight_DD = _power(cov_DD, -0.5) @ _power(cov_there_DD, 0.5)
    return AffineMap(weight_DD, -mean_D @ weight_DD), AffineMap(np.eye(len(mean_D)), -there_D)


def align_weighted(name: str, fit: WeightedFit, domains: Domains) -> Moved:
    """An alignment whose weights agree with the class shares that are estimated after it."""
    maps, _ = settle_shares(domains, fit)
    alignment = Alignment(name, dict(zip(DOMAINS, maps, strict=True)))
    return Moved(domains, maps[0].apply(domains.pool_PD), maps[1], alignment)


def settle_shares(domains: Domains, fit: WeightedFit) -> tuple[tuple[AffineMap, AffineMap], Floats]:
    """Alternate between an alignment with given shares and an estimate of shares after it, until these agree.

    It starts from the shares of the source, which is the alignment without weights. Returns the maps and their shares.
    """
    source_K = share_K = source_shares(domains.labelled, domains.plan)
    for _ in range(MOST_ROUNDS):
        ratio_K = np.divide(share_K, source_K, out=np.zeros(len(source_K)), where=source_K > 0)
        source, target = fit(domains.source_ND, ratio_K[domains.label_N], domains.target_MD)
        probe = fit_source_probe(source.apply(domains.pool_PD), domains.labelled, domains.plan, domains.C)
        estimated_K = likely_shares(probe, target.apply(domains.target_MD))
        if 0.5 * np.abs(estimated_K - share_K).sum() < SETTLED:
            break
        share_K = estimated_K
    return (source, target), share_K


def _moments(rows_ND: NDArray[np.floating], weight_N: Floats | None = None) -> tuple[Floats, Floats]:
    """Mean and covariance, shrunk by the rule of Ledoit and Wolf in standardised features, as skada does."""
    scale = Scale.of(rows_ND, weight_N)
    spread_ND = scale.apply(rows_ND)
    if weight_N is not None:
        spread_ND *= np.sqrt(weight_N / weight_N.mean())[:, None]
    shrunk_DD = ledoit_wolf(spread_ND, assume_centered=True)[0]
    return scale.mean_D, scale.std_D[:, None] * shrunk_DD * scale.std_D


def _power(matrix_DD: Floats, exponent: float) -> Floats:
    value_D, axes_DD = eigh(matrix_DD)
    return np.asarray((axes_DD * value_D**exponent) @ axes_DD.T)
