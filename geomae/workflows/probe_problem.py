"""The question that all encoders are asked: tiles, labels, folds and tests, read before any encoder is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.aligned_probing import classify_aligned
from geomae.analysis.folds import codes_of
from geomae.analysis.measures import ClassMeasure, Measure, NumberMeasure, PixelMeasure
from geomae.analysis.plans import Labelled, Plan, TrainingSide, cross_fit_plans, single_plan
from geomae.analysis.probe_rows import Truth
from geomae.analysis.probing import Answers, classify, regress, segment
from geomae.catalog import Catalog
from geomae.errors import ConfigError
from geomae.workflows.probe_embed import Embeddings
from geomae.workflows.probe_request import CLASSIFICATION, REGRESSION, SEGMENTATION, Request
from geomae.workflows.probe_sides import (
    Side,
    check_apart,
    check_classes,
    codes,
    labelled_side,
    validation_side,
)
from geomae.workflows.selected import Selected


@dataclass(frozen=True)
class Problem:
    """Sides, plans and truths. `pool` are the sides that fits may look at: train, and the validation split if any.

    `how` says in words what the strength is chosen by; it is empty for a fixed one. `averaged` are the classes whose
    scores are averaged, by test.
    """

    request: Request
    train: Side
    pool: tuple[Side, ...]
    tests: tuple[Side, ...]
    names: tuple[str, ...]
    plans: list[Plan]
    how: str
    truths: Mapping[str, Truth]
    averaged: Mapping[str, tuple[str, ...]]

    @property
    def sides(self) -> tuple[Side, ...]:
        """All that has to be embedded."""
        return (*self.pool, *self.tests)

    def answer(self, embeddings: Embeddings) -> Answers:
        """What an encoder predicts. The labels of the tests have no part in it."""
        request = self.request
        train = np.concatenate([embeddings.of(side.selected) for side in self.pool])
        tests = {side.name: embeddings.of(side.selected) for side in self.tests}
        label = np.concatenate([codes(side, self.names) for side in self.pool])
        seed = request.common.seed
        if request.task == SEGMENTATION:
            return segment(self.plans, train, label, len(self.names), tests, request.strength, seed)
        group, _ = codes_of([unit for side in self.pool for unit in side.unit_T])
        labelled = Labelled(label, group, self.names)
        if request.task == REGRESSION:
            return regress(self.plans, train, labelled, tests, request.strength)
        answers = classify(self.plans, train, labelled, tests, request.strength, seed)
        if request.alignments:
            paired = {side.name: _paired(self.train, side) for side in self.tests}
            asked = (request.alignments, request.strength, paired)
            classify_aligned(answers, self.plans, train, labelled, tests, *asked)
        return answers


def read_problem(request: Request, chosen: Sequence[Selected], catalog: Catalog) -> Problem:
    """Label the tiles of the training selection and of the tests, in this order, and plan the fits.

    Raises CatalogError or ConfigError for labels, groups and folds that cannot be.
    """
    train = labelled_side(chosen[0], catalog, request.task, "--train")
    tests = tuple(labelled_side(one, catalog, request.task, "--test") for one in chosen[1:])
    check_apart(train, tests, request.cross_fit)
    names = check_classes(train, tests, request.task)
    validation = None
    if request.cross_fit is None and request.strength is None:
        validation = validation_side(train, chosen[0], tests, catalog, request.task)
    pool = (train,) if validation is None else (train, validation)
    plans, how = _plans(request, pool, tests, names)
    groups = {side.name: codes_of(side.unit_T)[0] for side in tests}
    averaged = {side.name: _averaged(side, names, request) for side in tests}
    truths = {
        side.name: Truth(codes(side, names), groups[side.name], _measure(side, names, averaged[side.name], request))
        for side in tests
    }
    counted = {side.name: tuple(np.array(names)[averaged[side.name]].tolist()) for side in tests} if names else {}
    return Problem(request, train, pool, tests, names, plans, how, truths, counted)


def _plans(
    request: Request, pool: tuple[Side, ...], tests: tuple[Side, ...], names: tuple[str, ...]
) -> tuple[list[Plan], str]:
    def column(name: str) -> list[Any]:
        return [value for side in pool for value in side.index.tiles[name].tolist()]

    label_P = np.concatenate([side.label_T for side in pool])
    if names:  # for segmentation the most frequent class of a tile, which keeps folds even
        label_P = np.array([names.index(label) for label in label_P.tolist()])
    side = TrainingSide(
        label_P, names, column("fold"), column("group"), [unit for side in pool for unit in side.unit_T],
        np.repeat([number > 0 for number in range(len(pool))], [len(side) for side in pool]),
    )  # fmt: skip
    choose = request.strength is None or bool(request.align)  # label shift is estimated on the folds, too
    seed = request.common.seed
    if request.cross_fit is None:
        plans, how = single_plan(side, {test.name: len(test) for test in tests}, choose, seed)
    else:
        units = {test.name: test.unit_T for test in tests}
        plans, how = cross_fit_plans(side, units, request.cross_fit, choose, seed)
    return plans, how if request.strength is None else ""


def _paired(train: Side, test: Side) -> bool:
    """Whether both sides show mostly the same places: then classes are about as frequent in one as in the other."""
    shared = set(train.unit_T) & set(test.unit_T)
    return 2 * len(shared) > max(len(set(train.unit_T)), len(set(test.unit_T)))


def _averaged(side: Side, names: tuple[str, ...], request: Request) -> NDArray[np.bool_]:
    """Which classes count in averages: those with enough tiles in the test (for segmentation, tiles that hold them)."""
    found = codes(side, names)
    rows_K = np.array([(found == code).reshape(len(found), -1).any(1).sum() for code in range(len(names))], dtype=int)
    averaged_K = rows_K >= request.min_class_rows
    if names and not averaged_K.any():
        raise ConfigError(
            f"--min-class-rows {request.min_class_rows}: no class of {side.name} has that many test tiles; the most "
            f"frequent one has {rows_K.max()}"
        )
    return averaged_K


def _measure(side: Side, names: tuple[str, ...], averaged_K: NDArray[np.bool_], request: Request) -> Measure:
    if request.task == REGRESSION:
        return NumberMeasure(float(side.label_T.mean()))
    return (ClassMeasure if request.task == CLASSIFICATION else PixelMeasure)(names, averaged_K)
