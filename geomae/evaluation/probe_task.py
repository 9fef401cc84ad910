"""The task of a probe: labelled tiles for training and for testing, and the plan of the fits.

T tiles of a selection, P tiles of the training set, H x W pixels of a tile
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.encoders.selections import Embeddings
from geomae.errors import CatalogError, ConfigError
from geomae.evaluation.folds import FoldPlan, Labelled, TrainingSet, codes_of, cross_fit_plans, single_plan
from geomae.evaluation.pixel_labels import check_class_count, read_pixel_rows
from geomae.evaluation.probe_predictions import (
    SHOTS,
    Predictions,
    Target,
    classify,
    classify_aligned,
    regress,
    segment,
)
from geomae.evaluation.probe_scores import GroundTruth
from geomae.metrics.predictions import UNKNOWN, ClassMeasure, Measure, NumberMeasure, PixelMeasure
from geomae.tiles.index import TileIndex
from geomae.tiles.selection import Selection

CLASSIFICATION, REGRESSION, SEGMENTATION = TASKS = ("classification", "regression", "segmentation")
VALIDATION = "val"  # the split that C is chosen on, where there is one
SHOWN = 5  # names in an error


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of a probe, the same for all encoders.

    `C` is that of the logistic regression (1 / alpha of the ridge regression); None to choose it. `cross_fit` is the
    number of folds in which each group is tested by a probe that was trained without it; with `by_fold` these are made
    by the column of `group.folds` where tiles have one. Averages are over classes with at least `min_class_rows` test
    tiles. `alignments` begin with `none`; where empty, no alignment is fitted. `shots` are the numbers of labels per
    class of the probes from few labels. `forest` adds a random forest on pixels.
    """

    task: str = CLASSIFICATION
    C: float | None = None
    cross_fit: int | None = None
    min_class_rows: int = 1
    alignments: tuple[str, ...] = ()
    seed: int = 0
    by_fold: bool = False
    shots: tuple[int, ...] = SHOTS
    forest: bool = False


@dataclass(frozen=True)
class LabelledSelection:
    """The labelled tiles of a selection. `label_T` are texts, numbers, or for segmentation the most frequent classes.

    For segmentation a tile may occur several times, once for each group of polygons in it (see `read_pixel_rows`).
    `unit_T` is the independent unit of each tile: its group, else its block, else the tile itself. `pixels_THW` are
    class codes for segmentation, indices of `classes`, and `valid_THW` tells which pixels are valid in some band.
    """

    selected: Selection
    label_T: NDArray[Any]
    unit_T: list[str]
    pixels_THW: NDArray[np.int16] | None = None
    classes: tuple[str, ...] = ()
    unlabelled: int = 0
    called: str = ""  # a name in place of the selector
    valid_THW: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.label_T)

    @property
    def name(self) -> str:
        """The selector, or `called`."""
        return self.called or self.selected.name

    @property
    def index(self) -> TileIndex:
        """The tiles."""
        return self.selected.index

    @property
    def size(self) -> str:
        """The number of labelled tiles, or of parts of tiles, in words."""
        tiles = len(set(self.index.tiles["tile_id"].tolist()))
        return f"{tiles} labelled tiles" if tiles == len(self) else f"{len(self)} labelled parts of {tiles} tiles"

    def take(self, places: NDArray[np.int64]) -> "LabelledSelection":
        """A subset of the tiles."""
        return replace(
            self,
            selected=replace(self.selected, index=self.index.take(places)),
            label_T=self.label_T[places],
            unit_T=[self.unit_T[place] for place in places],
            pixels_THW=None if self.pixels_THW is None else self.pixels_THW[places],
            valid_THW=None if self.valid_THW is None else self.valid_THW[places],
        )


def label_selection(selected: Selection, task: str, option: str) -> LabelledSelection:
    """The tiles of a selection that have a label. Raises CatalogError for none or unsuitable ones."""
    index = selected.index
    where = f"{option} {selected.name}"
    if task == SEGMENTATION:
        rows = read_pixel_rows(selected, where)
        classes, pixels_THW, index, valid_THW = rows.names, rows.code_PHW, rows.index, rows.valid_PHW
        known_T = rows.majority_P != ""
        label_T: NDArray[Any] = rows.majority_P
    else:
        if task == CLASSIFICATION and index.labels is not None:
            check_class_count(index.labels, where)
        classes, pixels_THW, valid_THW = (), None, None
        texts = index.tiles["label"].tolist()
        known_T = np.array([text is not None for text in texts])
        label_T = np.array(["" if text is None else text for text in texts])
    if not known_T.any():
        remedy = "; ".join(index.remarks) or "add `label:` to the data set, or choose another"
        raise CatalogError(f"{where}: none of its {len(selected.index)} tiles has a label; {remedy}")
    chosen = replace(selected, index=index) if task == SEGMENTATION else selected
    labelled = LabelledSelection(
        chosen, label_T, index.independent_units(), pixels_THW, classes, int((~known_T).sum()), valid_THW=valid_THW
    ).take(np.flatnonzero(known_T))
    return replace(labelled, label_T=_numbers(labelled.label_T, where)) if task == REGRESSION else labelled


