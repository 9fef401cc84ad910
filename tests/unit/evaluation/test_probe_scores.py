"""The rows of probe.csv: intervals over groups, paired differences, and folds that keep groups apart.

T tiles, G groups, K classes
"""

from types import MappingProxyType

import numpy as np
import pytest

from geomae.errors import ConfigError
from geomae.evaluation.folds import FoldPlan, TrainingSet, cross_fit_plans, single_plan
from geomae.evaluation.linear_probe import C_VALUES, class_shares, draw_patches
from geomae.evaluation.probe_predictions import Labelled, PredictionKey, Predictions, classify, regress, segment
from geomae.evaluation.probe_scores import COLUMNS, TO_BASELINE, TO_FIRST, EncoderResult, GroundTruth, ProbeRow, score
from geomae.metrics.predictions import (
    UNKNOWN,
    ClassMeasure,
    NumberMeasure,
    PixelMeasure,
    balanced_accuracy,
    confusion,
    group_interval,
    resample_groups,
)

NAMES = ("crop", "tree", "water")
ASKED = PredictionKey("test", "linear")


def truth_of(tiles=240, groups=12, seed=0, averaged=(True, True, True)):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, tiles)
    group[:groups] = np.arange(groups)
    return GroundTruth(rng.integers(0, 3, tiles), group, ClassMeasure(NAMES, np.array(averaged)))


def predicted(truth, right, seed):
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random(len(truth.label_T)) < right, truth.label_T, rng.integers(0, 3, len(truth.label_T)))
    return Predictions({ASKED: [codes]})


def contenders(truth):
    return [
        EncoderResult("good", False, [predicted(truth, 0.9, 1)]),
        EncoderResult("other", False, [predicted(truth, 0.85, 2)]),
        EncoderResult("statistics", True, [predicted(truth, 0.3, 3)]),
        EncoderResult("random", True, [predicted(truth, 0.5, seed) for seed in (4, 5)], (0, 1)),
    ]


def row_of(rows, encoder, metric, of="all", seed=None):
    (found,) = [r for r in rows if (r.encoder, r.metric, r.of, r.seed) == (encoder, metric, of, seed)]
    return found


def test_intervals_are_those_of_resampled_groups():
    truth = truth_of()
    found = score(contenders(truth), {"test": truth}, 3)
    codes = found_codes = predicted(truth, 0.9, 1).predicted[ASKED][0]

    def statistic(weight):
        counts = np.zeros((3, 3))
        np.add.at(counts, (truth.label_T, codes), weight)
        return float(balanced_accuracy(counts))

    row = row_of(found.rows, "good", "balanced_accuracy")
    assert row.value == pytest.approx(balanced_accuracy(confusion(truth.label_T, found_codes, 3)))
    assert row.interval == pytest.approx(group_interval(statistic, truth.group_T, 3))
    assert row.interval[0] < row.value < row.interval[1]
    assert score(contenders(truth), {"test": truth}, 3).rows == found.rows


def test_seeds_have_rows_of_their_own_and_their_mean_stands_for_them():
    truth = truth_of()
    rows = score(contenders(truth), {"test": truth}, 0).rows
    singles = [row_of(rows, "random", "accuracy", seed=seed).value for seed in (0, 1)]
    assert row_of(rows, "random", "accuracy").value == pytest.approx(np.mean(singles))
    assert singles[0] != singles[1]


def test_differences_are_paired():
    truth = truth_of()
    found = score(contenders(truth), {"test": truth}, 0)
    assert found.best_baseline == {ASKED: "random"}
    rows = found.rows
    value = {name: row_of(rows, name, "balanced_accuracy").value for name in ("good", "other", "random")}
    better = row_of(rows, "good", TO_BASELINE)
    assert better.value == pytest.approx(value["good"] - value["random"])
    assert 0 < better.interval[0] < better.value < better.interval[1]
    assert row_of(rows, "other", TO_FIRST).value == pytest.approx(value["other"] - value["good"])
    assert not [r for r in rows if (r.encoder, r.metric) in (("good", TO_FIRST), ("random", TO_BASELINE))]
    same = [EncoderResult(name, False, [predicted(truth, 0.9, 1)]) for name in ("a", "b")]
    twin = row_of(score(same, {"test": truth}, 0).rows, "b", TO_FIRST)
    assert (twin.value, twin.interval) == (0, (0, 0))


