"""Optimal transport under target shift: tiles of the source are mapped onto tiles of the target.

POT computes the coupling; a tile is mapped to the mean of the tiles that it is coupled with.

P labelled tiles, S tiles of the source and R of the target in a coupling, D features, K classes
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

from geomae.evaluation.alignment import AffineMap
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.linear_probe import Scale
from geomae.metrics.predictions import Codes, Floats
from geomae.randomness import generator

MOST_TILES = 500  # of each domain; the time of a coupling is proportional to the product of both
SMOOTH = 0.01  # weight of the entropy, for costs up to 1; smaller values would underflow


def transport_target_shift(domains: Domains) -> Moved:
    """Transport under target shift (Redko et al. 2019), which estimates coupling and class shares jointly.

    Features are standardised by the source.
    """
    return _transport(domains, AffineMap.standardising(Scale.of(domains.source_ND)))


def couple_target_shift(source_SD: Floats, label_S: Codes, target_RD: Floats) -> Floats:
    """The coupling (S, R) of POT's `jcpot_barycenter`, which needs two sources: the same one is given twice."""
    from ot.bregman import jcpot_barycenter  # type: ignore[import-untyped]

    codes_S = np.unique(label_S, return_inverse=True)[1]
    _, log = jcpot_barycenter([source_SD] * 2, [codes_S] * 2, target_RD, SMOOTH, log=True, warn=False)
    return np.asarray(log["gamma"][0])


def _transport(domains: Domains, scale: AffineMap) -> Moved:
    """All labelled tiles, shifted like the nearest tile in the coupling (Ferradans et al. 2014).

    After the map, features are scaled by the largest distance between tiles of the two domains.
    """
    source_S = domains.plan.train[_draw_by_class(domains)]
    pool_PD, target_MD = scale.apply(domains.pool_PD), scale.apply(domains.target_MD)
    rng = generator(domains.seed, "transport", "target")
    target_R = np.sort(rng.choice(len(target_MD), min(MOST_TILES, len(target_MD)), replace=False))
    unit = float(cdist(pool_PD[source_S], target_MD[target_R]).max())
    pool_PD, target_RD = pool_PD / unit, target_MD[target_R] / unit
    source_SD = pool_PD[source_S]
    coupling_SR = couple_target_shift(source_SD, domains.labelled.label_P[source_S], target_RD)
    mass_S1 = coupling_SR.sum(1, keepdims=True)
    coupled_SD = np.divide(coupling_SR @ target_RD, mass_S1, out=source_SD.copy(), where=mass_S1 > 0)
    nearest_P = cdist(pool_PD, source_SD, "sqeuclidean").argmin(1)
    target = AffineMap(scale.weight_DE / unit, scale.bias_E / unit)
    return Moved(domains, pool_PD + (coupled_SD - source_SD)[nearest_P], target)


def _draw_by_class(domains: Domains) -> NDArray[np.int64]:
    """Positions among the training tiles: all, or about MOST_TILES, stratified by class with at least one of each."""
    label_N = domains.label_N
    if len(label_N) <= MOST_TILES:
        return np.arange(len(label_N))
    rng = generator(domains.seed, "transport", "source")
    drawn = []
    for code in np.unique(label_N):
        places = np.flatnonzero(label_N == code)
        drawn.append(rng.choice(places, int(np.ceil(MOST_TILES * len(places) / len(label_N))), replace=False))
    return np.sort(np.concatenate(drawn))