def validation_selection(
    train: LabelledSelection, selected: Selection, tests: Sequence[LabelledSelection], task: str
) -> LabelledSelection | None:
    """The labelled tiles of the data set's split `val` that meet the conditions of the training set; None without any.

    None also where tiles of that split are used for training or testing.
    """
    selector = replace(train.selected.selector, split=VALIDATION)
    if not (selected.whole.tiles["split"] == VALIDATION).any():
        return None
    chosen = replace(selected, selector=selector, index=selected.whole.select(selector))
    used = {tile for part in (train, *tests) for tile in tile_keys(part)}
    try:
        labelled = label_selection(chosen, task, "--train")
    except CatalogError:
        return None
    if task != REGRESSION:
        labelled = labelled.take(np.flatnonzero(np.isin(labelled.label_T, occurring_classes(train))))
    return None if len(labelled) == 0 or used & set(tile_keys(labelled)) else labelled


def tile_keys(labelled: LabelledSelection) -> list[tuple[str, str]]:
    """Data set and tile id of each tile."""
    return [(labelled.index.name, tile) for tile in labelled.index.tiles["tile_id"].tolist()]


def check_classes(train: LabelledSelection, tests: Sequence[LabelledSelection], task: str) -> tuple[str, ...]:
    """The names of the classes, in order; none for numbers.

    Raises CatalogError for fewer than two labels, and where a test has classes that do not occur in training.
    """
    names = tuple(occurring_classes(train) if task == SEGMENTATION else sorted(set(train.label_T.tolist())))
    if len(names) < 2:
        raise CatalogError(
            f"--train {train.name}: all {len(train)} labelled tiles have the label {names[0]!r}; a probe needs two or "
            "more: choose another column, or tiles of other labels"
        )
    if task == REGRESSION:
        return ()
    for test in tests:
        never = [name for name in occurring_classes(test) if name not in names]
        if never:
            raise CatalogError(
                f"--test {test.name}: {_list(never)} never occurs in --train {train.name} (which has "
                f"{_list(names)}); leave it out (`where`, of polygons and rasters `classes`), or train on tiles that "
                "have it"
            )
    return names


def check_no_leakage(train: LabelledSelection, tests: Sequence[LabelledSelection], cross_fit: int | None) -> None:
    """Raise ConfigError where, without cross-fitting, tiles or groups occur in train and test."""
    for test in tests:
        shared = set(tile_keys(train)) & set(tile_keys(test))
        if shared and cross_fit is None:
            raise ConfigError(
                f"--test {test.name}: {len(shared)} of its tiles are in --train {train.name} too (such as "
                f"{min(shared)[1]}); choose selectors that share no tile, or --cross-fit 3, which tests each group "
                "with a probe that was trained without it"
            )
        groups = sorted(set(train.unit_T) & set(test.unit_T))
        if groups and cross_fit is None:
            raise ConfigError(
                f"--test {test.name}: {len(groups)} groups occur in --train {train.name} too ({_list(groups)}), so "
                "that scores would measure memorisation; --cross-fit 3 tests each group with a probe that was "
                "trained without it"
            )


def class_codes(labelled: LabelledSelection, names: Sequence[str]) -> NDArray[Any]:
    """The labels of a selection for scoring: class codes of tiles (T,) or of pixels (T, H, W), or numbers (T,)."""
    place = {name: code for code, name in enumerate(names)}
    if labelled.pixels_THW is not None:
        code_of = np.array([place.get(name, UNKNOWN) for name in labelled.classes] + [UNKNOWN], dtype=np.int16)
        return code_of[labelled.pixels_THW]  # unknown pixels, -1, index the last
    return np.array([place[label] for label in labelled.label_T.tolist()]) if names else labelled.label_T


