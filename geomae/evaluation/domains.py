"""Two domains as a method of adaptation sees them, and what it makes of them.

P labelled tiles of the source (those that only validate among them), N training tiles, M tiles of the target,
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
    """All that a method may know. No label of the target is among it.

    `plan` says which labelled tiles are trained on, `C` is the strength of `source`, the probe that knows no target.
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
        """How many there are."""
        return len(self.labelled.names)

    @cached_property
    def source_ND(self) -> NDArray[np.floating]:
        """The training tiles."""
        return self.pool_PD[self.plan.train]

    @property
    def label_N(self) -> Codes:
        """Their classes."""
        return np.asarray(self.labelled.label_P[self.plan.train])


@dataclass(frozen=True)
class Moved:
    """What a method made of two domains: rows that can be compared, and what a probe behind it learns from.

    `pool_PE` are the labelled tiles, moved; tiles of the target go through `target`. `alignment` is the pair of maps
    where both domains have one. `pseudo_M` are classes of tiles of the target that are learned from, too, UNKNOWN for
    the others. `offset_K` is added to the scores of a probe of the strength `C` of the domains, whose probabilities go
    with the shares `share_K` then.
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
        """The tiles of the target, moved."""
        return self.target.apply(self.domains.target_MD)

    @cached_property
    def source_NE(self) -> Floats:
        """The training tiles, moved."""
        return self.pool_PE[self.domains.plan.train]

    def learned(self, tiles: Codes | None = None) -> tuple[Floats, Codes]:
        """Rows that a probe learns from, and their classes: some labelled tiles (default: those to train on) and those
        of the target that have a class.
        """
        tiles = self.domains.plan.train if tiles is None else tiles
        rows, label = self.pool_PE[tiles], self.domains.labelled.label_P[tiles]
        if self.pseudo_M is None:
            return rows, label
        there = self.pseudo_M != UNKNOWN
        return np.concatenate([rows, self.target_ME[there]]), np.concatenate([label, self.pseudo_M[there]])

    def probes(self, C_values: Sequence[float], tolerance: float = TIGHT) -> list[LinearProbe]:
        """The probe behind the method, for each strength."""
        rows, label = self.learned()
        probes = fit_path(rows, one_hot(label, self.domains.classes), C_values, tolerance=tolerance)
        return probes if self.offset_K is None else [probe.shifted(self.offset_K) for probe in probes]