def test_too_few_groups_have_no_interval():
    truth = truth_of(groups=9)
    assert all(row.interval is None for row in score(contenders(truth), {"test": truth}, 0).rows)
    assert resample_groups(9, 0) is None
    many = truth_of()
    rare = GroundTruth(np.where((many.label_T == 2) & (many.group_T > 3), 0, many.label_T), many.group_T, many.measure)
    rows = score(contenders(rare), {"test": rare}, 0).rows
    assert row_of(rows, "good", "recall", "water").interval is None  # four groups hold water
    assert row_of(rows, "good", "recall", "crop").interval is not None


def test_averages_are_over_the_classes_that_were_asked_for():
    truth = truth_of(averaged=(True, False, True))
    rows = score(contenders(truth), {"test": truth}, 0).rows
    recalls = [row_of(rows, "good", "recall", name).value for name in ("crop", "water")]
    assert row_of(rows, "good", "balanced_accuracy").value == pytest.approx(np.mean(recalls))


def test_few_labels_are_a_mean_and_a_spread():
    truth = truth_of()
    few = PredictionKey("test", "linear", 5)
    answers = predicted(truth, 0.9, 1)
    answers.predicted[few] = [predicted(truth, 0.5, seed).predicted[ASKED][0] for seed in range(10)]
    rows = [r for r in score([EncoderResult("one", False, [answers])], {"test": truth}, 0).rows if r.shots == 5]
    each = [float(np.mean(codes == truth.label_T)) for codes in answers.predicted[few]]
    assert row_of(rows, "one", "accuracy").value == pytest.approx(np.mean(each))
    assert row_of(rows, "one", "accuracy_std").value == pytest.approx(np.std(each, ddof=1))
    assert {row.of for row in rows} == {"all"}


def test_a_row_has_the_columns_of_the_table():
    row = ProbeRow("e", "t", "linear", "accuracy", 0.5, (0.4, 0.6), 5, "tree", 3).csv_row(
        {"task": "", "train": "", "align": "none", "n_train": 1, "n_test": 2, "n_groups": 3, "chosen": "true"}
    )
    assert tuple(row) == COLUMNS
    assert [row[name] for name in ("shots", "class", "low", "high", "seed")] == [5, "tree", 0.4, 0.6, 3]


def test_numbers_are_measured_as_scikit_learn_does():
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    rng = np.random.default_rng(0)
    truth, guess = rng.normal(1000, 2, 50), rng.normal(1000, 2, 50)
    measure = NumberMeasure(float(truth.mean()))
    values = measure.values(measure.sums(truth, guess, np.arange(50) % 7, 7).sum(0))
    wanted = {"r2": r2_score, "rmse": root_mean_squared_error, "mae": mean_absolute_error}
    assert {name for name, _ in values} == set(wanted)
    for name, theirs in wanted.items():
        assert values[name, "all"] == pytest.approx(theirs(truth, guess))


def test_numbers_that_are_all_the_same_have_no_interval_of_r2():
    truth = GroundTruth(np.full(40, 0.3), np.arange(40) % 12, NumberMeasure(0.3))
    guesses = {"good": np.linspace(0.2, 0.4, 40), "other": np.linspace(0.1, 0.4, 40)}
    results = [EncoderResult(name, False, [Predictions({ASKED: [guess]})]) for name, guess in guesses.items()]
    rows = score(results, {"test": truth}, 0).rows
    for of_r2 in (row_of(rows, "good", "r2"), row_of(rows, "other", TO_FIRST)):
        assert np.isnan(of_r2.value) and of_r2.interval is None
    assert row_of(rows, "good", "rmse").interval is not None


def test_numbers_that_are_all_the_same_have_no_r2():
    """Their spread is rounding, also beside other groups and in their resamples."""
    truth, group = np.array([0.3] * 9 + [7.7] * 5), np.array([0] * 9 + [1] * 5)
    measure = NumberMeasure(float(truth.mean()))
    sums = measure.sums(truth, truth + 0.3, group, 2)
    for one in sums:
        values = measure.values(one)
        assert np.isnan(values["r2", "all"]) and values["rmse", "all"] == pytest.approx(0.3)
    assert measure.values(sums.sum(0))["r2", "all"] == pytest.approx(1 - 0.09 / truth.var())


