"""Which tiles are trained on and which are predicted, made once for all encoders.

P tiles of the training side, T tiles of a test set
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.folds import check_rows, codes_of, deal_groups, deal_training, quarters
from geomae.analysis.linear_probe import Folds
from geomae.analysis.scores import Codes
from geomae.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """One fit: the tiles to train on, the folds to choose the strength by, and the tiles of each test to predict.

    All are positions: of the training side, and of the test set. Tests take part in nothing else.
    """

    train: Codes
    folds: Folds
    tests: Mapping[str, Codes]


@dataclass(frozen=True)
class Labelled:
    """The labels of the training side, as class codes or as numbers, its groups, and the names of the classes."""

    label_P: NDArray[Any]
    group_P: Codes
    names: tuple[str, ...]


@dataclass(frozen=True)
class TrainingSide:
    """The tiles to learn from: class codes or numbers, the names of the classes, and what belongs together.

    `unit_P` names what is independent of the rest (group, else block, else tile), `validation_P` the tiles that are
    only there to choose the strength by.
    """

    label_P: NDArray[Any]
    names: tuple[str, ...]
    fold_P: Sequence[Any]
    group_P: Sequence[Any]
    unit_P: Sequence[str]
    validation_P: NDArray[np.bool_]


def single_plan(side: TrainingSide, tests: Mapping[str, int], choose: bool, seed: int) -> tuple[list[Plan], str]:
    """One fit for all tests (number of tiles by name), and in words what the strength is chosen by."""
    train = np.flatnonzero(~side.validation_P)
    everywhere = {name: np.arange(tiles) for name, tiles in tests.items()}
    if not choose:
        return [Plan(train, (), everywhere)], ""
    if side.validation_P.any():
        held = np.flatnonzero(side.validation_P)
        return [Plan(train, ((train, held),), everywhere)], f"the validation split ({len(held)} tiles)"
    folds, how = _folds(side, train, seed)
    return [Plan(train, folds, everywhere)], how


def cross_fit_plans(
    side: TrainingSide, units: Mapping[str, Sequence[str]], folds: int, choose: bool, seed: int
) -> tuple[list[Plan], str]:
    """A fit per fold of the groups: it learns without the fold's groups and predicts them in every test.

    `units` are the groups of each test's tiles. A group that only tests have belongs to the next fold in turn.
    """
    codes_P, known = codes_of(side.unit_P)
    if len(known) < folds:
        raise ConfigError(f"--cross-fit {folds}: the training tiles have {len(known)} groups; ask for fewer folds")
    check_rows(side.label_P, side.names, folds)
    class_P = side.label_P if side.names else quarters(side.label_P)
    fold_P = deal_groups(class_P, codes_P, folds)
    fold_of = dict(zip(side.unit_P, fold_P.tolist(), strict=True))
    others = sorted({unit for names in units.values() for unit in names} - set(fold_of))
    fold_of |= {unit: number % folds for number, unit in enumerate(others)}
    plans, how = [], ""
    for fold in range(folds):
        train = np.flatnonzero(fold_P != fold)
        _check_trained(side, train, fold)
        tests = {name: np.flatnonzero([fold_of[unit] == fold for unit in names_T]) for name, names_T in units.items()}
        inner, how = _folds(side, train, seed) if choose else ((), "")
        plans.append(Plan(train, inner, tests))
    return plans, how and f"{how}, anew in each of the {folds} fits"


def _folds(side: TrainingSide, train: Codes, seed: int) -> tuple[list[tuple[Codes, Codes]], str]:
    fold, group = ([values[place] for place in train] for values in (side.fold_P, side.group_P))
    dealt = deal_training(side.label_P[train], side.names, fold, group, seed)
    return [(train[learn], train[held]) for learn, held in dealt.parts()], dealt.how


def _check_trained(side: TrainingSide, train: Codes, fold: int) -> None:
    if side.names and len(np.unique(side.label_P[train])) < 2:
        raise ConfigError(
            f"--cross-fit: without the groups of fold {fold + 1} the training tiles are of one class; ask for more "
            "folds"
        )
