"""Counts of the tiles of a data set by label, month, split and group, and warnings on what they do not support.

T tiles
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomae.catalog.splits import NO_SPLIT
from geomae.rasters.figure_rows import parts_of
from geomae.tiles.index import TileIndex
from geomae.tiles.pixel_census import ALL, PixelCensus, PixelCount, count_pixels
from geomae.tiles.splits import SEEDS

NO_LABEL = "(none)"
USUAL_SPLITS = ("train", "val", "test")
MOST_CLASSES = 20  # more distinct labels than this, all of them numbers, are measurements
AT_ONCE = 1 << 18  # tiles that are counted at once
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
    splits = _coded(index.tiles["split"].to_numpy())
    counted = _Counted(splits, index.tiles["scene"].to_numpy(), _units(index) if has_groups or has_blocks else None)
    every = _Coded(np.zeros(len(index), dtype=np.int32), [ALL])
    label = _coded(index.tiles["label"].to_numpy(), NO_LABEL)
    time_T = index.attributes["time"].to_numpy() if "time" in index.attributes else np.full(len(index), None)
    times = _coded(time_T)
    months = [text[:7] if MONTH.match(text) else None for text in times.names]
    month = _coded(np.array([*months, None], dtype=object)[times.code_T])
    known = [text for text, month in zip(times.names, months, strict=True) if month]
    numbers = label_range(label.names)
    measured = index.labels is not None and label_range(index.labels.names) is not None
    labels: dict[str, BySplit] = {}
    if numbers is None and set(label.names) != {NO_LABEL}:
        named = sorted(counted.by(label).items(), key=lambda row: (-row[1][ALL].tiles, row[0]))
        labels = dict(sorted(named, key=lambda row: row[0] == NO_LABEL))  # what has no label comes last
    return Census(
        unit="groups" if has_groups else "blocks" if has_blocks else "tiles",
        splits=_in_order(splits.names),
        total=counted.by(every)[ALL],
        labels=labels,
        months=dict(sorted(counted.by(month).items())),
        numbers=numbers,
        first=min(known, default=None),
        last=max(known, default=None),
        pixels=None if measured else count_pixels(index),
        labelled=counted.by(every, where_T=label.code_T != label.code(NO_LABEL)).get(ALL, {}),
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


@dataclass(frozen=True)
class _Coded:
    """A column as numbers of its distinct texts, in the order in which these appear; -1 where it has none."""

    code_T: NDArray[np.int32]
    names: list[str]

    def code(self, name: str) -> int:
        """The number of a text; -2 where no tile has it."""
        return self.names.index(name) if name in self.names else -2


def _coded(value_T: NDArray[Any], missing: str | None = None) -> _Coded:
    """A column with its values as texts; `missing` is the text of a value that is missing."""
    code_T, values = pd.factorize(value_T)
    texts = [*(str(one) for one in values.tolist()), missing]
    name_V, names = pd.factorize(np.array(texts, dtype=object))  # other values may have one text
    return _Coded(name_V.astype(np.int32)[code_T], names.tolist())


def _units(index: TileIndex) -> NDArray[np.int64]:
    """Numbers (T) of the independent units of tiles; see `TileIndex.independent_units`."""
    unit_T, units = np.full(len(index), -1), 0
    for values in (index.tiles["group"], index.tiles["block"]):
        code_T, known = pd.factorize(values.to_numpy())
        unit_T = np.where((unit_T < 0) & (code_T >= 0), units + code_T, unit_T)
        units += len(known)
    return np.where(unit_T < 0, units + np.arange(len(index)), unit_T)


@dataclass(frozen=True)
class _Counted:
    """What is counted of tiles: splits, scenes and units; `unit_T` is None where each tile is one."""

    splits: _Coded
    scene_T: NDArray[np.integer[Any]]
    unit_T: NDArray[np.int64] | None

    def by(self, column: _Coded, where_T: NDArray[np.bool_] | None = None) -> dict[str, dict[str, Count]]:
        """Counts for each value of a column, over all tiles (or those of `where_T`) and by split."""
        found: dict[str, dict[str, Count]] = {}
        for split_T, splits in ((0, [ALL]), (self.splits.code_T, self.splits.names)):
            pair_T = np.asarray(column.code_T * len(splits) + split_T, dtype=np.int64)
            pair_T[column.code_T < 0] = -1
            if where_T is not None:
                pair_T[~where_T] = -1
            pairs = len(column.names) * len(splits)
            tiles = np.bincount(pair_T[pair_T >= 0], minlength=pairs)
            scenes = _distinct(pair_T, self.scene_T, pairs)
            units = tiles if self.unit_T is None else _distinct(pair_T, self.unit_T, pairs)
            for pair in pd.unique(pair_T[pair_T >= 0]).tolist():
                value, split = divmod(pair, len(splits))
                count = Count(int(tiles[pair]), int(units[pair]), int(scenes[pair]))
                found.setdefault(column.names[value], {})[splits[split]] = count
        return found


def _distinct(pair_T: NDArray[np.int64], other_T: NDArray[np.integer[Any]], pairs: int) -> NDArray[np.int64]:
    """How many distinct values of `other_T` each of the `pairs` has; a tile of pair -1 does not count."""
    most = int(other_T.max(initial=0)) + 1
    seen = np.zeros(0, dtype=np.int64)
    for part in parts_of(len(pair_T), AT_ONCE):
        key_U = (pair_T[part] * most + other_T[part])[pair_T[part] >= 0]
        seen = np.union1d(seen, key_U)
    return np.bincount(seen // most, minlength=pairs)


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