def occurring_classes(labelled: LabelledSelection) -> list[str]:
    """The classes that occur, in order; none where labels were not read."""
    if labelled.pixels_THW is None:
        return sorted(set(labelled.label_T.tolist()) - {""})
    there = np.unique(labelled.pixels_THW)
    return [name for code, name in enumerate(labelled.classes) if code in there]


def _numbers(label_T: NDArray[Any], where: str) -> NDArray[np.float64]:
    values = []
    for label in label_T.tolist():
        try:
            values.append(float(label))
        except ValueError:
            raise CatalogError(f"{where}: the label {label!r} is not a number; leave --task regression out") from None
    if not np.isfinite(values).all():
        raise CatalogError(f"{where}: some labels are not finite; leave these tiles out with `where`")
    return np.array(values)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


@dataclass(frozen=True)
class ProbeTask:
    """Labelled tiles, plans and reference data. `pool` is used by fits: train, and the validation split if any.

    `how` describes what C is chosen by; it is empty for a fixed C. `averaged` are the classes in averages, by test.
    """

    settings: ProbeSettings
    train: LabelledSelection
    pool: tuple[LabelledSelection, ...]
    tests: tuple[LabelledSelection, ...]
    names: tuple[str, ...]
    plans: list[FoldPlan]
    how: str
    truths: Mapping[str, GroundTruth]
    averaged: Mapping[str, tuple[str, ...]]

    @property
    def labelled(self) -> tuple[LabelledSelection, ...]:
        """All labelled selections."""
        return (*self.pool, *self.tests)

    @property
    def selections(self) -> list[Selection]:
        """The tiles that have to be embedded."""
        return [part.selected for part in self.labelled]

    def predict(self, embeddings: Embeddings) -> Predictions:
        """Predictions of the probes of one encoder. Labels of the tests are not used."""
        settings = self.settings
        train = np.concatenate([embeddings.of(part.selected) for part in self.pool])
        tests = {test.name: embeddings.of(test.selected) for test in self.tests}
        label = np.concatenate([class_codes(part, self.names) for part in self.pool])
        if settings.task == SEGMENTATION:
            valid = {test.name: test.valid_THW for test in self.tests if test.valid_THW is not None}
            return segment(self.plans, train, label, len(self.names), tests, valid, settings.C, settings.seed)
        group, _ = codes_of([unit for part in self.pool for unit in part.unit_T])
        labelled = Labelled(label, group, self.names)
        if settings.task == REGRESSION:
            return regress(self.plans, train, labelled, tests, settings.C)
        predictions = classify(self.plans, train, labelled, tests, settings.C, settings.seed, settings.shots)
        if settings.alignments:
            targets = {
                test.name: Target(
                    tests[test.name], codes_of(test.unit_T)[0], _paired(self.train, test), _mapped(embeddings, test)
                )
                for test in self.tests
            }
            how = settings.alignments, settings.C, settings.seed
            classify_aligned(predictions, self.plans, train, labelled, targets, *how)
        return predictions


def read_probe_task(settings: ProbeSettings, chosen: Sequence[Selection]) -> ProbeTask:
    """Label the tiles of the training selection and of the tests, in this order, and plan the fits.

    Raises CatalogError or ConfigError for invalid labels, groups and folds.
    """
    tests = tuple(label_selection(one, settings.task, "--test") for one in chosen[1:])
    task = _planned(settings, chosen[0], label_selection(chosen[0], settings.task, "--train"), tests)
    names = task.names
    groups = {test.name: codes_of(test.unit_T)[0] for test in tests}
    averaged = {test.name: _averaged(test, names, settings) for test in tests}
    truths = {
        test.name: GroundTruth(class_codes(test, names), groups[test.name], measure_of(test, names, settings))
        for test in tests
    }
    counted = {test.name: tuple(np.array(names)[averaged[test.name]].tolist()) for test in tests} if names else {}
    return replace(task, truths=truths, averaged=counted)


def read_unscored_task(settings: ProbeSettings, source: Selection, target: Selection) -> ProbeTask:
    """A task that predicts the tiles of a target whose labels are not read, if it has any; nothing is scored.

    Raises CatalogError or ConfigError for invalid labels, groups and folds of the source.
    """
    train = label_selection(source, settings.task, "--source")
    return _planned(settings, source, train, (_without_labels(target),))


def _without_labels(selected: Selection) -> LabelledSelection:
    """All tiles of a selection, none of which has a class."""
    return LabelledSelection(selected, np.full(len(selected.index), ""), selected.index.independent_units())


