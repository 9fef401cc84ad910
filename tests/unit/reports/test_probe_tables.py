"""Sentences about probes: classes that a test hardly has."""

from types import SimpleNamespace

import numpy as np
import pytest

from geomae.evaluation.probe_scores import GroundTruth, Support
from geomae.evaluation.probe_task import ProbeSettings
from geomae.metrics.predictions import ClassMeasure, PixelMeasure
from geomae.reports.probe_tables import explain_blanks, explain_shots, weak_classes

NAMES = ("crop", "tree", "water")


def task_of(*tiles_and_groups, averaged=NAMES):
    """A task with one test set, whose class number k has so many tiles in so many groups."""
    label = np.concatenate([np.full(tiles, code) for code, (tiles, _) in enumerate(tiles_and_groups)])
    group = np.concatenate([np.arange(tiles) % max(groups, 1) for tiles, groups in tiles_and_groups])
    truth = GroundTruth(label, group, ClassMeasure(NAMES, np.isin(NAMES, averaged)))
    return SimpleNamespace(
        names=NAMES, tests=[SimpleNamespace(name="t")], truths={"t": truth}, averaged={"t": averaged}
    )


def test_the_support_of_classes_of_tiles_and_of_pixels():
    assert task_of((30, 12), (7, 2), (0, 0)).truths["t"].support(NAMES) == {
        "crop": Support(30, 12), "tree": Support(7, 2), "water": Support(0, 0),
    }  # fmt: skip
    pixels = np.array([[[0, 0], [0, 2]], [[2, 2], [0, -1]], [[-1, -1], [-1, 2]]])
    truth = GroundTruth(pixels, np.array([0, 0, 1]), PixelMeasure(NAMES, np.ones(3, dtype=bool)))
    assert truth.support(NAMES) == {"crop": Support(2, 1), "tree": Support(0, 0), "water": Support(3, 2)}


@pytest.mark.parametrize(
    ("support", "weak"),
    [((0, 0), False), ((4, 4), True), ((5, 3), False), ((50, 2), True)],
)
def test_a_class_is_weak_with_few_tiles_or_groups(support, weak):
    assert Support(*support).weak is weak


def test_the_remedy_leaves_out_no_class_that_is_well_covered():
    assert not [*weak_classes(task_of((30, 12), (20, 5), (0, 0)))]
    (said,) = weak_classes(task_of((30, 12), (20, 5), (2, 1)))
    assert said.endswith("test on more groups with it, or leave it out of averages with --min-class-rows 3")
    (said,) = weak_classes(task_of((30, 12), (20, 5), (25, 1)))  # 26 would leave out tree as well
    assert "water has 25 tiles in 1 group" in said
    assert said.endswith("test on more groups with it")
    assert not [*weak_classes(task_of((30, 12), (20, 5), (2, 1), averaged=("crop", "tree")))]


def test_empty_cells_have_their_reasons():
    task = task_of((30, 12), (20, 5), (0, 0))
    task.settings = ProbeSettings()
    assert [*explain_blanks(task)] == [
        "t has no tile of water: there is no recall, and precision and F1, where the class was predicted, are 0.",
        "t has tree in fewer than 10 groups, too few for an interval.",
    ]
    full = task_of((30, 12), (20, 10), (20, 10))
    full.settings = ProbeSettings()
    assert not [*explain_blanks(full)]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((60, 50), []),
        (
            (60, 9),
            ["Not with 10 or 50 labels per class: every class needs so many training tiles, and tree has 9 tiles."],
        ),
        ((60, 20), ["Not with 50 labels per class: every class needs so many training tiles, and tree has 20 tiles."]),
    ],
)
def test_numbers_of_labels_that_a_class_lacks_are_explained(counts, said):
    label = np.repeat(["crop", "tree"], counts)
    part = SimpleNamespace(pixels_THW=None, label_T=label)
    plan = SimpleNamespace(train=np.arange(len(label)))
    task = SimpleNamespace(settings=ProbeSettings(), names=("crop", "tree"), pool=[part], plans=[plan])
    assert [*explain_shots(task)] == said
    task.plans = [plan, SimpleNamespace(train=np.arange(len(label) - 5))]
    assert "tiles in one of the fits." in next(explain_shots(task))


def test_an_interval_is_mentioned_only_where_there_is_one():
    (said,) = weak_classes(task_of((30, 6), (4, 3), (1, 1)))
    assert "tree has 4 tiles in 3 groups, water has 1 tile in 1 group, too few" in said
    assert "interval" not in said
    assert said.endswith("test on more groups with them, or leave them out of averages with --min-class-rows 5")
