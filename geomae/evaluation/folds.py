"""Folds for training, validation and prediction, made once for all encoders.

T tiles (of a test set, where there are two), P tiles of the training set, F folds
"""

import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from geomae.errors import ConfigError
from geomae.evaluation.linear_probe import Folds
from geomae.metrics.predictions import MOST_FOLDS, Codes
from geomae.randomness import key

RARE_CLASS = "The least populated class"  # begins a warning of scikit-learn
_FILTER_LOCK = threading.Lock()


@dataclass(frozen=True)
class TrainingFolds:
    """The fold in which each tile is held out, and a description of the folds."""

    fold_T: Codes
    how: str

    def parts(self) -> list[tuple[Codes, Codes]]:
        """Training tiles and held-out tiles of each fold."""
        places = [np.flatnonzero(self.fold_T == fold) for fold in np.unique(self.fold_T)]
        return [(np.flatnonzero(~np.isin(np.arange(len(self.fold_T)), held)), held) for held in places]


def codes_of(names_T: Sequence[Any] | NDArray[Any]) -> tuple[Codes, list[str]]:
    """Names as codes (T,), and the distinct names in sorted order."""
    codes_T, names = pd.factorize(np.asarray(names_T, dtype=object), sort=True)
    return codes_T.astype(np.int64), [str(name) for name in names]


def assign_groups(label_T: Codes, group_T: Codes, folds: int) -> Codes:
    """Assign whole groups to folds, stratified by class (scikit-learn's greedy StratifiedGroupKFold)."""
    splitter = StratifiedGroupKFold(folds)
    return _numbered(splitter.split(np.zeros(len(label_T)), _strata(label_T, folds), group_T), len(label_T))


def assign_training(
    label_T: NDArray[Any],
    names: Sequence[str],
    fold_T: Sequence[Any],
    group_T: Sequence[Any],
    seed: int,
    *,
    of_pixels: bool = False,
) -> TrainingFolds:
    """Folds to choose a strength by: from the column `fold` where it has several values, else `group`, else tiles.

    There are at most five folds, and no more than groups. `names` are the classes; none for numbers. Raises
    ConfigError for a single tile, and for a class with fewer tiles than folds, unless these are the most frequent
    classes of tiles (`of_pixels`), which hold others, too.
    """
    class_T = label_T if names else quarters(label_T)
    scarce = () if of_pixels else names
    # The column `fold` is that of the groups, unless the catalogue names another one with the key `group.folds`.
    fold_key = "group" if list(fold_T) == list(group_T) else "`group.folds`"
    for named_by, values in ((fold_key, fold_T), ("group", group_T)):
        codes_T, known = codes_of(["" if value is None else str(value) for value in values])
        if len(known) > 1:
            folds = min(MOST_FOLDS, len(known))
            check_rows(label_T, scarce, folds)
            fold_of_T = assign_groups(class_T, codes_T, folds)
            return TrainingFolds(
                fold_of_T,
                f"{len(np.unique(fold_of_T))} folds of the training tiles by {named_by} ({len(known)} groups)",
            )
    folds = min(MOST_FOLDS, len(label_T))
    if folds < 2:
        raise ConfigError(
            "one training tile cannot be divided into folds to choose the strength by; label more tiles, or give "
            "`geomae probe` a --strength"
        )
    check_rows(label_T, scarce, folds)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=key(seed, "folds") % 2**32)
    fold_of_T = _numbered(splitter.split(np.zeros(len(label_T)), _strata(class_T, folds)), len(label_T))
    return TrainingFolds(fold_of_T, f"{folds} random folds of the training tiles, which name no groups")


def quarters(value_T: NDArray[Any]) -> Codes:
    """Numbers as four classes of about equal size, for stratification."""
    return np.searchsorted(np.quantile(value_T, (0.25, 0.5, 0.75)), value_T)


def check_rows(label_T: Codes, names: Sequence[str], folds: int) -> None:
    """Raise ConfigError where a class has fewer tiles than there are folds."""
    for code, name in enumerate(names):
        rows = int((label_T == code).sum())
        if 0 < rows < folds:
            raise ConfigError(
                f"class {name!r} has {rows} training tile{'s' * (rows > 1)}, fewer than the {folds} folds; label more, "
                "leave the class out (`where`, of polygons and rasters `classes`), or give `geomae probe` a --strength "
                "(and fewer folds with --cross-fit)"
            )


def _strata(class_T: Codes, folds: int) -> Codes:
    """The classes to stratify by: one, where each has fewer tiles than there are folds, which scikit-learn refuses."""
    return class_T if np.unique(class_T, return_counts=True)[1].max() >= folds else np.zeros_like(class_T)


def _numbered(splits: Any, tiles: int) -> Codes:
    _ignore_rare_classes()
    fold_T = np.zeros(tiles, dtype=np.int64)
    for number, (_, held_out) in enumerate(splits):
        fold_T[held_out] = number
    return fold_T


def _ignore_rare_classes() -> None:
    """Ignore scikit-learn's warning on rare classes: callers that need every class in every fold check it before.

    The filter is for the whole process, because probes run in threads and `warnings.catch_warnings` is not thread-safe.
    """
    with _FILTER_LOCK:
        if not any(one[1] is not None and one[1].pattern == RARE_CLASS for one in warnings.filters):
            warnings.filterwarnings("ignore", RARE_CLASS, UserWarning)


