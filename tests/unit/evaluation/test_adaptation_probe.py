"""The share of a gap that was closed, and the oracle that it is measured by.

T tiles, G groups
"""

from types import SimpleNamespace

import numpy as np
import pytest

from geomae.evaluation.adaptation_probe import (
    Estimate,
    cross_fitted,
    gain,
    paired_estimates,
    probe_target,
    share_closed,
)
from geomae.evaluation.probe_predictions import PredictionKey
from geomae.metrics.predictions import ClassMeasure
from geomae.reports.adaptation_tables import summarize_labels

MEASURE = ClassMeasure(("a", "b"), np.array([True, True]))
DERIVED = {"change": gain("after"), "share_closed": share_closed("after")}


def predictions(groups=12, each=10):
    """Labels, groups, and predictions of which `before` errs in half, `after` in a quarter, the oracle never."""
    label_T = np.tile([0, 1], groups * each // 2)
    group_T = np.repeat(np.arange(groups), each)
    place_T = np.arange(len(label_T)) // 2
    wrong = {"before": place_T % 2 == 0, "after": place_T % 4 == 0, "oracle": np.zeros(len(label_T), bool)}
    return label_T, group_T, {name: [np.where(one, 1 - label_T, label_T)] for name, one in wrong.items()}


def test_the_share_is_told_with_a_paired_interval():
    label_T, group_T, predicted = predictions()
    found = paired_estimates(predicted, label_T, group_T, MEASURE, 0, DERIVED)
    assert found["before"].value == pytest.approx(0.5, abs=0.02)
    assert found["change"].value == pytest.approx(found["after"].value - found["before"].value)
    assert found["share_closed"].value == pytest.approx(found["change"].value / (1 - found["before"].value))
    low, high = found["share_closed"].interval
    assert low < found["share_closed"].value < high


def test_a_figure_of_several_draws_is_their_mean():
    label_T, group_T, predicted = predictions()
    draws = [*predicted["before"], *predicted["oracle"]]
    found = paired_estimates(predicted | {"few": draws}, label_T, group_T, MEASURE, 0, {"few_change": gain("few")})
    assert found["few"].value == pytest.approx((found["before"].value + found["oracle"].value) / 2)
    assert found["few_change"].interval[0] < found["few_change"].value < found["few_change"].interval[1]


def test_without_two_tiles_of_a_class_there_is_no_oracle():
    tile = np.arange(2)
    assert cross_fitted(np.eye(2), tile, tile, 2) is None


def test_few_groups_carry_no_interval_and_no_gap_has_no_share():
    label_T, group_T, predicted = predictions(groups=4)
    assert paired_estimates(predicted, label_T, group_T, MEASURE, 0, DERIVED)["change"].interval is None
    label_T, group_T, predicted = predictions()
    found = paired_estimates(predicted | {"oracle": predicted["before"]}, label_T, group_T, MEASURE, 0, DERIVED)
    assert np.isnan(found["share_closed"].value)
    assert found["share_closed"].interval is None


def test_the_oracle_never_saw_the_group_that_it_is_asked():
    """Labels that follow the group alone can be remembered and not learned."""
    rng = np.random.default_rng(0)
    group_T = np.repeat(np.arange(10), 12)
    label_T = group_T % 2
    remembered_TD = np.eye(10)[group_T]
    learnt_TD = label_T[:, None] + 0.1 * rng.normal(size=(120, 3))
    assert (cross_fitted(learnt_TD, label_T, group_T, 2) == label_T).all()
    assert (cross_fitted(remembered_TD, label_T, group_T, 2) == label_T).mean() < 0.7
    assert cross_fitted(learnt_TD, label_T, np.zeros(120, dtype=np.int64), 2) is None


def asked(averaged):
    """A task of classes a and b whose test tiles have the classes `averaged`, and embeddings before and after."""
    codes = [("a", "b").index(name) for name in averaged]
    label_T, group_T = np.resize(codes, 60), np.arange(60) // 2
    truth = SimpleNamespace(label_T=label_T, group_T=group_T, measure=MEASURE, groups=30)
    test, train = SimpleNamespace(name="t", selected="t"), SimpleNamespace(name="s", unit_T=np.zeros(4), selected="s")
    told = {PredictionKey("t", "linear"): [np.resize([0, 1], 60)]}
    task = SimpleNamespace(tests=(test,), truths={"t": truth}, names=("a", "b"), averaged={"t": averaged}, train=train)
    task.predict = lambda embeddings: SimpleNamespace(predicted=told)
    embeddings = SimpleNamespace(of=lambda selected: label_T[:, None] + np.zeros((60, 2)))
    return task, {"before": embeddings}


def test_one_class_of_the_target_gives_no_oracle_and_no_probe_of_few_labels():
    assert {"oracle", "labels-5"} <= probe_target(*asked(("a", "b")), seed=0)[0].keys()
    assert probe_target(*asked(("a",)), seed=0)[0].keys() == {"before"}


def test_what_labels_say_is_told_in_words():
    def said(averaged, **target):
        task, _ = asked(averaged)
        known = {name: Estimate(value) for name, value in target.items()}
        return summarize_labels(task, SimpleNamespace(target=known, metric="balanced_accuracy"))

    both = ("a", "b")
    assert "stayed on t at 1.000 balanced accuracy" in said(both, before=1.0, after=1.0, change=0.0)
    text = said(both, before=0.7, after=0.8, change=0.1, oracle=0.3, share_closed=np.nan)
    assert "rose on t from 0.700 to 0.800 balanced accuracy" in text and "(0.300) is worse than before" in text
    assert "a probe of the target itself cannot be judged by one class, a" in said(("a",), before=1.0)
