"""The rows of accuracy.csv agree with scikit-learn, part by part as at once, and intervals are over groups."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, r2_score, recall_score

from geomae.evaluation.accuracy import COLUMNS, MapAccuracy, number_rows, sample_rows
from geomae.metrics.area import estimate_from_sample
from geomae.metrics.predictions import UNKNOWN

NAMES = ("crop", "tree", "water")
GROUPS, PER_GROUP, PIXELS = 24, 2, 30
DOMAINS = np.repeat(["brown", "green"], GROUPS * PER_GROUP // 2)
UNITS = [f"site {number}" for number in np.repeat(np.arange(GROUPS), PER_GROUP)]


def pixels(seed=0):
    """Tile, truth, prediction and confidence of pixels; some are not labelled, some are not predicted."""
    rng = np.random.default_rng(seed)
    tile = np.repeat(np.arange(GROUPS * PER_GROUP), PIXELS)
    truth = rng.integers(UNKNOWN, 3, len(tile))
    predicted = np.where(rng.uniform(size=len(tile)) < 0.7, np.maximum(truth, 0), rng.integers(UNKNOWN, 3, len(tile)))
    return tile, truth, predicted, rng.uniform(0.4, 1, len(tile))


def assessed(rows, parts=1):
    accuracy = MapAccuracy(NAMES, DOMAINS.tolist(), UNITS)
    for part in np.array_split(np.random.default_rng(1).permutation(len(rows[0])), parts):
        accuracy.add(*(column[part] for column in rows))
    return accuracy


def values(rows, domain="all"):
    return {(row.metric, row.of): row.value for row in rows if row.domain == domain}


@pytest.mark.parametrize("domain", ["all", "green"])
def test_figures_are_those_of_scikit_learn(domain):
    tile, truth, predicted, confidence = pixels()
    found = values(assessed((tile, truth, predicted, confidence)).rows("hls", seed=0), domain)
    known = (truth != UNKNOWN) & (predicted != UNKNOWN) & ((domain == "all") | (DOMAINS[tile] == domain))
    true, said = truth[known], predicted[known]
    assert found["accuracy", "all"] == pytest.approx(accuracy_score(true, said))
    assert found["f1", "all"] == pytest.approx(f1_score(true, said, average="macro"))
    assert found["mean_iou", "all"] == pytest.approx(jaccard_score(true, said, average="macro"))
    by_class = {"users_accuracy": precision_score, "producers_accuracy": recall_score, "f1": f1_score}
    for metric, score in by_class.items():
        assert [found[metric, name] for name in NAMES] == pytest.approx(score(true, said, average=None))
    sure = confidence[known]
    bins = np.ceil(sure * 15)
    off = [abs((true == said)[bins == one].sum() - sure[bins == one].sum()) for one in np.unique(bins)]
    assert found["ece", "all"] == pytest.approx(sum(off) / len(sure))


def test_parts_add_up():
    once, parts = assessed(pixels()), assessed(pixels(), parts=7)
    np.testing.assert_array_equal(once.confusion, parts.confusion)
    assert values(once.rows("hls", 0)) == pytest.approx(values(parts.rows("hls", 0)))
    assert sum(one.rows for one in once.reliability) == once.confusion.sum()


def test_intervals_are_over_groups_and_tiles_and_groups_are_counted():
    rows = assessed(pixels()).rows("hls", seed=0)
    overall = next(row for row in rows if row.domain == "all" and row.metric == "accuracy")
    assert (overall.tiles, overall.groups) == (48, 24)
    green = next(row for row in rows if row.domain == "green" and row.metric == "accuracy")
    assert (green.tiles, green.groups) == (24, 12)
    for row in (overall, green):
        assert row.interval[0] < row.value < row.interval[1]
    assert list(overall.csv_row()) == list(COLUMNS)
    # All pixels of a group are right, or none: what varies are groups, of which there are few.
    tile, truth, _, confidence = pixels()
    right = np.where(tile // PER_GROUP % 2 == 0, truth, (truth + 1) % 3)
    (clustered,) = (
        row
        for row in assessed((tile, truth, np.where(truth == UNKNOWN, truth, right), confidence)).rows("hls", 0)
        if row.domain == "all" and row.metric == "accuracy"
    )
    assert clustered.interval[1] - clustered.interval[0] == pytest.approx(4 * 0.5 / np.sqrt(GROUPS), rel=0.15)


def test_fewer_than_ten_groups_have_no_interval_and_a_class_that_few_hold_neither():
    tile, truth, predicted, confidence = pixels()
    few = MapAccuracy(NAMES, ["all of it"] * 48, [f"site {number % 9}" for number in range(48)])
    few.add(tile, truth, predicted, confidence)
    rows = few.rows("hls", 0)
    assert {row.domain for row in rows} == {"all"}  # of one domain alone there is nothing more to say
    assert all(row.interval is None for row in rows)
    assert rows[0].csv_row()["low"] == ""
    water_in_few = np.where((truth == 2) & (tile >= 9 * PER_GROUP), 0, truth)
    by_class = {
        row.of: row.interval
        for row in assessed((tile, water_in_few, predicted, confidence)).rows("hls", 0)
        if row.domain == "all" and row.metric == "producers_accuracy"
    }
    assert by_class["water"] is None
    assert by_class["tree"] is not None


def test_a_class_that_is_nowhere_has_no_rows_and_does_not_lower_means():
    tile, truth, predicted, confidence = pixels()
    without = [np.minimum(one, 1) for one in (truth, predicted)]
    found = values(assessed((tile, *without, confidence)).rows("hls", 0))
    assert ("producers_accuracy", "water") not in found
    assert found["f1", "all"] == pytest.approx((found["f1", "crop"] + found["f1", "tree"]) / 2)


def test_tiles_without_labels_do_not_count():
    tile, truth, predicted, confidence = pixels()
    truth = np.where(tile < 4, UNKNOWN, truth)
    rows = assessed((tile, truth, predicted, confidence)).rows("hls", 0)
    assert (rows[0].tiles, rows[0].groups) == (44, 22)
    assert assessed((tile, np.full_like(truth, UNKNOWN), predicted, confidence)).rows("hls", 0) == []


def test_numbers_have_rows_of_their_own():
    rng = np.random.default_rng(0)
    truth = rng.normal(50, 10, 48)
    predicted = truth + rng.normal(0, 3, 48)
    rows = number_rows("biomass", truth, predicted, DOMAINS.tolist(), UNITS, seed=0)
    assert values(rows)["r2", "all"] == pytest.approx(r2_score(truth, predicted))
    assert {row.metric for row in rows} == {"r2", "rmse", "mae"}
    assert all(row.interval is not None for row in rows)


def test_reference_points_have_rows_with_the_intervals_of_their_design():
    mapped = np.repeat([0, 1], 50)
    reference = np.where(np.arange(100) % 10 == 0, 1 - mapped, mapped)
    estimate = estimate_from_sample(mapped, mapped, reference, np.array([30.0, 70.0]), 2, NAMES[:2])
    rows = sample_rows("points.gpkg", estimate, NAMES[:2])
    assert (rows[0].metric, rows[0].value, rows[0].tiles) == ("accuracy", pytest.approx(0.9), 100)
    margin = 1.96 * np.sqrt((0.3**2 + 0.7**2) * 0.09 / 49)
    assert rows[0].interval == pytest.approx((0.9 - margin, 0.9 + margin))
    assert [(row.metric, row.of) for row in rows[1:]] == [
        (metric, name) for metric in ("users_accuracy", "producers_accuracy") for name in NAMES[:2]
    ]


def test_an_accuracy_of_reference_points_without_an_interval_says_why():
    mapped = np.repeat([0, 1], [40, 3])
    reference = np.where(np.arange(43) < 4, 1, mapped)
    estimate = estimate_from_sample(mapped, mapped, reference, np.array([90.0, 10.0]), 2, NAMES[:2])
    rows = {(row.metric, row.of): row for row in sample_rows("points.gpkg", estimate, NAMES[:2])}
    certain = rows["users_accuracy", NAMES[1]]
    assert certain.interval is None
    assert certain.csv_row()["note"] == "not estimable: no variation among 3 points"
    assert rows["users_accuracy", NAMES[0]].note == ""
    # Each row rests on its own points, and points have no groups.
    assert [rows[key].tiles for key in (("accuracy", "all"), ("users_accuracy", NAMES[1]))] == [43, 3]
    assert rows["producers_accuracy", NAMES[1]].tiles == 7
    assert certain.csv_row()["n_groups"] == ""
