"""Class shares (priors) of the target, estimated from the predictions or read from a file, to correct probabilities.

K classes, N rows (tiles or pixels)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geomae.catalog.attributes import read_csv
from geomae.errors import ConfigError, nearest
from geomae.evaluation.folds import codes_of
from geomae.metrics.predictions import FEWEST_GROUPS, Codes, Floats
from geomae.metrics.priors import FEWEST_TILES, ShareEstimate, correct_probabilities, estimate_shares
from geomae.prediction.models import WindowModel
from geomae.prediction.record import PredictorRecord
from geomae.prediction.tiles import Progress, drawn_pixels, known_tiles
from geomae.runtime.devices import Compute
from geomae.tiles.selection import Selection

NONE, ESTIMATE = "none", "estimate"
ROUNDING = 0.01  # largest deviation of the sum of a file's shares from 1


@dataclass(frozen=True)
class TargetShares:
    """The class shares (K) to which probabilities are corrected, and their estimate, None for shares from a file."""

    share_K: Floats
    estimate: ShareEstimate | None
    origin: str

    def record(self) -> dict[str, Any]:
        """Return the shares as JSON values."""
        known = {} if self.estimate is None else self.estimate.record()
        return {"origin": self.origin, "shares": self.share_K.tolist(), **known}


def estimated_shares(
    record: PredictorRecord, share_NK: Floats, tile_N: Codes, unit_T: Sequence[str], seed: int
) -> TargetShares:
    """Estimate class shares by expectation maximisation from probabilities (N, K) of tiles or of pixels in tiles.

    `tile_N` is the tile of each row, and `unit_T` the independent unit (group or block) of each tile.
    """
    group_N = codes_of([unit_T[tile] for tile in tile_N.tolist()])[0]
    classes = len(record.classes)
    known_KK = np.zeros((classes, classes)) if record.confusion_KK is None else record.confusion_KK
    estimate = estimate_shares(share_NK, record.trained_K, group_N, record.classes, known_KK, seed)
    if record.adapted:
        moved = "the model was adapted after its probabilities were calibrated and its confusion matrix was counted"
        estimate = replace(estimate, reasons=(*estimate.reasons, moved))
    tiles = len(np.unique(tile_N))
    if tiles < FEWEST_TILES <= len(share_NK):  # pixels of a tile are alike, so that the number of tiles matters
        estimate = replace(estimate, reasons=(f"{tiles} tiles, fewer than {FEWEST_TILES}", *estimate.reasons))
    return TargetShares(estimate.share_K, estimate, "estimated")


def estimate_over(
    compute: Compute,
    fitted: Sequence[tuple[Selection, WindowModel]],
    share_TK: Sequence[Floats],
    seed: int,
    progress: Progress,
) -> TargetShares:
    """Estimate class shares over the tiles of all selections, each once, without tiles that the model learned from.

    `share_TK` are the tiles' probabilities (T, K) for each selection. Where the model predicts pixels they are not
    used, and some pixels of each tile are drawn. Probabilities of other shares than those of the first model are
    brought to these. Raises ConfigError where the model learned from every tile.
    """
    first = fitted[0][1].record
    rows: list[Floats] = []
    tile: list[Codes] = []
    units: list[str] = []
    seen: set[tuple[str, str]] = set()
    for number, (selected, model) in enumerate(fitted):
        ids = [(selected.index.name, one) for one in selected.index.tiles["tile_id"].tolist()]
        known_T = known_tiles(selected, model.record)
        new = np.array([p for p, one in enumerate(ids) if one not in seen and not known_T[p]], dtype=np.int64)
        seen.update(ids)
        if not len(new):
            continue
        if model.record.of_pixels:
            share_NK, tile_N = drawn_pixels(compute, model, selected, new, seed, progress)
        else:
            share_NK, tile_N = share_TK[number][new], new
        rows.append(correct_probabilities(share_NK, model.record.trained_K, first.trained_K))
        tile.append(tile_N + len(units))
        units += [f"{selected.index.name} {one}" for one in selected.index.independent_units()]
    if not rows:
        raise ConfigError(f"--priors {ESTIMATE}: the model learned from every tile; choose tiles that it did not see")
    return estimated_shares(first, np.concatenate(rows), np.concatenate(tile), units, seed)


def read_shares(path: Path, record: PredictorRecord) -> TargetShares:
    """Read class shares from a CSV file with the columns `class` and `share`; a class that is not listed has share 0.

    Raises ConfigError for any other file, for unknown classes, and for shares that do not sum to 1.
    """
    where = f"--priors {path}"
    if not path.is_file():
        raise ConfigError(f"{where}: is neither {NONE} nor {ESTIMATE} nor a file; check the path")
    frame = read_csv(path, where, column="class")
    if "class" not in frame or "share" not in frame:
        raise ConfigError(f"{where}: has no columns `class` and `share`; write one line per class")
    share_K = np.zeros(len(record.classes))
    for line, (name, value) in enumerate(zip(frame["class"].tolist(), frame["share"].tolist(), strict=True), start=2):
        if str(name) not in record.classes:
            raise ConfigError(
                f"{where}, line {line}: the model has no class {name!r}; {nearest(str(name), record.classes)}"
            )
        try:
            share = float(value)
        except (TypeError, ValueError):
            share = math.nan
        if not 0 <= share <= 1:
            raise ConfigError(f"{where}, line {line}: the share {value!r} is no number from 0 to 1")
        share_K[record.classes.index(str(name))] += share
    if abs(share_K.sum() - 1) > ROUNDING:
        raise ConfigError(f"{where}: the shares sum to {share_K.sum():g} and not to 1; correct them")
    return TargetShares(share_K / share_K.sum(), None, str(path))


def share_sentences(shares: TargetShares, record: PredictorRecord) -> list[str]:
    """Return sentences for the report: the shares, their intervals, and reasons not to trust them."""
    listed = []
    for code, name in enumerate(record.classes):
        text = f"{name} {shares.share_K[code]:.1%}"
        interval = shares.estimate.interval_K2 if shares.estimate is not None else None
        if interval is not None:
            text += f" [{interval[code, 0]:.1%}, {interval[code, 1]:.1%}]"
        listed.append(f"{text} (in training {record.trained_K[code]:.1%})")
    said = [f"Probabilities are corrected for the class shares of the target, {shares.origin}: {'; '.join(listed)}."]
    if shares.estimate is None:
        return said
    if shares.estimate.reasons:
        said.append(f"Do not trust these shares: {'; '.join(shares.estimate.reasons)}.")
    said.append(
        "The estimate assumes that each class looks the same in the target as in the training data, so that only its "
        f"share differs; this cannot be tested without labels. Intervals (95 %) need {FEWEST_GROUPS} groups or more."
    )
    return said
