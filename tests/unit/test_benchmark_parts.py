"""The parts of the benchmark of encoders: how encoders and tasks are written, and what the figures are."""

from types import SimpleNamespace

import numpy as np
import pytest

from geomae.errors import ConfigError
from geomae.evaluation.probe_predictions import PredictionKey, Predictions
from geomae.evaluation.probe_scores import GroundTruth
from geomae.metrics.predictions import ClassMeasure
from pipelines.benchmark_figure import curves
from pipelines.benchmark_runs import parse_contenders, read_predictions, write_predictions
from pipelines.benchmark_scores import Row, resampled_by, score_rows
from pipelines.benchmark_tasks import in_order, parse_tasks


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)


def names(contender, dataset):
    spec = contender.on(dataset)
    return None if spec is None else [(one.label, one.text) for one in spec.references]


def test_an_encoder_of_seeds_and_data_sets(folders):
    pair, plain, random = parse_contenders(["pair=hls*:a,hls*:b,rgb:c", "a"], ["baseline:random"])
    assert names(pair, "hls-seasons") == [("pair-0", "a"), ("pair-1", "b")]
    assert pair.on("hls").seeds == (0, 1)
    assert names(pair, "rgb") == [("pair", "c")]
    assert names(pair, "other") is None
    assert names(plain, "rgb") == [("a", "a")]
    assert (len(random.on("rgb").references), random.on("rgb").seeds) == (5, (0, 1, 2, 3, 4))
    assert [one.baseline for one in (pair, plain, random)] == [False, False, True]


def test_a_baseline_that_is_named_is_not_added(folders):
    assert [one.label for one in parse_contenders(["base=baseline:random"], ["baseline:random"])] == ["base"]


def test_a_pattern_that_meets_nothing_is_refused(folders):
    (one,) = parse_contenders(["x=hsl:a"])
    with pytest.raises(ConfigError, match=r"no task trains on a data set 'hsl'; .*hls"):
        one.check(["hls", "rgb"])


def test_tasks_of_the_command_line():
    ((name, wish),) = parse_tasks(["far away: hls[season=a]@train -> hls@test_far"]).items()
    assert (name, wish.train, wish.test) == ("far away", "hls[season=a]@train", "hls@test_far")
    with pytest.raises(ConfigError, match="twice"):
        parse_tasks(["a: b -> c", "a: b -> d"])


def test_predictions_are_read_as_they_were_written(tmp_path):
    predictions = Predictions(C_values=[0.1])
    predictions.predicted = {
        PredictionKey("t", "linear"): [np.array([0, 1])],
        PredictionKey("t", "linear", 5): [np.array([1, 1]), np.array([0, 1])],
    }
    write_predictions(tmp_path / "x" / "p.npz", predictions, {"t": 3.5})
    back, ranks = read_predictions(tmp_path / "x" / "p.npz")
    assert ranks == {"t": 3.5}
    assert back.C_values == [0.1]
    assert list(back.predicted) == list(predictions.predicted)
    for key, draws in predictions.predicted.items():
        np.testing.assert_array_equal(back.predicted[key], draws)


@pytest.mark.parametrize(("groups", "resampled"), [(9, 40), (10, 10)])
def test_tiles_stand_for_groups_where_there_are_too_few(groups, resampled):
    measure = ClassMeasure(("a", "b"), np.array([True, True]))
    truth = GroundTruth(np.zeros(40, dtype=np.int64), np.arange(40) % groups, measure)
    assert resampled_by(truth).groups == resampled


def row(encoder, task, measure, value, seed=None):
    return Row(encoder, seed, task, task, measure, value, None, None, 1, 1)


def test_a_score_needs_every_measure_and_is_told_for_each_seed():
    tasks = [SimpleNamespace(name="a", measures=("linear", "knn5")), SimpleNamespace(name="b", measures=("linear-5",))]
    rows = [row("x", "a", "linear", 0.3), row("x", "a", "knn5", 0.6), row("x", "a", "knn20", 0.9)]
    assert score_rows(rows, tasks) == []
    rows += [row("x", "b", "linear-5", 0.9), row("y", "b", "linear-5", 0.1)]
    for seed, value in ((0, 0.2), (1, 0.4)):
        rows += [row("x", "a", "linear", value, seed), row("x", "a", "knn5", 0.6, seed)]
    rows += [row("x", "b", "linear-5", 1.0, 0)]
    assert [(one.encoder, one.seed, round(one.value, 6)) for one in score_rows(rows, tasks)] == [
        ("x", None, 0.6),
        ("x", 0, 0.6),
    ]


def test_measures_stand_from_all_labels_to_one():
    assert in_order(["linear-1", "knn5", "linear-10", "linear"]) == ["linear", "knn5", "linear-10", "linear-1"]


def test_curves_are_those_of_minutes():
    rows = [row("x-2min", "t", "linear", 0.6), row("x-0.5min", "t", "linear", 0.5), row("y", "t", "linear", 0.4)]
    rows += [row("x-2min", "t", "knn5", 0.9)]
    (curve,) = curves(rows, ["x-2min", "x-0.5min", "y"], scored=False)
    assert curve.lines == {"x": [(0.5, 0.5), (2.0, 0.6)]}
    assert curve.level == {"y": 0.4}
    assert curves(rows, ["x-2min", "y"], scored=False) == []
    assert curves(rows, ["x-2min", "x-0.5min"], scored=True) == []
