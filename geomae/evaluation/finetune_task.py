"""The task of a fine-tuning: labelled tiles for training, for validation (held out) and for testing.

T tiles, P tiles of the train selection, K classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import Catalog
from geomae.encoders.own_models import OwnEncoder
from geomae.errors import BandMismatchError, CatalogError, ConfigError, nearest
from geomae.evaluation.folds import TrainingSet, assign_groups, codes_of, quarters, single_plan
from geomae.evaluation.probe_scores import GroundTruth
from geomae.evaluation.probe_task import (
    LabelledSelection,
    ProbeSettings,
    ProbeTask,
    class_codes,
    label_selection,
    measure_of,
    occurring_classes,
    tile_keys,
)
from geomae.metrics.predictions import UNKNOWN
from geomae.models.class_colours import colours_of
from geomae.models.criterion import Criterion
from geomae.models.folder import Model
from geomae.models.head_record import (
    CLASSIFICATION,
    REGRESSION,
    SEGMENTATION,
    TASKS,
    HeadRecord,
)
from geomae.sensors.record import SensorRecord
from geomae.tiles.labelled_batches import LabelledTiles
from geomae.tiles.learned_tiles import record_tiles
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import Selection, index_gsd_m, overlapping
from geomae.training.finetuning import FinetuneJob, class_weights
from geomae.training.finetuning_config import FinetuneConfig
from geomae.training.starts import OwnStart
from geomae.training.supervised import LabelledPart

HOLD_OUT = 5  # one in so many groups is held out
FEW_NUMBERS = 20  # up to so many distinct whole numbers, labels may be class codes


@dataclass(frozen=True)
class FinetuneTask:
    """Labelled tiles for training and testing. `how` describes what was held out, `records` the sensor of each test."""

    task: str
    seed: int
    model: Model  # extended by the sensor of the training tiles
    learned: LabelledSelection
    held: LabelledSelection
    tests: tuple[LabelledSelection, ...]
    names: tuple[str, ...]
    codes: tuple[int | None, ...]
    record: SensorRecord
    records: Mapping[str, SensorRecord]
    truths: Mapping[str, GroundTruth]
    how: str
    notes: tuple[str, ...]

    def part(self, one: LabelledSelection, memory_mb: int) -> LabelledPart:
        """Tiles with their labels: class codes, or numbers in their unit."""
        record = self.records.get(one.name, self.record)
        reader = self._readers.get(id(one)) or TileReader(
            one.index, memory_mb * 1024**2, [band.name for band in record.bands]
        )
        if any(one is known for known in (self.learned, self.held, *self.tests)):
            self._readers[id(one)] = reader
        return LabelledPart(one.name, LabelledTiles(reader, class_codes(one, self.names)), record)

    @cached_property
    def _readers(self) -> dict[int, TileReader]:
        """Readers of the task's own selections, by identity: their tiles are decoded once for all trainings."""
        return {}

    def job(self, config: FinetuneConfig, learned: LabelledSelection | None = None) -> FinetuneJob:
        """The job of training; with `learned`, on these tiles only and without held-out tiles."""
        part = self.part(learned or self.learned, config.memory_mb // 2)
        held = None if learned is not None else self.part(self.held, config.memory_mb // 4)
        record, weight_K = self.head(config, part.tiles.label_T), None
        if self.task == REGRESSION:
            part, held = _standardised(part, record), None if held is None else _standardised(held, record)
        elif config.balances(self.task):
            weight_K = class_weights(part.tiles.label_T, len(self.names))
        criterion = Criterion(self.task, weight_K, config.smoothing if self.names else 0.0)
        return FinetuneJob(self.model.using(self.record), record, criterion, part, held, self.seed)

    def head(self, config: FinetuneConfig, label_T: NDArray[Any]) -> HeadRecord:
        """The record of the head, not yet calibrated."""
        shares: tuple[float, ...] = ()
        if self.names:
            count_K = np.bincount(label_T[label_T >= 0].ravel().astype(np.int64), minlength=len(self.names))
            balanced = config.balances(self.task)
            shares = tuple(((count_K > 0) / (count_K > 0).sum() if balanced else count_K / count_K.sum()).tolist())
        numbers = self.task == REGRESSION
        return HeadRecord(
            kind=config.head or ("conv" if self.task == SEGMENTATION else "linear"),
            task=self.task,
            classes=self.names,
            codes=self.codes,
            colours=colours_of(self.names),
            class_shares=shares,
            mean=float(label_T.mean()) if numbers else 0.0,
            std=float(label_T.std()) if numbers else 1.0,
            bands=tuple(band.name for band in self.record.bands),
            sensor=self.record.name,
            gsd_m=self.record.gsd_m,
            tile=int(self.learned.index.tiles["size"].mode()[0]),
            layer=read_layer(config, self.model),
        )

    def tiles_behind(self) -> dict[str, dict[str, Any]]:
        """Training and held-out tiles, as stored in a model folder."""
        return {self.learned.index.name: record_tiles(self.learned.index, [self.held.index])}

    def probe(self, shots: tuple[int, ...]) -> ProbeTask:
        """The task of a probe of the frozen encoder with the same training, held-out and test tiles."""
        settings = ProbeSettings(self.task, seed=self.seed, shots=shots)
        pool = (self.learned, self.held)
        label_P = np.concatenate([one.label_T for one in pool])
        if self.names:
            place = {name: code for code, name in enumerate(self.names)}
            label_P = np.array([place[label] for label in label_P.tolist()])

        def column(name: str) -> list[Any]:
            return [value for part in pool for value in part.index.tiles[name].tolist()]

        units = [unit for part in pool for unit in part.unit_T]
        held_P = np.repeat([False, True], [len(one) for one in pool])
        training = TrainingSet(label_P, self.names, column("fold"), column("group"), units, held_P)
        plans, how = single_plan(training, {test.name: len(test) for test in self.tests}, True, self.seed)
        return ProbeTask(settings, self.learned, pool, self.tests, self.names, plans, how, self.truths, {})


def read_finetune_task(
    catalog: Catalog, chosen: Sequence[Selection], start: OwnStart, task: str | None, config: FinetuneConfig, seed: int
) -> FinetuneTask:
    """Label the tiles of the train selection and of the tests, in this order, and hold some out of the first.

    Raises CatalogError, ConfigError, BandMismatchError or ModelError where the selections cannot be used.
    """
    notes: list[str] = []
    task = task or task_of_labels(chosen[0])
    check_head(config, task)
    train = label_selection(chosen[0], task, "--train")
    names = _class_names(train, task)
    tests = [label_selection(one, task, "--eval") for one in chosen[1:]]
    _check_disjoint(train, tests, notes)
    tests = [_with_known_classes(test, names, notes) for test in tests] if names else tests
    start = start.with_sensor(chosen[0].imagery, notes)
    record, said = start.fit(chosen[0].imagery, ())
    notes += said
    record = replace(record, gsd_m=index_gsd_m(train.index))
    records = {}
    for test in tests:
        records[test.name], said = start.fit(test.selected.imagery, ())
        _check_bands(test.name, record, records[test.name], task, config)
        notes += [f"{test.name}: {one}" for one in said if test.index.name != train.index.name]
    for part in (train, *tests):
        for size in sorted(set(part.index.tiles["size"].tolist())):
            OwnEncoder(start.model, text=f"{part.name}, --model").patch_grid(size, size)
    held_T, how = hold_out(train, names)
    learned, held = train.take(np.flatnonzero(~held_T)), train.take(np.flatnonzero(held_T))
    held = replace(held, called=f"{train.name}-held-out")
    _check_learned(learned, train, names)
    notes += [f"{part.name}: {part.unlabelled} tiles without a label are left out" for part in (train, *tests)
              if part.unlabelled]  # fmt: skip
    tested = tuple(tests) or (held,)
    if not tests:
        notes.append("no --eval: figures are of the held-out tiles, which chose steps and rate, and are optimistic")
    truths = {
        test.name: GroundTruth(
            class_codes(test, names), codes_of(test.unit_T)[0], measure_of(test, names, ProbeSettings(task))
        )
        for test in tested
    }
    return FinetuneTask(
        task, seed, start.model, learned, held, tested, names, _codes(catalog, train, names), record, records, truths,
        how, tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def task_of_labels(selected: Selection) -> str:
    """The task that fits the labels of a selection. Raises ConfigError where they are ambiguous."""
    index = selected.index
    if index.labels is not None:
        raise ConfigError(
            f"--train {selected.name}: its labels are of pixels, which can be learned pixel by pixel or tile by tile; "
            f"say --task {SEGMENTATION} or --task {CLASSIFICATION}"
        )
    texts = {str(text) for text in index.tiles["label"].tolist() if text is not None}
    numbers = [number for text in texts if (number := _number(text)) is not None]
    if len(numbers) < len(texts) or not texts:
        return CLASSIFICATION  # a missing label is reported later
    if len(texts) <= FEW_NUMBERS and all(number == int(number) for number in numbers):
        raise ConfigError(
            f"--train {selected.name}: labels are whole numbers ({', '.join(sorted(texts)[:5])}), which may be codes "
            f"of classes or amounts; say --task {CLASSIFICATION} or --task {REGRESSION}"
        )
    return REGRESSION


def check_head(config: FinetuneConfig, task: str) -> None:
    """Raise ConfigError for an unknown task, and for a head that does not fit the task."""
    if task not in TASKS:
        raise ConfigError(f"--task {task}: {nearest(task, TASKS)}")
    if config.head == "conv" and task != SEGMENTATION:
        raise ConfigError(f"head: conv predicts pixels, and --task {task} is of tiles; --set head=linear")


def read_layer(config: FinetuneConfig, model: Model) -> int:
    """The last block that the head reads. Raises ConfigError where the encoder has no such block."""
    shape = model.mae.architecture
    if config.layer is not None and config.layer > shape.depth:
        raise ConfigError(f"layer: there is no block {config.layer}; the encoder has blocks 1 to {shape.depth}")
    return config.layer or shape.middle


def hold_out(train: LabelledSelection, names: Sequence[str]) -> tuple[NDArray[np.bool_], str]:
    """The tiles (P,) to hold out: about a fifth, as whole groups (else blocks, else tiles), stratified by class; and a
    description. Raises CatalogError where there are too few groups.
    """
    units_P, known = codes_of(train.unit_T)
    if len(known) < 2:
        raise CatalogError(
            f"--train {train.name}: its {len(train)} labelled tiles are of one group, and whole groups "
            "are held out; label tiles of other groups"
        )
    place = {name: code for code, name in enumerate(names)}
    class_P = np.array([place[one] for one in train.label_T.tolist()]) if names else quarters(train.label_T)
    fold_P = assign_groups(class_P, units_P, min(HOLD_OUT, len(known)))

    def unfit(fold: int) -> tuple[int, float]:
        """The number of classes that would be missing in training; the deviation from a fifth of the tiles."""
        left_P = fold_P != fold
        return len(np.unique(class_P)) - len(np.unique(class_P[left_P])), abs(1 / HOLD_OUT - (1 - float(left_P.mean())))

    held_P = fold_P == min(range(int(fold_P.max()) + 1), key=unfit)
    grouped = len(known) < len(train)
    what = f"{len(np.unique(units_P[held_P]))} of {len(known)} groups" if grouped else "tiles, which name no groups"
    return held_P, f"{held_P.sum()} of {len(train)} labelled tiles are held out, by {what}"


def _class_names(train: LabelledSelection, task: str) -> tuple[str, ...]:
    """The classes in the training tiles, in order; none for numbers. Raises CatalogError for fewer than two."""
    if task == REGRESSION:
        if np.ptp(train.label_T) == 0:  # their standard deviation may be rounding, not 0
            raise CatalogError(f"--train {train.name}: all labels are {train.label_T[0]:g}; there is nothing to learn")
        return ()
    names = tuple(occurring_classes(train))
    if len(names) < 2:
        raise CatalogError(
            f"--train {train.name}: all {len(train)} labelled tiles have the label {names[0]!r}; a classifier "
            "needs two or more"
        )
    return names


def _check_disjoint(train: LabelledSelection, tests: Sequence[LabelledSelection], notes: list[str]) -> None:
    """Raise ConfigError where a test shares tiles or groups with the training tiles; notes count overlapping tiles."""
    for test in tests:
        tiles = set(tile_keys(train)) & set(tile_keys(test))
        groups = sorted(set(train.unit_T) & set(test.unit_T)) if train.index.name == test.index.name else []
        if tiles or groups:
            what = (
                f"{len(tiles)} of its tiles are (such as {min(tiles)[1]})"
                if tiles
                else (f"{len(groups)} of its groups are (such as {groups[0]})")
            )
            raise ConfigError(
                f"--eval {test.name}: {what} in --train {train.name} too, so that scores would measure "
                "memorisation; choose selectors that share none"
            )
        shared = int(overlapping(test.index, train.index).sum())
        notes += [f"{test.name}: {shared} tiles overlap tiles of {train.name}, which makes scores optimistic"] * (
            shared > 0
        )


def _with_known_classes(test: LabelledSelection, names: Sequence[str], notes: list[str]) -> LabelledSelection:
    """A test without tiles of classes that are not trained (their pixels are not scored); notes name these classes."""
    never = [name for name in occurring_classes(test) if name not in names]
    if not never:
        return test
    if test.pixels_THW is None:
        known_T = np.isin(test.label_T, names)
    else:
        known_T = (class_codes(test, names) != UNKNOWN).any((1, 2))
    left = "their tiles are" if test.pixels_THW is None else "their pixels are"
    notes.append(f"{test.name}: classes that are not in --train: {', '.join(never)}; {left} not scored")
    if not known_T.any():
        raise CatalogError(f"--eval {test.name}: none of its classes ({', '.join(never)}) is in --train; choose others")
    return test.take(np.flatnonzero(known_T))


def _check_learned(learned: LabelledSelection, train: LabelledSelection, names: Sequence[str]) -> None:
    if not names and np.ptp(learned.label_T) == 0:
        raise CatalogError(
            f"--train {train.name}: all labels but those of the held-out groups are {learned.label_T[0]:g}; there is "
            "nothing to learn, so label other groups"
        )
    gone = [name for name in names if name not in occurring_classes(learned)] if names else []
    if gone:
        raise CatalogError(
            f"--train {train.name}: all tiles of {', '.join(gone)} are in the held-out groups; "
            "label other groups, or leave the class out with `where`"
        )


def _check_bands(name: str, own: SensorRecord, other: SensorRecord, task: str, config: FinetuneConfig) -> None:
    """Raise BandMismatchError where a conv head, which reads pixels, would be tested on other bands."""
    conv = (config.head or ("conv" if task == SEGMENTATION else "linear")) == "conv"
    bands, others = ([band.name for band in one.bands] for one in (own, other))
    if conv and bands != others:
        raise BandMismatchError(
            f"--eval {name}: has the bands {', '.join(others)}, and the conv head takes {', '.join(bands)}; choose "
            "tiles of the same bands, or --set head=linear"
        )


def _codes(catalog: Catalog, train: LabelledSelection, names: Sequence[str]) -> tuple[int | None, ...]:
    """The code of each class in the label raster, the lowest where it has several; None where labels have no codes."""
    label = catalog.entry(train.index.name).label
    classes = (label.classes if label is not None else None) or {}
    of_name: dict[str, int] = {}
    for code, name in sorted(classes.items()):
        of_name.setdefault(name, int(code))
    return tuple(of_name.get(name) for name in names)


def _standardised(part: LabelledPart, record: HeadRecord) -> LabelledPart:
    label_T = ((part.tiles.label_T - record.mean) / record.std).astype(np.float32)
    return replace(part, tiles=replace(part.tiles, label_T=label_T))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
