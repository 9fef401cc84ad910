"""The tasks of a benchmark of encoders, from a catalogue, a file or the command line."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from geomae.catalog import Catalog, Condition, Selector, parse_selector
from geomae.catalog.splits import TRAIN
from geomae.config import Frozen
from geomae.errors import ConfigError, GeomaeError, nearest
from geomae.evaluation.probe_predictions import FEW_LABELS_C, NEIGHBOURS, SHOTS, PredictionKey
from geomae.evaluation.probe_task import CLASSIFICATION, SEGMENTATION, VALIDATION, ProbeSettings, ProbeTask
from geomae.evaluation.probe_task import read_probe_task as read_probe
from geomae.files import digest
from geomae.tiles.selection import Selection, share_bands

LINEAR, PIXELS = "linear", "segmentation"
MEASURES = (LINEAR, *(f"knn{count}" for count in NEIGHBOURS), *(f"{LINEAR}-{shots}" for shots in reversed(SHOTS)))
DOMAIN_FOLDS = 3


class Wish(Frozen):
    """One task. Without `test`, the tiles of `train` are tested, in folds.

    With `folds`, each group (with `by: fold`, each value of the column of `group.folds`) is tested by a probe that was
    not trained on it. `measures` are those that count in a score; empty means all.
    """

    train: str
    test: str | None = None
    folds: int | None = Field(None, ge=2)
    by: Literal["group", "fold"] = "group"
    measures: list[str] = Field([])


class Score(Frozen):
    """The score by which recipes are chosen: the mean of the measures of all tasks."""

    tasks: dict[str, Wish] = Field(min_length=1)


@dataclass(frozen=True)
class Task:
    """A task, ready to be probed; `measures` are the requested ones."""

    name: str
    probe: ProbeTask
    measures: tuple[str, ...]

    @property
    def dataset(self) -> str:
        """The data set of the training labels, which selects the encoder."""
        return self.probe.train.index.name

    @property
    def group(self) -> str:
        """Key of the tasks that share embeddings: the same data sets and bands, and tiles or patches."""
        imagery = {one.index.name: one.imagery.to_dict() for one in self.probe.selections}
        return digest([imagery, self.probe.settings.task])

    def digest(self) -> str:
        """Digest of everything that predictions from given embeddings depend on."""
        settings, parts = self.probe.settings, self.probe.labelled
        labels = [[one.label_T.tolist(), one.unit_T] for one in parts]
        if settings.task == SEGMENTATION:
            labels += [one.pixels_THW.tolist() for one in parts if one.pixels_THW is not None]
        tiles = [[one.name, one.selected.digest()] for one in parts]
        return digest([vars(settings), tiles, labels])

    def describe(self) -> str:
        """One line."""
        settings, tests = self.probe.settings, ", ".join(f"{one.name} ({len(one)})" for one in self.probe.tests)
        column = "the column of folds" if settings.by_fold else "group, block or tile"
        folds = f", in {settings.cross_fit} folds by {column}" if settings.cross_fit else ""
        return f"{self.name}: {settings.task}, {self.probe.train.name} ({len(self.probe.train)}) -> {tests}{folds}"


class Tiles:
    """The tiles of the requested data sets, each indexed once."""

    def __init__(self, whole: Iterable[Selection]) -> None:
        self._whole = {one.index.name: one for one in whole}

    @property
    def datasets(self) -> Mapping[str, Selection]:
        """All tiles of each data set."""
        return self._whole

    def choose(self, selector: Selector) -> Selection:
        """The tiles of a selector. Raises CatalogError if there are none."""
        whole = self._whole[selector.dataset]
        return replace(whole, selector=selector, index=whole.index.select(selector))


def labelled_datasets(catalog: Catalog) -> list[str]:
    """The data sets that may have labels."""
    return [name for name, entry in catalog.entries.items() if entry.label is not None or entry.sample is not None]


def datasets_of(wishes: Mapping[str, Wish]) -> list[str]:
    """The data sets that tasks name."""
    texts = [text for wish in wishes.values() for text in (wish.train, wish.test) if text is not None]
    return list(dict.fromkeys(parse_selector(text).dataset for text in texts))


def parse_tasks(texts: Sequence[str]) -> dict[str, Wish]:
    """Parse texts `NAME: TRAIN -> TEST`. Raises ConfigError for another form and for a repeated name."""
    wishes: dict[str, Wish] = {}
    for text in texts:
        match = re.fullmatch(r"\s*([^:]+?)\s*:\s*(.+?)\s*->\s*(.+?)\s*", text)
        if match is None:
            raise ConfigError(f"--task {text}: write 'NAME: TRAIN -> TEST', two SELECTORs of labelled tiles")
        name, train, test = match.groups()
        if name in wishes:
            raise ConfigError(f"--task {name}: occurs twice; give each task its own name")
        wishes[name] = Wish(train=train, test=test)
    return wishes


def wished_tasks(wishes: Mapping[str, Wish], tiles: Tiles, catalog: Catalog, seed: int) -> list[Task]:
    """The tasks of the wishes; groups in both training and test are tested by probes that were not trained on them."""
    tasks = []
    for name, wish in wishes.items():
        unknown = [one for one in wish.measures if one not in (*MEASURES, PIXELS)]
        if unknown:
            raise ConfigError(f"task {name!r}: measure {unknown[0]!r}; {nearest(unknown[0], (*MEASURES, PIXELS))}")
        train = parse_selector(wish.train)
        test = parse_selector(wish.test) if wish.test is not None else train
        folds = wish.folds or _shared_folds(train, test, tiles)
        tasks.append(_task(name, train, [test], tiles, catalog, seed, folds, wish.by == "fold", wish.measures))
    return tasks


def check_training_only(tasks: Sequence[Task]) -> None:
    """Raise ConfigError if a task of a score uses tiles of another split than `train`."""
    for task in tasks:
        for part in task.probe.labelled:
            others = sorted(set(part.index.tiles["split"].tolist()) - {TRAIN})
            if others:
                raise ConfigError(
                    f"task {task.name!r}: {part.name} has tiles of {', '.join(others)}; recipes are chosen on train "
                    "splits alone: write @train, and folds"
                )


def catalogue_tasks(tiles: Tiles, catalog: Catalog, seed: int) -> tuple[list[Task], list[str]]:
    """Every task from the labels of a catalogue: each train split to its test splits, and one domain to the other.

    Tasks between domains are made if there are two, on the train split (on all tiles, if it is the only split), without
    alignment. Also returns a line with the reason for every data set without a task.
    """
    tasks, left = [], []
    for name, whole in tiles.datasets.items():
        found: list[Task] = []
        reasons: list[str] = []
        for task, train, tests in _possible(name, whole, catalog):
            folds = _shared_folds(train, tests[0], tiles) if train.conditions else None
            try:
                found.append(_task(task, train, tests, tiles, catalog, seed, folds))
            except GeomaeError as error:
                reasons.append(f"{task}: {error}")
        tasks += found
        left += reasons
        if not found and not reasons:
            left.append(f"{name}: has no train split with labels and a test split, and no two domains")
    return tasks, left


def measure_name(key: PredictionKey, task: str) -> str:
    """The name of a prediction in the tables."""
    if task == SEGMENTATION:
        return PIXELS
    return key.method if key.shots is None else f"{key.method}-{key.shots}"


def in_order(measures: Iterable[str]) -> list[str]:
    """The distinct measures in the order of tables and figures: from all labels to one."""
    place = {name: number for number, name in enumerate(MEASURES)}
    return sorted(dict.fromkeys(measures), key=lambda name: place.get(name, len(place)))


def _possible(name: str, whole: Selection, catalog: Catalog) -> Iterator[tuple[str, Selector, list[Selector]]]:
    """Name, training tiles and tests of the possible tasks of a data set."""
    columns = whole.index.tiles
    labelled = columns["label"].notna() | _raster(catalog, name)
    splits = list(dict.fromkeys(columns["split"][labelled].tolist()))
    tests = [Selector(name, split=split) for split in splits if split not in (TRAIN, VALIDATION)]
    if TRAIN in splits and tests:
        yield name, Selector(name, split=TRAIN), tests
    domains = sorted(set(columns["domain"][labelled & (columns["split"] == TRAIN)].tolist()))
    if len(domains) == 2 and not _raster(catalog, name):
        for one, other in (domains, reversed(domains)):
            source, target = (Selector(name, (Condition("domain", "=", (value,)),), TRAIN) for value in (one, other))
            yield f"{name} {one} to {other}", source, [target]


def _task(
    name: str,
    train: Selector,
    tests: Sequence[Selector],
    tiles: Tiles,
    catalog: Catalog,
    seed: int,
    folds: int | None,
    by_fold: bool = False,
    measures: Sequence[str] = (),
) -> Task:
    chosen = {selector: tiles.choose(selector) for selector in (train, *tests)}
    shared = share_bands([chosen[selector] for selector in (train, *tests)])
    kind = SEGMENTATION if _raster(catalog, train.dataset) else CLASSIFICATION
    usual = (PIXELS,) if kind == SEGMENTATION else MEASURES
    wanted = tuple(measures) or usual
    strength = None if {LINEAR, PIXELS} & set(wanted) else FEW_LABELS_C  # other measures do not choose one
    shots = tuple(count for count in SHOTS if f"{LINEAR}-{count}" in wanted)
    settings = ProbeSettings(kind, strength, folds, seed=seed, by_fold=by_fold, shots=shots)
    return Task(name, read_probe(settings, shared), wanted)


def _shared_folds(train: Selector, test: Selector, tiles: Tiles) -> int | None:
    """The folds of a task with groups in both training and test; None without such groups."""
    units = [set(tiles.choose(one).index.independent_units()) for one in (train, test)]
    return DOMAIN_FOLDS if units[0] & units[1] else None


def _raster(catalog: Catalog, dataset: str) -> bool:
    label = catalog.entry(dataset).label
    return label is not None and label.raster is not None
