"""The sides of a probe: labelled tiles to learn from, and labelled tiles to be tested on.

T tiles of a side, P tiles of the training side, H x W pixels of a tile
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.scores import UNKNOWN
from geomae.catalog import Catalog, parse_selector
from geomae.errors import CatalogError, ConfigError
from geomae.tiles.index import TileIndex
from geomae.workflows.probe_pixels import read_classes
from geomae.workflows.probe_request import REGRESSION, SEGMENTATION
from geomae.workflows.selected import Selected

VALIDATION = "val"
SHOWN = 5  # names in an error


@dataclass(frozen=True)
class Side:
    """The labelled tiles of a selection. `label_T` are texts, numbers, or for segmentation the most frequent classes.

    `unit_T` names what is independent of the rest: the group of a tile, else its block, else the tile itself.
    `pixels_THW` are class codes for segmentation, whose meaning `classes` tells.
    """

    selected: Selected
    label_T: NDArray[Any]
    unit_T: list[str]
    pixels_THW: NDArray[np.int16] | None = None
    classes: tuple[str, ...] = ()
    unlabelled: int = 0

    def __len__(self) -> int:
        return len(self.label_T)

    @property
    def name(self) -> str:
        """The selector."""
        return self.selected.name

    @property
    def index(self) -> TileIndex:
        """The tiles."""
        return self.selected.index

    def take(self, places: NDArray[np.int64]) -> "Side":
        """A choice of its tiles."""
        return replace(
            self,
            selected=replace(self.selected, index=self.index.take(places)),
            label_T=self.label_T[places],
            unit_T=[self.unit_T[place] for place in places],
            pixels_THW=None if self.pixels_THW is None else self.pixels_THW[places],
        )


def labelled_side(selected: Selected, catalog: Catalog, task: str, option: str) -> Side:
    """The tiles of a selection that have a label. Raises CatalogError where none has, or where labels do not fit."""
    index = selected.index
    where = f"{option} {selected.name}"
    if task == SEGMENTATION:
        classes, pixels_THW, majority_T = read_classes(index, catalog, where)
        known_T = majority_T != ""
        label_T: NDArray[Any] = majority_T
    else:
        classes, pixels_THW = (), None
        texts = index.tiles["label"].tolist()
        known_T = np.array([text is not None for text in texts])
        label_T = np.array(["" if text is None else text for text in texts])
    if not known_T.any():
        raise CatalogError(
            f"{where}: none of its {len(index)} tiles has a label; add `label:` to the data set, or choose another"
        )
    found = np.flatnonzero(known_T)
    side = Side(selected, label_T, index.independent_units(), pixels_THW, classes, int((~known_T).sum())).take(found)
    return replace(side, label_T=_numbers(side.label_T, where)) if task == REGRESSION else side


def validation_side(train: Side, selected: Selected, tests: Sequence[Side], catalog: Catalog, task: str) -> Side | None:
    """The labelled tiles of the data set's split `val` that meet the conditions of the training side, None without any.

    Nor are there any where the split is trained or tested on.
    """
    selector = replace(parse_selector(train.name), split=VALIDATION)
    if not (selected.whole.tiles["split"] == VALIDATION).any():
        return None
    chosen = replace(selected, name=str(selector), index=selected.whole.select(selector))
    used = {tile for side in (train, *tests) for tile in keys(side)}
    try:
        side = labelled_side(chosen, catalog, task, "--train")
    except CatalogError:
        return None
    known = np.isin(side.label_T, train.label_T) if task != REGRESSION else np.ones(len(side), dtype=bool)
    side = side.take(np.flatnonzero(known))
    return None if len(side) == 0 or used & set(keys(side)) else side


def keys(side: Side) -> list[tuple[str, str]]:
    """Data set and tile id of each tile."""
    return [(side.index.name, tile) for tile in side.index.tiles["tile_id"].tolist()]


def check_classes(train: Side, tests: Sequence[Side], task: str) -> tuple[str, ...]:
    """The names of the classes, in order; none for numbers.

    Raises CatalogError where there is nothing to tell apart, and where a test has classes that were never trained.
    """
    names = tuple(sorted(set(train.label_T.tolist())))
    if len(names) < 2:
        raise CatalogError(
            f"--train {train.name}: all {len(train)} labelled tiles have the label {names[0]!r}; a probe takes two or "
            "more"
        )
    if task == REGRESSION:
        return ()
    if task == SEGMENTATION:
        names = tuple(_occurring(train))
    for test in tests:
        never = [name for name in _occurring(test) if name not in names]
        if never:
            raise CatalogError(
                f"--test {test.name}: {_list(never)} never occurs in --train {train.name} (which has "
                f"{_list(names)}); leave it out with `where`, or train on tiles that have it"
            )
    return names


def check_apart(train: Side, tests: Sequence[Side], cross_fit: int | None) -> None:
    """Raise ConfigError where tiles, or without cross-fitting groups, stand on both sides."""
    for test in tests:
        shared = set(keys(train)) & set(keys(test))
        if shared and cross_fit is None:
            raise ConfigError(
                f"--test {test.name}: {len(shared)} of its tiles are in --train {train.name} too (such as "
                f"{min(shared)[1]}); choose selectors that share no tile, or --cross-fit 3, which tests each group "
                "with a probe that was trained without it"
            )
        groups = sorted(set(train.unit_T) & set(test.unit_T))
        if groups and cross_fit is None:
            raise ConfigError(
                f"--test {test.name}: {len(groups)} groups stand in --train {train.name} too ({_list(groups)}), and a "
                "score would tell how well they are remembered; --cross-fit 3 tests each group with a probe that was "
                "trained without it"
            )


def codes(side: Side, names: Sequence[str]) -> NDArray[Any]:
    """What the side is scored by: class codes of tiles (T,) or of pixels (T, H, W), or the numbers themselves."""
    place = {name: code for code, name in enumerate(names)}
    if side.pixels_THW is not None:
        code_of = np.array([place.get(name, UNKNOWN) for name in side.classes] + [UNKNOWN], dtype=np.int16)
        return code_of[side.pixels_THW]  # unknown pixels, -1, take the last
    return np.array([place[label] for label in side.label_T.tolist()]) if names else side.label_T


def _occurring(side: Side) -> list[str]:
    """The classes that there are, in order."""
    if side.pixels_THW is None:
        return sorted(set(side.label_T.tolist()))
    there = np.unique(side.pixels_THW)
    return [name for code, name in enumerate(side.classes) if code in there]


def _numbers(label_T: NDArray[Any], where: str) -> NDArray[np.float64]:
    values = []
    for label in label_T.tolist():
        try:
            values.append(float(label))
        except ValueError:
            raise CatalogError(f"{where}: the label {label!r} is no number; leave --task regression out") from None
    if not np.isfinite(values).all():
        raise CatalogError(f"{where}: some labels are not finite; leave these tiles out with `where`")
    return np.array(values)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
