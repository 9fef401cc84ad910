"""Summaries of many maps in numbers, and the choice of the few maps that a report draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomae.prediction.record import PredictorRecord
from geomae.prediction.scene_maps import NODATA, MapJob
from geomae.rasters import read_map

MOST_PX = 256  # pixels of the longer side at which a map is summarised


@dataclass(frozen=True)
class MapSummary:
    """One map: fraction of valid pixels, most frequent class (`most`) and its fraction of these (`share`).

    `level` is the mean confidence in percent, or the mean of predicted numbers. Values that do not apply are None.
    """

    job: MapJob
    valid: float
    most: str | None
    share: float | None
    level: float | None


def summarise_map(job: MapJob, record: PredictorRecord, out: Path) -> MapSummary:
    """Summarise a map, read at a reduced size of at most MOST_PX pixels per side."""
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
    """Return at most `most` maps, by rising level: half with the lowest levels and half with the highest.

    Maps without a level come last.
    """
    ranked = sorted(summaries, key=lambda one: (one.level is None, one.level or 0.0))
    if len(ranked) <= most:
        return ranked
    known = sum(one.level is not None for one in ranked)
    low, high = most - most // 2, most // 2
    return ranked[:most] if known <= most else [*ranked[:low], *ranked[known - high : known]]
