"""Many maps in figures: what each shows, and which few of them are looked at first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomae.prediction.record import PredictorRecord
from geomae.prediction.scene_maps import NODATA, MapJob
from geomae.rasters import read_map

MOST_PX = 256  # of the longer side of a map, for its figures


@dataclass(frozen=True)
class MapSummary:
    """One map: the share of its pixels that are valid, its most frequent class with the share of these that it has, and
    how sure the model is on average (%); of numbers their mean. None where there is nothing to tell.
    """

    job: MapJob
    valid: float
    most: str | None
    share: float | None
    level: float | None


def summarise_map(job: MapJob, record: PredictorRecord, out: Path) -> MapSummary:
    """The figures of a map, from at most `MOST_PX` pixels a side of it."""
    shrink = max(1, math.ceil(max(job.lattice.rows, job.lattice.cols) / MOST_PX))
    shape = (math.ceil(job.lattice.rows / shrink), math.ceil(job.lattice.cols / shrink))
    values_yx = read_map(str(job.path(out)), shape=shape)[0]
    if record.of_numbers:
        known = values_yx[np.isfinite(values_yx)]
        return MapSummary(job, known.size / values_yx.size, None, None, float(known.mean()) if known.size else None)
    known = values_yx[values_yx != NODATA]
    if not known.size:
        return MapSummary(job, 0.0, None, None, None)
    count_K = np.bincount(known, minlength=NODATA + 1)[list(record.map_codes)]
    confidence_yx = read_map(str(job.path(out, "confidence")), shape=shape)[0]
    most = int(count_K.argmax())
    return MapSummary(
        job, known.size / values_yx.size, record.classes[most], float(count_K[most] / known.size),
        float(confidence_yx[confidence_yx != NODATA].mean()),
    )  # fmt: skip


def most_telling(summaries: Sequence[MapSummary], most: int) -> list[MapSummary]:
    """Half of `most` where the level is lowest, half where it is highest, from the lowest on; all where there are few.

    Maps without a level come last.
    """
    ranked = sorted(summaries, key=lambda one: (one.level is None, one.level or 0.0))
    if len(ranked) <= most:
        return ranked
    known = sum(one.level is not None for one in ranked)
    low, high = most - most // 2, most // 2
    return ranked[:most] if known <= most else [*ranked[:low], *ranked[known - high : known]]
