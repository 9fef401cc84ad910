"""From sums per tile to rows of reconstruction.csv: by split and domain, with intervals over groups, and differences.

T tiles, G groups, R resamples
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import parse_selector
from geomae.evaluation.reconstruction import MASKED, VISIBLE, MaskKind, ReconstructionScores
from geomae.files import write_text
from geomae.metrics.intervals import FEWEST_GROUPS, percentile_interval, resample_groups
from geomae.metrics.reconstruction import ALL, ErrorSums, Floats, figures, units
from geomae.runtime.console import Screen
from geomae.sensors import Band
from geomae.tiles.index import TileIndex

COLUMNS = (
    "model", "dataset", "split", "domain", "masking", "mask_ratio", "pixels", "band", "metric", "unit", "value", "low",
    "high", "n_tiles", "n_groups",
)  # fmt: skip
DIFFERENCE_COLUMNS = (
    "model", "reference", "dataset", "split", "domain", "masking", "mask_ratio", "pixels", "group", "band", "metric",
    "unit", "difference", "low", "high", "n_tiles", "n_groups",
)  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Tiles:
    """What is known of the tiles: split, domain, group; and the bands, unit and data range of their data set."""

    dataset: str
    split_T: NDArray[np.object_]
    domain_T: NDArray[np.object_]
    group_T: NDArray[np.object_]
    bands: tuple[Band, ...]
    unit: str
    range_C: Floats

    def parts(self) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
        """Splits with all their tiles and with those of each domain: (split, domain, positions)."""
        for split in sorted(set(self.split_T)):
            here = self.split_T == split
            yield split, ALL, np.flatnonzero(here)
            domains = sorted(set(self.domain_T[here]))
            if len(set(self.domain_T)) > 1:
                for domain in domains:
                    yield split, domain, np.flatnonzero(here & (self.domain_T == domain))


def rows(
    tiles: Tiles, sums: Mapping[str, ErrorSums], about: Mapping[str, Any], seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows of every model's figures, and of the differences of each model from the first, under one mask.

    `sums` are by label; `about` has masking, mask_ratio and pixels. Intervals (95 %) resample the groups, the same ones
    for every model; with fewer than ten groups there are none, and the differences are given group by group instead.
    """
    values, differences = [], []
    for split, domain, chosen in tiles.parts():
        names, group_T = np.unique(tiles.group_T[chosen].astype(str), return_inverse=True)
        weight_RG = resample_groups(len(names), seed)
        fixed = {"dataset": tiles.dataset, "split": split, "domain": domain, **about}
        counts = {"n_tiles": len(chosen), "n_groups": len(names)}
        first: _Figures | None = None
        for label, all_sums in sums.items():
            mine = _Figures.of(all_sums.take(chosen).by_group(group_T.astype(np.int64)), weight_RG, tiles)
            values += [{"model": label, **fixed, **row, **counts} for row in mine.rows(tiles.unit)]
            if first is None:
                first, reference = mine, label
                continue
            named = {"model": label, "reference": reference, **fixed}
            differences += [named | row | counts for row in mine.differences(first, names.tolist(), tiles.unit)]
    return values, differences


@dataclass(frozen=True)
class _Figures:
    """The figures of one model: of all tiles (1,), of the resamples (R,) if there are any, and of each group (G,)."""

    whole: dict[tuple[str, str], Floats]
    resampled: dict[tuple[str, str], Floats] | None
    grouped: dict[tuple[str, str], Floats]

    @classmethod
    def of(cls, group_sums: ErrorSums, weight_RG: Floats | None, tiles: Tiles) -> "_Figures":
        def found(one: ErrorSums) -> dict[tuple[str, str], Floats]:
            return figures(one, tiles.bands, tiles.range_C)

        whole = group_sums.weighted(np.ones((1, len(group_sums))))
        resampled = None if weight_RG is None else found(group_sums.weighted(weight_RG))
        return cls(found(whole), resampled, found(group_sums))

    def rows(self, unit: str) -> Iterator[Row]:
        for (metric, band), value in self.whole.items():
            if np.isnan(value[0]) or np.isnan(self.whole["rmse", band][0]):
                continue  # no pixel counts, which leaves a data range of nothing
            interval = None if metric == "data_range" else self._interval(self.resampled, (metric, band))
            yield _row(metric, band, unit) | {"value": float(value[0])} | _bounds(interval)

    def differences(self, first: "_Figures", groups: Sequence[str], unit: str) -> Iterator[Row]:
        for key, value in self.whole.items():
            if key[0] == "data_range" or np.isnan(value[0]):
                continue
            resampled = None
            if self.resampled is not None and first.resampled is not None:
                resampled = {key: self.resampled[key] - first.resampled[key]}
            apart = {"difference": float(value[0] - first.whole[key][0])}
            yield {"group": ALL} | _row(*key, unit) | apart | _bounds(self._interval(resampled, key))
            if resampled is None and key[1] == ALL:
                for group, difference in zip(groups, self.grouped[key] - first.grouped[key], strict=True):
                    if not np.isnan(difference):
                        yield {"group": group} | _row(*key, unit) | {"difference": float(difference)} | _bounds(None)

    def _interval(
        self, resampled: Mapping[tuple[str, str], Floats] | None, key: tuple[str, str]
    ) -> tuple[float, float] | None:
        """As many groups with a counted pixel are needed as of groups at all."""
        if resampled is None or np.count_nonzero(~np.isnan(self.grouped[key])) < FEWEST_GROUPS:
            return None
        return percentile_interval(resampled[key])


