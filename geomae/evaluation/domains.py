"""The input of an alignment method, two domains, and its output.

P labelled tiles of the source (including those for validation), N training tiles, M tiles of the target,
D features, E features after the method, K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.alignment import AffineMap, Alignment
from geomae.evaluation.folds import FoldPlan, Labelled
from geomae.evaluation.linear_probe import TIGHT, LinearProbe, fit_path, one_hot
from geomae.evaluation.share_estimation import SourceProbe
from geomae.metrics.predictions import UNKNOWN, Codes, Floats


@dataclass(frozen=True)
class Domains:
    """The input of a method: everything but labels of the target.

    `plan` says which labelled tiles are trained on; `C` is the strength of `source`, the probe of the source alone.
    """

    pool_PD: NDArray[np.floating]
    labelled: Labelled
    plan: FoldPlan
    target_MD: NDArray[np.floating]
    C: float
    source: SourceProbe
    seed: int = 0

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.labelled.names)

    @cached_property
    def source_ND(self) -> NDArray[np.floating]:
        """The embeddings of the training tiles."""
        return self.pool_PD[self.plan.train]

    @property
    def label_N(self) -> Codes:
        """The classes of the training tiles."""
        return np.asarray(self.labelled.label_P[self.plan.train])


@dataclass(frozen=True)
class Moved:
    """The output of a method: both domains in a common space, and the training data of a probe there.

    `pool_PE` are the mapped labelled tiles; `target` maps tiles of the target. `alignment` is the pair of maps, where
    the method consists of such a pair. `pseudo_M` are pseudo-labels of target tiles that the probe trains on, UNKNOWN
    for the others. `offset_K` is added to the scores of the probe with strength `C`; its probabilities then correspond
    to the class shares `share_K`.
    """

    domains: Domains
    pool_PE: Floats
    target: AffineMap
    alignment: Alignment | None = None
    pseudo_M: Codes | None = None
    offset_K: Floats | None = None
    share_K: Floats | None = None

    @cached_property
    def target_ME(self) -> Floats:
        """The mapped tiles of the target."""
        return self.target.apply(self.domains.target_MD)

    @cached_property
    def source_NE(self) -> Floats:
        """The mapped training tiles."""
        return self.pool_PE[self.domains.plan.train]

    def learned(self, tiles: Codes | None = None) -> tuple[Floats, Codes]:
        """Training rows of a probe and their classes: some labelled tiles (default: the training tiles) and the target
        tiles with a pseudo-label.
        """
        tiles = self.domains.plan.train if tiles is None else tiles
        rows, label = self.pool_PE[tiles], self.domains.labelled.label_P[tiles]
        if self.pseudo_M is None:
            return rows, label
        there = self.pseudo_M != UNKNOWN
        return np.concatenate([rows, self.target_ME[there]]), np.concatenate([label, self.pseudo_M[there]])

    def probes(self, C_values: Sequence[float], tolerance: float = TIGHT) -> list[LinearProbe]:
        """The probe after the method, for each strength."""
        rows, label = self.learned()
        probes = fit_path(rows, one_hot(label, self.domains.classes), C_values, tolerance=tolerance)
        return probes if self.offset_K is None else [probe.shifted(self.offset_K) for probe in probes]
