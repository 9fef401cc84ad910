"""All methods of `geomae probe --align`, by name.

Each is fitted without labels of the target. To add one, write a function from Domains to Moved and add it to METHODS.
The methods of RADIOMETRY change pixels before tiles are embedded; here they leave the features unchanged.

Means and covariances of two domains differ where class shares differ; an alignment would then map one class onto
another. Weighted alignments weight source tiles to the estimated shares of the target, so that only the other
differences remain.

P labelled tiles, N training tiles, M tiles of the target, D features, K classes
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.linalg import eigh
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from geomae.errors import ConfigError, nearest
from geomae.evaluation.alignment import ALIGNMENTS, DOMAINS, NONE, SOURCE, TARGET, AffineMap, Alignment
from geomae.evaluation.class_transport import transport_target_shift
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.linear_probe import Scale
from geomae.evaluation.self_training import self_train
from geomae.evaluation.share_estimation import fit_source_probe, likely_shares, source_shares
from geomae.metrics.predictions import Floats
from geomae.tiles.radiometry import RADIOMETRY

PRIOR = "prior-correction"
LEAST = 1e-6  # smallest share of a class, so that its score is finite
MOST_ROUNDS = 5  # of weights and estimated shares
SETTLED = 0.01  # total variation between the shares of two rounds

Method = Callable[[Domains], Moved]
WeightedFit = Callable[[NDArray[np.floating], Floats, NDArray[np.floating]], tuple[AffineMap, AffineMap]]


def align(name: str, domains: Domains) -> Moved:
    """An alignment of means and covariances, which uses no labels (see ALIGNMENTS)."""
    alignment = Alignment.fit(name, domains.source_ND, domains.target_MD)
    return Moved(domains, alignment.transform(domains.pool_PD, SOURCE), alignment.maps[TARGET], alignment)


def correct_priors(domains: Domains) -> Moved:
    """Calibrated probabilities times the ratio of estimated to trained shares (Saerens et al. 2002).

    softmax(scores / T + b) becomes softmax(scores / T + b + log shares), whose highest class is that of the scores plus
    T (b + log shares). It maximises overall accuracy and not balanced accuracy. Features are unchanged.
    """
    calibration = domains.source.calibration
    share_K = np.maximum(likely_shares(domains.source, domains.target_MD), LEAST)
    offset_K = calibration.temperature * (calibration.bias_K + np.log(share_K))
    stay = AffineMap.identity(domains.pool_PD.shape[1])
    kept_PD = domains.pool_PD.astype(np.float64)
    return Moved(domains, kept_PD, stay, offset_K=offset_K, share_K=share_K / share_K.sum())


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
    """An alignment whose weights agree with the class shares that are estimated after it.

    It alternates between an alignment with given shares and an estimate of shares after it. It starts from the shares
    of the source, which is the alignment without weights.
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
    alignment = Alignment(name, dict(zip(DOMAINS, (source, target), strict=True)))
    return Moved(domains, source.apply(domains.pool_PD), target, alignment)


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


METHODS: Mapping[str, Method] = {
    **{name: partial(align, name) for name in ALIGNMENTS},
    PRIOR: correct_priors,
    **{
        name: partial(align_weighted, name, fit)
        for name, fit in (("weighted-standardise", weighted_standardise), ("weighted-coral", weighted_coral))
    },
    "target-shift-ot": transport_target_shift,
    "self-training": self_train,
    **dict.fromkeys(RADIOMETRY, partial(align, NONE)),
}
KEEP_STRENGTH = (NONE, PRIOR)  # methods with the probe of the source


def move(name: str, domains: Domains) -> Moved:
    """Apply the method `name` to two domains. Raises ConfigError for an unknown name."""
    if name not in METHODS:
        raise ConfigError(f"alignment {name!r}: {nearest(name, METHODS)}")
    return METHODS[name](domains)