@dataclass(frozen=True)
class FoldPlan:
    """One fit: the tiles to train on, the folds to choose the strength by, and the tiles of each test to predict.

    All are positions in the training set or in a test set. Test tiles are used for prediction only.
    """

    train: Codes
    folds: Folds
    tests: Mapping[str, Codes]


@dataclass(frozen=True)
class Labelled:
    """The labels of the training set, as class codes or as numbers, its groups, and the names of the classes."""

    label_P: NDArray[Any]
    group_P: Codes
    names: tuple[str, ...]


@dataclass(frozen=True)
class TrainingSet:
    """The training tiles: class codes or numbers, names of the classes, and groups.

    `unit_P` is the independent unit of each tile (group, else block, else tile); `validation_P` marks tiles that are
    used only to choose the strength. Where pixels are predicted, `label_P` is the most frequent class of each tile, and
    `holding_PK` tells which classes it holds.
    """

    label_P: NDArray[Any]
    names: tuple[str, ...]
    fold_P: Sequence[Any]
    group_P: Sequence[Any]
    unit_P: Sequence[str]
    validation_P: NDArray[np.bool_]
    holding_PK: NDArray[np.bool_] | None = None


def single_plan(training: TrainingSet, tests: Mapping[str, int], choose: bool, seed: int) -> tuple[list[FoldPlan], str]:
    """One fit for all tests (number of tiles by name), and a description of what the strength is chosen by."""
    train = np.flatnonzero(~training.validation_P)
    everywhere = {name: np.arange(tiles) for name, tiles in tests.items()}
    if not choose:
        return [FoldPlan(train, (), everywhere)], ""
    if training.validation_P.any():
        held = np.flatnonzero(training.validation_P)
        return [FoldPlan(train, ((train, held),), everywhere)], f"the validation split ({len(held)} tiles)"
    folds, how = _folds(training, train, seed)
    return [FoldPlan(train, folds, everywhere)], how


def cross_fit_plans(
    training: TrainingSet, units: Mapping[str, Sequence[str]], folds: int, choose: bool, seed: int
) -> tuple[list[FoldPlan], str]:
    """One fit per fold of the groups: it is trained without the fold's groups and predicts them in every test.

    `units` are the groups of each test's tiles. Groups that occur only in tests are assigned to folds in turn.
    """
    codes_P, known = codes_of(training.unit_P)
    if len(known) < folds:
        groups = f"{len(known)} group{'s' * (len(known) != 1)}"
        raise ConfigError(f"the training tiles have {groups}, too few for {folds} folds; ask for fewer (--cross-fit)")
    if training.holding_PK is None:
        check_rows(training.label_P, training.names, folds)
    else:
        _check_held(training.holding_PK, training.names)
    class_P = training.label_P if training.names else quarters(training.label_P)
    fold_P = assign_groups(class_P, codes_P, folds)
    fold_of = dict(zip(training.unit_P, fold_P.tolist(), strict=True))
    others = sorted({unit for names in units.values() for unit in names} - set(fold_of))
    fold_of |= {unit: number % folds for number, unit in enumerate(others)}
    plans, how = [], ""
    for fold in range(folds):
        train = np.flatnonzero(fold_P != fold)
        _check_trained(training, train, fold)
        tests = {name: np.flatnonzero([fold_of[unit] == fold for unit in names_T]) for name, names_T in units.items()}
        inner, how = _folds(training, train, seed) if choose else ((), "")
        plans.append(FoldPlan(train, inner, tests))
    return plans, how and f"{how}, separately in each of the {folds} fits"


def _folds(training: TrainingSet, train: Codes, seed: int) -> tuple[list[tuple[Codes, Codes]], str]:
    fold, group = ([values[place] for place in train] for values in (training.fold_P, training.group_P))
    of_pixels = training.holding_PK is not None
    folds_of = assign_training(training.label_P[train], training.names, fold, group, seed, of_pixels=of_pixels)
    return [(train[learn], train[held]) for learn, held in folds_of.parts()], folds_of.how


def _check_held(holding_PK: NDArray[np.bool_], names: Sequence[str]) -> None:
    """Raise ConfigError for a class in one tile: the probe that predicts its pixels has not learned it."""
    for name, tiles in zip(names, holding_PK.sum(0).tolist(), strict=True):
        if tiles == 1:
            raise ConfigError(
                f"class {name!r} is in one training tile, and --cross-fit tests it with a probe that has not learned "
                "it; label more, or leave the class out (of polygons and rasters `classes`)"
            )


def _check_trained(training: TrainingSet, train: Codes, fold: int) -> None:
    label_P, holding_PK = training.label_P[train], training.holding_PK
    classes = len(np.unique(label_P)) if holding_PK is None else int(holding_PK[train].any(0).sum())
    if training.names and classes < 2:
        raise ConfigError(
            f"--cross-fit: without the groups of fold {fold + 1} the training tiles are of one class; ask for more "
            "folds"
        )