def _row(metric: str, band: str, unit: str) -> Row:
    return {"band": band, "metric": metric, "unit": units(metric, unit)}


def _bounds(interval: tuple[float, float] | None) -> Row:
    low, high = interval or (None, None)
    return {"low": low, "high": high}


def all_rows(
    scores: Sequence[ReconstructionScores], labels: Sequence[str], masks: Sequence[MaskKind], seed: int
) -> tuple[list[Row], list[Row]]:
    """The rows of both tables: every selection, mask, and masked and visible pixels."""
    values, differences = [], []
    for one in scores:
        for mask in masks:
            for pixels in (MASKED, VISIBLE):
                about = {"masking": mask.kind, "mask_ratio": mask.ratio, "pixels": pixels}
                sums = {label: one.sums[label, mask, pixels] for label in labels}
                found = rows(tiles_of(one), sums, about, seed)
                values += found[0]
                differences += found[1]
    return values, differences


def tiles_of(scores: ReconstructionScores) -> Tiles:
    """What the table says of the tiles of a selection; the split stands in a column of its own."""
    dataset = str(replace(parse_selector(scores.selected.name), split=None))
    table = scores.index.tiles
    columns = (table["split"].to_numpy(), table["domain"].to_numpy(), groups_of(scores.index))
    split_T, domain_T, group_T = (np.array([str(one) for one in values], dtype=object) for values in columns)
    return Tiles(dataset, split_T, domain_T, group_T, scores.bands, scores.selected.imagery.unit, scores.range_C)


def groups_of(index: TileIndex) -> Sequence[Any]:
    """What intervals resample: the catalogue's groups, else blocks, else scenes. Tiles of a scene are no groups."""
    for column in ("group", "block"):
        if index.tiles[column].notna().all():
            return index.tiles[column].tolist()
    return index.tiles["scene"].tolist()


def write_csv(path: Path, columns: Sequence[str], table: Sequence[Mapping[str, Any]]) -> None:
    """Publish rows; what is unknown is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_text(path, text.getvalue())


def metrics(values: Sequence[Row]) -> dict[str, float]:
    """Every figure by name: METRIC/LABEL/BAND/DATASET/SPLIT/DOMAIN/MASK/PIXELS.

    METRIC/LABEL/BAND alone is that of the masked pixels in the first split of the first selection under the first mask.
    """
    found: dict[str, float] = {}
    for row in values:
        name = f"{row['metric']}/{row['model']}/{row['band']}"
        if row["pixels"] == MASKED and row["domain"] == ALL:
            found.setdefault(name, row["value"])
        where = (row["dataset"], row["split"], row["domain"], f"{row['masking']}-{row['mask_ratio']:g}", row["pixels"])
        found["/".join((name, *where))] = row["value"]
    return found


def place_of(row: Mapping[str, Any]) -> str:
    """Where a row's tiles are from, in words."""
    domain = "" if row["domain"] == ALL else f", {row['domain']}"
    return f"{row['dataset']}@{row['split']}{domain}"


def result_table(screen: Screen, values: Sequence[Row]) -> None:
    """Show the RMSE of masked pixels, as the mean over bands, of every model on each choice of tiles and mask."""
    fixed = {"metric": "rmse", "band": ALL, "pixels": MASKED, "domain": ALL}
    shown = [row for row in values if all(row[key] == value for key, value in fixed.items())]
    lines = [
        (row["model"], place_of(row), f"{row['masking']} {row['mask_ratio']:g}", f"{row['value']:.4g} {row['unit']}")
        for row in shown
    ]
    screen.table("Masked pixels, mean over bands", ("model", "tiles", "mask", "RMSE"), lines)
