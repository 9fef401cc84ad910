"""The tables of a comparison: rows from sums, as CSV, as metrics of a run and on a terminal."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geomae.analysis.reconstruction_errors import ALL
from geomae.analysis.reconstruction_rows import Row, Tiles, rows
from geomae.catalog import parse_selector
from geomae.files import write_text
from geomae.tiles.index import TileIndex
from geomae.workflows.compare_recon_score import MASKED, VISIBLE, MaskKind, Scores
from geomae.workflows.console import Screen


def all_rows(
    scores: Sequence[Scores], labels: Sequence[str], masks: Sequence[MaskKind], seed: int
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


def tiles_of(scores: Scores) -> Tiles:
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
