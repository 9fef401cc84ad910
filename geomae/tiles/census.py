"""Counts of the tiles of a data set by label, month, split and group, and warnings on what they do not support.

T tiles
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from geomae.catalog.splits import NO_SPLIT
from geomae.tiles.index import TileIndex
from geomae.tiles.pixel_census import ALL, PixelCensus, PixelCount, count_pixels
from geomae.tiles.splits import SEEDS

NO_LABEL = "(none)"
USUAL_SPLITS = ("train", "val", "test")
MOST_CLASSES = 20  # more distinct labels than this, all of them numbers, are measurements
NAMED = 5  # classes that a warning names
MONTH = re.compile(r"\d{4}-\d\d(?=-)")  # at the beginning of a time


@dataclass(frozen=True)
class Count:
    """Tiles, the groups (or blocks) that they belong to, and the scenes in which they lie."""

    tiles: int
    groups: int
    scenes: int


BySplit = Mapping[str, Count]  # by split, and `all`; a split without tiles is absent


@dataclass(frozen=True)
class Census:
    """Counts of one data set.

    `unit` is the independent unit, which `Count.groups` counts: `groups`, `blocks`, else `tiles`. `labelled` counts the
    tiles with a label. `labels` is sorted by the number of tiles, `(none)` last; it is empty where no tile has a label,
    and for measurements, of which `numbers` holds the smallest and the largest. `months` (`2021-06`) are in order;
    `first` and `last` are times, None where no scene has one. `pixels` counts labelled pixels; it is None where there
    are none, and for measurements.
    """

    unit: str
    splits: tuple[str, ...]
    total: BySplit
    labels: Mapping[str, BySplit]
    months: Mapping[str, BySplit]
    numbers: tuple[float, float] | None = None
    first: str | None = None
    last: str | None = None
    pixels: PixelCensus | None = None
    labelled: BySplit = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        named = {"labels_by_split": self.labels, "months_by_split": self.months, "total": {ALL: self.total}}
        tables = {
            key: {name: {split: vars(count) for split, count in row.items()} for name, row in table.items()}
            for key, table in named.items()
        }
        total = tables.pop("total")[ALL]
        times = {"first": self.first, "last": self.last}
        pixels = {"labelled_pixels": self.pixels.to_dict()} if self.pixels else {}
        counts = {"unit": self.unit, "tiles_by_split": total, **tables, **pixels}
        return counts | {"label_range": self.numbers, "times": times}


def take_census(index: TileIndex) -> Census:
    """Count the tiles of an index."""
    has_groups, has_blocks = (bool(index.tiles[column].notna().any()) for column in ("group", "block"))
    label_T = index.tiles["label"].tolist()
    tiles = pd.DataFrame(
        {
            "split": index.tiles["split"].to_numpy(),
            "scene": index.tiles["scene"].to_numpy(),
            "group": index.independent_units(),
            "label": [NO_LABEL if one is None or one != one else str(one) for one in label_T],
            "total": ALL,
        }
    )
    time_T = index.attributes["time"].tolist() if "time" in index.attributes else [None] * len(index)
    times = [text if isinstance(text, str) and MONTH.match(text) else None for text in time_T]
    tiles["month"] = [text[:7] if text else None for text in times]
    known = sorted(text for text in times if text)
    numbers = label_range(tiles["label"].unique())
    measured = index.labels is not None and label_range(index.labels.names) is not None
    labels: dict[str, BySplit] = {}
    if numbers is None and set(tiles["label"]) != {NO_LABEL}:
        named = sorted(_counts(tiles, "label").items(), key=lambda row: (-row[1][ALL].tiles, row[0]))
        labels = dict(sorted(named, key=lambda row: row[0] == NO_LABEL))  # what has no label comes last
    return Census(
        unit="groups" if has_groups else "blocks" if has_blocks else "tiles",
        splits=_in_order(tiles["split"].unique().tolist()),
        total=_counts(tiles, "total")[ALL],
        labels=labels,
        months=dict(sorted(_counts(tiles, "month").items())),
        numbers=numbers,
        first=known[0] if known else None,
        last=known[-1] if known else None,
        pixels=None if measured else count_pixels(index),
        labelled=_counts(tiles[tiles["label"] != NO_LABEL], "total").get(ALL, {}),
    )


def warnings(census: Census, fewest: int, folds: int, seeds: Sequence[int] | None = None) -> list[str]:
    """Warnings, one sentence each, on evaluations that the counts do not support.

    An interval needs `fewest` groups, and a probe `folds` training tiles of each class. `seeds` are those of the split
    with which every split has every class, None if that is not known (see `seeds_with_all_classes`).

    Scores are computed on every split but train, or on all labelled tiles where there is no other split. Where pixels
    have labels and no tile has one, the pixels are counted.
    """
    what = "tiles"
    total: Mapping[str, Count | PixelCount] = census.labelled or census.total
    classes: Mapping[str, Mapping[str, Count | PixelCount]]
    classes = {name: row for name, row in census.labels.items() if name != NO_LABEL}
    if census.pixels is not None and not (classes or census.numbers):
        what, total, classes = "pixels", census.pixels.total, census.pixels.classes
    found = []
    if len(classes) == 1:
        found.append(
            f"{what} have no other label than {next(iter(classes))!r}, and a classifier needs two; choose another "
            "column or file"
        )
    if census.unit != "tiles":
        alone = [name for name, row in classes.items() if row[ALL].groups == 1]
        if alone and total[ALL].groups > 1:
            found.append(
                f"{_listed(alone)}: all {what} of the class lie in one of the {census.unit}, so that its score may "
                "depend on the place and not on the class; add places, or leave the class out"
            )
    if len(census.splits) > 1:
        alone = [
            f"{name} ({split})" for name, row in classes.items() for split in census.splits if set(row) == {ALL, split}
        ]
        if alone:
            found.append(
                f"{_listed(alone)}: the class occurs in one split only, so that it is either not trained on or not "
                f"tested; {_other_splits(seeds)}"
            )
    found += _for_probes(census, folds)
    scored = [split for split in census.splits if split not in (USUAL_SPLITS[0], NO_SPLIT)]
    if not scored and (classes or census.numbers):
        scored = [ALL]
    groups = {split: total[split].groups if split in total else 0 for split in scored}
    few = [f"{split} {count}" for split, count in groups.items() if count < fewest]
    if few:
        found.append(
            f"an interval needs {fewest} {census.unit}, and is omitted for fewer ({', '.join(few)}); hold out more, "
            "or make groups or blocks smaller"
        )
    return found


def _other_splits(seeds: Sequence[int] | None) -> str:
    """How to have every class in every split; `seeds` as for `warnings`."""
    without = "or use all labels in turn with `geomae probe --cross-fit 3`"
    if seeds:
        return f"with `seed: {seeds[0]}` in `split`, every split has every class; write that, {without}"
    if seeds is not None:
        return (
            f"no seed of 0 to {SEEDS - 1} gives every split every class, for which a class needs as many groups as "
            f"there are splits; name fewer splits, {without}"
        )
    return (
        f"split by other groups or with another seed, correct the column that holds the splits, {without}; if the "
        "splits are given, leave the class out: of `label.classes`, or by `where` if labels are a column"
    )


def _for_probes(census: Census, folds: int) -> list[str]:
    """Warnings on what `geomae probe` refuses."""
    found = []
    shared = sum(row.groups for split, row in census.total.items() if split != ALL) - census.total[ALL].groups
    if census.unit == "groups" and shared > 0:
        found.append(
            "groups have tiles in more than one split, so that scores would measure memorisation and `probe` refuses "
            "them; assign whole groups (`split: {group: {train: 0.8, test: 0.2}}`), or correct the column of the splits"
        )
    learned = USUAL_SPLITS[0] if USUAL_SPLITS[0] in census.splits else ALL
    rare = [
        f"{name} {row[learned].tiles}" for name, row in census.labels.items()
        if name != NO_LABEL and learned in row and row[learned].tiles < folds
    ]  # fmt: skip
    if rare and len(census.labels) > 1:
        found.append(
            f"a probe needs {folds} training tiles of each class, and these have fewer: {_listed(rare)}; label more, "
            "or leave the class out with `where`"
        )
    return found


def _counts(tiles: pd.DataFrame, column: str) -> dict[str, dict[str, Count]]:
    """Counts for each known value of a column, over all tiles and by split."""
    found: dict[str, dict[str, Count]] = {}
    for rows in (tiles.assign(split=ALL), tiles):
        by_both = rows.groupby([column, "split"], sort=False)
        figures = zip(by_both.size(), by_both["group"].nunique(), by_both["scene"].nunique(), strict=True)
        for (value, split), counts in zip(by_both.size().index, figures, strict=True):
            found.setdefault(str(value), {})[str(split)] = Count(*map(int, counts))
    return found


def label_range(labels: Iterable[str]) -> tuple[float, float] | None:
    """The smallest and the largest of labels that are measurements; None for classes."""
    known = set(labels) - {NO_LABEL}
    if len(known) <= MOST_CLASSES:
        return None
    try:
        numbers = [float(one) for one in known]
    except ValueError:
        return None
    return min(numbers), max(numbers)


def _in_order(splits: Sequence[str]) -> tuple[str, ...]:
    first = [split for split in USUAL_SPLITS if split in splits]
    return (*first, *sorted(set(splits) - set(first)))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
