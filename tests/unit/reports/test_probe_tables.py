"""Sentences about probes: classes that a test hardly has."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from geomae.evaluation.probe_scores import GroundTruth, Support
from geomae.evaluation.probe_task import ProbeSettings
from geomae.metrics.predictions import ClassMeasure, PixelMeasure, resample_groups
from geomae.reports.probe_tables import class_warnings, explain_blanks, explain_interval, explain_shots

NAMES = ("crop", "tree", "water")


def task_of(*tiles_and_groups, averaged=NAMES):
    """A task with one test set, whose class number k has so many tiles in so many groups."""
    label = np.concatenate([np.full(tiles, code) for code, (tiles, _) in enumerate(tiles_and_groups)])
    group = np.concatenate([np.arange(tiles) % max(groups, 1) for tiles, groups in tiles_and_groups])
    truth = GroundTruth(label, group, ClassMeasure(NAMES, np.isin(NAMES, averaged)))
    return SimpleNamespace(
        names=NAMES, tests=[SimpleNamespace(name="t")], truths={"t": truth}, averaged={"t": averaged},
        settings=ProbeSettings(),
    )  # fmt: skip


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
    (said,) = class_warnings(task_of((30, 12), (20, 5), (2, 1)))
    assert said.endswith("test on more groups with it, or leave it out of averages with --min-class-rows 3")
    (said,) = class_warnings(task_of((30, 12), (20, 5), (25, 1)))  # 26 would leave out tree as well
    assert "water has 25 tiles in 1 group" in said
    assert said.endswith("test on more groups with it")
    assert not [*class_warnings(task_of((30, 12), (20, 5), (2, 1), averaged=("crop", "tree")))]


def test_a_class_without_a_tile_is_named_with_the_classes_that_are_averaged():
    lacking = task_of((30, 12), (20, 5), (0, 0), averaged=("crop", "tree"))
    assert [*class_warnings(lacking)] == [
        "t: no tile of water, so balanced accuracy is the mean of 2 of 3 classes; test on tiles of it, too, or give "
        "--cross-fit 3 and the same tiles for --train and --test"
    ]
    lacking.settings = ProbeSettings(cross_fit=3)
    assert next(class_warnings(lacking)).endswith("; test on tiles of it, too")


def test_the_share_of_resamples_without_a_class_is_that_of_the_bootstrap():
    (said,) = class_warnings(task_of((60, 20), (20, 5), (9, 2)))
    counts_RG = resample_groups(20, 0)
    assert counts_RG is not None
    share = np.mean(counts_RG[:, :2].sum(1) == 0)
    told = re.search(r"about (\d+)% of its resamples lack water and average the other classes alone", said)
    assert told is not None
    assert abs(int(told[1]) / 100 - share) < 0.03
    (said,) = class_warnings(task_of((60, 20), (20, 5), (4, 4)))
    assert "about 1% of its resamples lack water" in said
    (said,) = class_warnings(task_of((8, 8), (20, 10), (4, 4)))
    assert "fewer than 1% of its resamples lack water" in said


def test_a_missing_interval_has_its_reason():
    assert [*explain_interval(task_of((30, 8), (20, 5), (9, 3)), "t")] == [
        "t: no 95 % intervals, since they take 10 groups, and it has 8."
    ]
    assert not [*explain_interval(task_of((30, 10), (20, 5), (9, 3)), "t")]


def test_empty_cells_have_their_reasons():
    task = task_of((30, 12), (20, 5), (0, 0))
    assert [*explain_blanks(task)] == [
        "t has no tile of water: there is no recall, and precision and F1, where the class was predicted, are 0.",
        "t has tree in fewer than 10 groups, too few for an interval.",
    ]
    full = task_of((30, 12), (20, 10), (20, 10))
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
    (said,) = class_warnings(task_of((30, 6), (4, 3), (1, 1)))
    assert "tree has 4 tiles in 3 groups, water has 1 tile in 1 group, too few" in said
    assert "interval" not in said
    assert said.endswith("test on more groups with them, or leave them out of averages with --min-class-rows 5")
