"""All methods of `geomae probe --align`, by name.

Each is fitted without labels of the target. To add one, write a function from Domains to Moved and add it to METHODS.
The methods of RADIOMETRY change pixels before tiles are embedded; here they leave the features unchanged.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from geomae.errors import ConfigError, nearest
from geomae.evaluation.alignment import ALIGNMENTS, NONE, SOURCE, TARGET, AffineMap, Alignment
from geomae.evaluation.class_transport import transport_target_shift
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.self_training import self_train
from geomae.evaluation.share_estimation import likely_shares
from geomae.evaluation.weighted_alignment import align_weighted, weighted_coral, weighted_standardise
from geomae.tiles.radiometry import RADIOMETRY

PRIOR = "prior-correction"
LEAST = 1e-6  # smallest share of a class, so that its score is finite
Method = Callable[[Domains], Moved]


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