def side(tiles=120, groups=12, validation=0):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, tiles)
    units = [f"g{number % groups}" for number in range(tiles)]
    held = np.arange(tiles) >= tiles - validation
    return TrainingSet(label, NAMES, units, units, units, held)


def test_cross_fitting_never_tests_a_group_that_it_learned_from():
    train = side()
    tests = {"one": [f"g{number % 15}" for number in range(90)], "two": ["g3"] * 5}
    plans, how = cross_fit_plans(train, tests, 3, True, 0)
    assert "separately in each of the 3 fits" in how
    unit = np.array(train.unit_P)
    for name, units in tests.items():
        places = np.concatenate([plan.tests[name] for plan in plans])
        assert sorted(places) == list(range(len(units)))  # each tile is tested once
    for plan in plans:
        learned = set(unit[plan.train])
        for name, units in tests.items():
            assert not learned & {units[place] for place in plan.tests[name]}
        for learn, held in plan.folds:
            assert set(learn) | set(held) == set(plan.train)
            assert not set(unit[learn]) & set(unit[held])
    with pytest.raises(ConfigError, match=r"the training tiles have 12 groups, too few for 20 folds"):
        cross_fit_plans(train, tests, 20, True, 0)


def test_the_strength_is_chosen_on_the_validation_split_where_there_is_one():
    (plan,), how = single_plan(side(validation=20), {"one": 4}, True, 0)
    assert how == "the validation split (20 tiles)"
    ((learn, held),) = plan.folds
    assert (learn.tolist(), held.tolist()) == (list(range(100)), list(range(100, 120)))
    assert plan.train.tolist() == learn.tolist()
    (plan,), how = single_plan(side(), {"one": 4}, False, 0)
    assert (plan.folds, how) == ((), "")


def clouds(tiles, seed, features=6):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, tiles)
    return (np.eye(3, features)[label] * 2 + rng.normal(size=(tiles, features))).astype(np.float32), label


def test_labels_of_a_test_are_nothing_that_a_probe_is_given():
    train, label = clouds(120, 0)
    test, truth = clouds(100, 1)
    known = side()
    plans, _ = single_plan(known, {"test": 100}, True, 0)
    labelled = Labelled(label, np.arange(120) % 12, NAMES)
    answers = classify(plans, train, labelled, {"test": test}, None, 0)
    assert set(answers.C_values) <= set(C_VALUES)
    assert {asked.method for asked in answers.predicted} == {"linear", "knn5", "knn20"}
    assert {asked.shots for asked in answers.predicted} == {None, 1, 5, 10}
    group = np.arange(100) % 10
    figures = []
    for labels in (truth, np.random.default_rng(5).permutation(truth)):
        again = classify(plans, train, labelled, MappingProxyType({"test": test}), None, 0)
        assert again.C_values == answers.C_values
        for asked, draws in answers.predicted.items():
            np.testing.assert_array_equal(again.predicted[asked], draws)
        rows = score(
            [EncoderResult("e", False, [again])], {"test": GroundTruth(labels, group, truth_of().measure)}, 0
        ).rows
        figures.append(next(row.value for row in rows if row.metric == "balanced_accuracy" and row.shots is None))
    assert figures[0] > 0.6 > 0.45 > figures[1]


def test_a_number_of_labels_that_a_class_lacks_in_one_fit_is_left_out_of_all():
    """Otherwise the tiles that this fit tests are without a prediction, and count as predicted to be of class 0."""
    train, label = clouds(60, 0)
    first = np.flatnonzero(label == 0)
    short = np.concatenate([first[:3], np.flatnonzero(label)])
    test, _ = clouds(40, 1)
    places = np.arange(40)
    plans = [
        FoldPlan(np.arange(60), (), {"test": places[:20]}),
        FoldPlan(short, (), {"test": places[20:]}),
    ]
    answers = classify(plans, train, Labelled(label, np.arange(60), NAMES), {"test": test}, 1.0, 0)
    assert {asked.shots for asked in answers.predicted} == {None, 1}


