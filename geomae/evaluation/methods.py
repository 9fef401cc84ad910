"""Every method that `geomae probe --align` can ask for, by its name: what it makes of a source and of a target.

Each is fitted without a label of the target. To add one, write a function from Domains to Moved and name it here. Those
of RADIOMETRY work on pixels, before tiles are embedded; what is left for here is to keep the features.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from geomae.errors import ConfigError, nearest
from geomae.evaluation.alignment import ALIGNMENTS, NONE, SOURCE, TARGET, AffineMap, Alignment
from geomae.evaluation.class_transport import transport_by_class, transport_target_shift
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.self_training import train_on_itself
from geomae.evaluation.share_estimation import likely_shares
from geomae.evaluation.weighted_alignment import align_weighted, weighted_coral, weighted_standardise
from geomae.tiles.radiometry import RADIOMETRY

PRIOR = "prior-correction"
LEAST = 1e-6  # share of a class that there seems to be none of, so that it keeps a finite score
Method = Callable[[Domains], Moved]


def align(name: str, domains: Domains) -> Moved:
    """An alignment of means and covariances, which reads no label at all (see ALIGNMENTS)."""
    alignment = Alignment.fit(name, domains.source_ND, domains.target_MD)
    return Moved(domains, alignment.transform(domains.pool_PD, SOURCE), alignment.maps[TARGET], alignment)


def correct_priors(domains: Domains) -> Moved:
    """Calibrated probabilities times the estimated shares over the trained ones (Saerens et al. 2002); features stay.

    softmax(scores / T + b) becomes softmax(scores / T + b + log shares), whose highest class is that of the scores plus
    T (b + log shares). It makes the most tiles right, and not the most of each class.
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
    "class-ot": transport_by_class,
    "target-shift-ot": transport_target_shift,
    "self-training": train_on_itself,
    **dict.fromkeys(RADIOMETRY, partial(align, NONE)),
}
KEEP_STRENGTH = (NONE, PRIOR)  # whose probe is the one that knows no target


def move(name: str, domains: Domains) -> Moved:
    """What the method `name` makes of two domains. Raises ConfigError for another name."""
    if name not in METHODS:
        raise ConfigError(f"alignment {name!r}: {nearest(name, METHODS)}")
    return METHODS[name](domains)
