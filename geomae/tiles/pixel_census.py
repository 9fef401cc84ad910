"""Labelled pixels counted by class, split and group: the samples of `--task segmentation`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from geomae.tiles.index import TileIndex
from geomae.tiles.labels import NONE

ALL = "all"


@dataclass(frozen=True)
class PixelCount:
    """Labelled pixels, counted once per tile that holds them, and the groups (or blocks, or tiles) of these."""

    pixels: int
    groups: int


PixelsBySplit = Mapping[str, PixelCount]  # by split, and `all`; a split without pixels is absent


@dataclass(frozen=True)
class PixelCensus:
    """Labelled pixels of one data set by class, the most frequent first, and in total; `all_pixels` counts unlabelled
    ones, too.

    A split counts the pixels that a probe takes: those of that split in tiles of that split. `all` counts every pixel.
    """

    classes: Mapping[str, PixelsBySplit]
    total: PixelsBySplit
    all_pixels: int

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON."""

        def row(counts: PixelsBySplit) -> dict[str, Any]:
            return {split: vars(count) for split, count in counts.items()}

        classes = {name: row(counts) for name, counts in self.classes.items()}
        return {"all_pixels": self.all_pixels, "pixels_by_split": row(self.total), "classes_by_split": classes}


def count_pixels(index: TileIndex) -> PixelCensus | None:
    """Count the labelled pixels of an index; None where it has none."""
    if index.pieces is None or index.labels is None:
        return None
    columns = ["tile_id", "split", "group", "block"]
    pieces = index.pieces[index.pieces["class"] != NONE].merge(index.tiles[columns], on="tile_id")
    if pieces.empty:
        return None
    in_split_of_tile = pieces["split"]
    for name in {"group", "split"} & set(index.by_polygon):
        pieces[name] = index.by_polygon[name][pieces["polygon"].to_numpy()]
    pieces["unit"] = replace(index, tiles=pieces).independent_units()
    pieces["class"] = [index.labels.names[code] for code in pieces["class"].tolist()]
    counted = pd.concat([pieces.assign(split=ALL), pieces[pieces["split"] == in_split_of_tile]])
    classes = _counts(counted, "class")
    classes = dict(sorted(classes.items(), key=lambda row: (-row[1][ALL].pixels, row[0])))
    return PixelCensus(classes, _counts(counted.assign(total=ALL), "total")[ALL], int((index.tiles["size"] ** 2).sum()))


def _counts(counted: pd.DataFrame, column: str) -> dict[str, dict[str, PixelCount]]:
    """Counts for each value of a column, by split."""
    by_both = counted.groupby([column, "split"], sort=False)
    figures = by_both.agg(pixels=("pixels", "sum"), units=("unit", "nunique")).reset_index()
    found: dict[str, dict[str, PixelCount]] = {}
    for value, split, pixels, units in figures.itertuples(index=False, name=None):
        found.setdefault(str(value), {})[str(split)] = PixelCount(int(pixels), int(units))
    return found