def test_numbers_are_regressed():
    train, label = clouds(120, 0)
    test, truth = clouds(100, 1)
    plans, _ = single_plan(TrainingSet(label * 2.0, (), [None] * 120, [None] * 120, ["x"] * 120, np.zeros(120, bool)),
                           {"test": 100}, True, 0)  # fmt: skip
    answers = regress(plans, train, Labelled(label * 2.0, np.zeros(120, np.int64), ()), {"test": test}, None)
    assert set(answers.predicted) == {PredictionKey("test", method) for method in ("linear", "knn5", "knn20")}
    measure = NumberMeasure(float(truth.mean() * 2))
    for codes in answers.predicted.values():
        assert measure.values(measure.sums(truth * 2.0, codes[0], np.zeros(100, np.int64), 1)[0])["r2", "all"] > 0.3


def test_class_shares_count_known_pixels():
    pixels = np.full((1, 4, 6), UNKNOWN, dtype=np.int16)
    pixels[0, :2, :3], pixels[0, 2:, :3], pixels[0, 2, 5] = 1, 0, 1
    shares = class_shares(pixels, 2, 2, 2)
    assert shares.shape == (1, 2, 2, 2)
    np.testing.assert_allclose(shares[0, 0, 0], [0, 1])
    np.testing.assert_allclose(shares[0, 1, 0], [1, 0])
    np.testing.assert_allclose(shares[0, 1, 1], [0, 1 / 6])
    assert draw_patches(shares, 0).tolist() == [0, 2, 3]
    assert len(draw_patches(shares, 0, most=2)) == 2


def test_segmentation_finds_fields_and_scores_known_pixels():
    rng = np.random.default_rng(0)
    field = rng.integers(0, 3, (40, 4, 4))
    patches = (np.eye(3, 6)[field] * 4 + rng.normal(size=(40, 4, 4, 6))).astype(np.float32)
    pixels = field.repeat(8, 1).repeat(8, 2).astype(np.int16)
    pixels[:, 0] = UNKNOWN
    known = TrainingSet(field[:20, 0, 0], NAMES, [None] * 20, [None] * 20, ["x"] * 20, np.zeros(20, bool))
    plans, _ = single_plan(known, {"test": 20}, True, 0)
    answers = segment(
        plans, patches[:20], pixels[:20], 3, {"test": patches[20:]}, {"test": pixels[20:] > UNKNOWN}, None, 0
    )
    (codes,) = answers.predicted[ASKED]
    assert codes.shape == (20, 32, 32)
    measure = PixelMeasure(NAMES, np.ones(3, bool))
    sums = measure.sums(pixels[20:], codes, np.arange(20), 20)
    assert sums.sum() == 20 * 31 * 32
    values = measure.values(sums.sum(0))
    assert values["mean_iou", "all"] == pytest.approx(np.mean([values["iou", name] for name in NAMES]))
    assert values["mean_iou", "all"] > 0.6


def test_patches_without_a_valid_pixel_have_no_part_in_the_scores_of_their_neighbours():
    """As in maps. Their embeddings look most like a class that the valid pixels beside them do not have."""
    rng = np.random.default_rng(0)
    field = rng.integers(0, 3, (40, 4, 4))
    field[20:, :, 1:] = 1
    patches = (np.eye(3, 6)[field] * 4 + rng.normal(size=(40, 4, 4, 6)) / 4).astype(np.float32)
    patches[20:, :, 0], patches[20:, :, 1] = [40, 0, 0, 0, 0, 0], [1.3, 1.6, 1.3, 0, 0, 0]  # sure and unsure
    pixels = field.repeat(8, 1).repeat(8, 2).astype(np.int16)
    seen = np.ones((20, 32, 32), dtype=bool)
    seen[:, :, :8] = False
    plans = [FoldPlan(np.arange(20), (), {"test": np.arange(20)})]
    given = plans, patches[:20], pixels[:20], 3, {"test": patches[20:]}
    ((codes,),) = segment(*given, {"test": seen}, 1.0, 0).predicted.values()
    assert (codes[:, :, 8:] == 1).all()
    ((bled,),) = segment(*given, {"test": np.ones_like(seen)}, 1.0, 0).predicted.values()
    assert (bled[:, :, 8] == 0).all()