def _planned(
    settings: ProbeSettings, chosen: Selection, train: LabelledSelection, tests: tuple[LabelledSelection, ...]
) -> ProbeTask:
    """A task that is not yet scored. `chosen` is the selection of the training tiles."""
    check_no_leakage(train, tests, settings.cross_fit)
    names = check_classes(train, tests, settings.task)
    validation = None
    if settings.cross_fit is None and settings.C is None:
        validation = validation_selection(train, chosen, tests, settings.task)
    pool = (train,) if validation is None else (train, validation)
    plans, how = _plans(settings, pool, tests, names)
    return ProbeTask(settings, train, pool, tests, names, plans, how, {}, {})


def _plans(
    settings: ProbeSettings,
    pool: tuple[LabelledSelection, ...],
    tests: tuple[LabelledSelection, ...],
    names: tuple[str, ...],
) -> tuple[list[FoldPlan], str]:
    def column(name: str) -> list[Any]:
        return [value for part in pool for value in part.index.tiles[name].tolist()]

    label_P, of_pixels = np.concatenate([part.label_T for part in pool]), settings.task == SEGMENTATION
    if names:  # for segmentation the most frequent class of a tile, for stratification
        label_P = np.array([names.index(label) for label in label_P.tolist()])
    training = TrainingSet(
        label_P, names, column("fold"), column("group"), [unit for part in pool for unit in _units(part, settings)],
        np.repeat([number > 0 for number in range(len(pool))], [len(part) for part in pool]),
        np.concatenate([_holding(class_codes(part, names), names) for part in pool]) if of_pixels else None,
    )  # fmt: skip
    choose = settings.C is None or bool(settings.alignments)  # label shift is estimated on the folds
    seed = settings.seed
    if settings.cross_fit is None:
        plans, how = single_plan(training, {test.name: len(test) for test in tests}, choose, seed)
    else:
        units = {test.name: _units(test, settings) for test in tests}
        plans, how = cross_fit_plans(training, units, settings.cross_fit, choose, seed)
    return plans, how if settings.C is None else ""


def _units(part: LabelledSelection, settings: ProbeSettings) -> list[str]:
    """For each tile the unit that cross-fitting keeps together."""
    if not settings.by_fold:
        return part.unit_T
    folds = part.index.tiles["fold"].tolist()
    return [unit if fold is None else str(fold) for unit, fold in zip(part.unit_T, folds, strict=True)]


def _paired(train: LabelledSelection, test: LabelledSelection) -> bool:
    """Whether both sides show mostly the same places, so that their class shares are about equal."""
    shared = set(train.unit_T) & set(test.unit_T)
    return 2 * len(shared) > max(len(set(train.unit_T)), len(set(test.unit_T)))


def _mapped(embeddings: Embeddings, test: LabelledSelection) -> dict[str, NDArray[np.floating]]:
    """The embeddings of a test set after each radiometry."""
    return {
        method: tiles.embeddings.of(test.selected)
        for (method, name), tiles in embeddings.mapped.items()
        if name == test.name
    }


def _averaged(test: LabelledSelection, names: tuple[str, ...], settings: ProbeSettings) -> NDArray[np.bool_]:
    """The classes in averages: those with enough tiles in the test (for segmentation, tiles that contain them)."""
    codes = class_codes(test, names)
    rows_K = np.count_nonzero(_holding(codes, names), axis=0)
    averaged_K = np.asarray(rows_K >= settings.min_class_rows)
    if names and not averaged_K.any():
        raise ConfigError(
            f"--min-class-rows {settings.min_class_rows}: no class of {test.name} has that many test tiles; the most "
            f"frequent one has {rows_K.max()}"
        )
    return averaged_K


def _holding(codes: NDArray[Any], names: Sequence[str]) -> NDArray[np.bool_]:
    """Which classes (T, K) each tile is of, or contains, given class codes of tiles (T,) or of pixels (T, H, W)."""
    holding_KT = [(codes == code).reshape(len(codes), -1).any(1) for code in range(len(names))]
    return np.asarray(np.array(holding_KT, dtype=bool).reshape(len(names), len(codes)).T)


def measure_of(test: LabelledSelection, names: tuple[str, ...], settings: ProbeSettings) -> Measure:
    """The measure of a test set. Raises ConfigError where no class has enough tiles for averages."""
    if settings.task == REGRESSION:
        return NumberMeasure(float(test.label_T.mean()))
    kind = ClassMeasure if settings.task == CLASSIFICATION else PixelMeasure
    return kind(names, _averaged(test, names, settings))
