"""What an adaptation does to reconstruction: errors on held-out tiles before and after, under the same masks.

T tiles, C bands
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.analysis.bootstrap import FEWEST_GROUPS, group_interval
from geomae.analysis.folds import codes_of
from geomae.config import PretrainConfig
from geomae.models.folder import Model
from geomae.training.evaluate import BASELINES, MODEL, TileErrors, errors_by_tile
from geomae.training.trainer import draw_of
from geomae.workflows.adapt_data import Domain, Domains

ALL = "all"


@dataclass(frozen=True)
class Change:
    """RMSE on hidden valid pixels of held-out tiles, of one band or as the mean over bands, in `unit`.

    `change` is after / before - 1, its interval (95 %) paired over resampled groups; None where they are too few. It is
    below zero in `n_better` of the `n_groups` that have a pixel.
    `baselines` are the errors of predictions that take no training.
    """

    domain: str
    selector: str
    band: str
    unit: str
    before: float
    after: float
    change: float
    interval: tuple[float, float] | None
    n_tiles: int
    n_groups: int
    n_better: int
    baselines: dict[str, float]


def name_of(baseline: str) -> str:
    """A baseline's name in a narrow column."""
    return baseline.removeprefix("baseline:")


def error_changes(
    before: Model, after: Model, domains: Domains, config: PretrainConfig, seed: int, device: torch.device
) -> list[Change]:
    """The changes on the held-out tiles of the target and of the source, each as the mean over bands and by band."""
    draw = draw_of(config, seed, before.mae.architecture.groups)
    changes: list[Change] = []
    for name, domain in zip(("target", "source"), domains.all, strict=False):
        errors = [errors_by_tile(model, domain.held, draw, config.batch, device) for model in (before, after)]
        changes += _changes(name, domain, errors[0], errors[1], seed)
    return changes


def _changes(name: str, domain: Domain, before: TileErrors, after: TileErrors, seed: int) -> Iterator[Change]:
    record = domain.held.record
    group_T, groups = codes_of(domain.held.index.independent_units())
    for band in (ALL, *(one.name for one in record.bands)):
        places = list(range(len(record.bands))) if band == ALL else [[one.name for one in record.bands].index(band)]
        ours, theirs = after.of_bands(places), before.of_bands(places)
        if not theirs.pixels_TC.any():
            continue

        def change(weight_T: NDArray[np.float64], ours: TileErrors = ours, theirs: TileErrors = theirs) -> float:
            return ours.rmse(MODEL, weight_T) / max(theirs.rmse(MODEL, weight_T), 1e-30) - 1

        each = [change((group_T == group).astype(np.float64)) for group in range(len(groups))]
        known, better = sum(not np.isnan(one) for one in each), sum(one < 0 for one in each)
        interval = group_interval(change, group_T, seed) if known >= FEWEST_GROUPS else None
        yield Change(
            name, domain.name, band, record.unit, theirs.rmse(MODEL), ours.rmse(MODEL),
            change(np.ones(len(group_T))), interval, len(group_T), known, better,
            {one: theirs.rmse(one) for one in BASELINES},
        )  # fmt: skip
