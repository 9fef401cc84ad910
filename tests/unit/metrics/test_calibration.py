"""Calibration finds the distortion of logits, stays bounded where rows tell little, and errors are measured right."""

import json

import numpy as np
import pytest

from geomae.errors import TrainingError
from geomae.metrics.calibration import (
    BINS,
    EXTREME,
    Calibration,
    calibration_error,
    fit_calibration,
    reliability_sums,
    reliability_table,
    softmax,
)
from geomae.metrics.predictions import UNKNOWN


def distorted(rows, seed=0, temperature=3.0, bias=(0.8, -0.5, -0.3)):
    """Logits whose calibrated probabilities are softmax(logits / temperature + bias), and classes drawn from these."""
    rng = np.random.default_rng(seed)
    true_scores = rng.normal(0, 2, (rows, len(bias)))
    label = (softmax(true_scores).cumsum(1) > rng.uniform(size=(rows, 1))).argmax(1)
    return temperature * (true_scores - np.array(bias)), label


def log_loss(probability, label):
    return -np.log(probability[np.arange(len(label)), label]).mean()


def test_temperature_and_biases_are_found():
    logits, label = distorted(20_000)
    calibration = fit_calibration(logits, label)
    assert calibration.temperature == pytest.approx(3, rel=0.03)
    np.testing.assert_allclose(calibration.bias_K, (0.8, -0.5, -0.3), atol=0.05)
    assert calibration.notes == ()
    other, truth = distorted(5000, seed=1)
    assert log_loss(calibration.apply(other), truth) < log_loss(softmax(other), truth) - 0.1


def test_a_constant_added_to_all_logits_of_a_row_changes_nothing():
    logits, label = distorted(300)
    shifted = logits + np.random.default_rng(2).normal(0, 50, (300, 1))
    before, after = fit_calibration(logits, label), fit_calibration(shifted, label)
    assert after.temperature == pytest.approx(before.temperature, rel=1e-3)
    np.testing.assert_allclose(after.apply(shifted), before.apply(logits), atol=1e-3)


def test_a_weight_is_a_row_that_often():
    logits, label = distorted(60)
    weight = np.arange(60) % 3
    repeated = fit_calibration(np.repeat(logits, weight, axis=0), np.repeat(label, weight))
    weighted = fit_calibration(logits, label, weight.astype(float))
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-4)
    np.testing.assert_allclose(weighted.bias_K, repeated.bias_K, atol=1e-4)


def test_rows_without_a_label_have_no_part():
    logits, label = distorted(200)
    more = np.concatenate([logits, 100 * np.ones((50, 3))])
    unlabelled = np.concatenate([label, np.full(50, UNKNOWN)])
    assert fit_calibration(more, unlabelled).record() == fit_calibration(logits, label).record()


@pytest.mark.parametrize("rows", [6, 300])
def test_classes_that_are_separated_leave_it_bounded_and_are_named_so(rows):
    label = np.arange(rows) % 3
    calibration = fit_calibration(0.01 * np.eye(3)[label], label)
    assert 1 / EXTREME <= calibration.temperature < 1
    assert np.isfinite(calibration.bias_K).all()
    assert any(f"all {rows} rows are classified correctly" in note for note in calibration.notes)
    assert any("fewer than 10 rows" in note for note in calibration.notes) == (rows == 6)


def test_logits_that_say_nothing_run_into_the_bound_and_this_is_said():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 3000)
    calibration = fit_calibration(1000 * rng.normal(size=(3000, 3)), label)
    assert calibration.temperature == pytest.approx(EXTREME)
    assert any("bound" in note for note in calibration.notes)


def test_a_class_without_rows_keeps_its_bias_and_one_never_learned_its_nothing():
    logits, label = distorted(2000)
    wider = np.column_stack([logits, np.full(2000, 0.0), np.full(2000, -np.inf)])
    calibration = fit_calibration(wider, label, names=["a", "b", "c", "rare", "never"])
    np.testing.assert_array_equal(calibration.bias_K[3:], 0)
    assert calibration.bias_K[:3].mean() == pytest.approx(0, abs=1e-9)
    assert calibration.temperature == pytest.approx(fit_calibration(logits, label).temperature, rel=1e-3)
    assert any("rare" in note for note in calibration.notes)
    probability = calibration.apply(wider)
    assert (probability[:, 4] == 0).all()
    np.testing.assert_allclose(probability.sum(1), 1)


def test_one_class_leaves_probabilities_as_they_are():
    logits, _ = distorted(20)
    calibration = fit_calibration(logits, np.zeros(20, dtype=int))
    np.testing.assert_allclose(calibration.apply(logits), softmax(logits))
    assert "fewer than two classes" in calibration.notes[-1]


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(TrainingError, match="not finite"):
        fit_calibration(np.array([[np.nan, 0.0]]), np.array([0]))


def test_a_calibration_survives_json():
    calibration = fit_calibration(*distorted(50))
    again = Calibration.of_record(json.loads(json.dumps(calibration.record())))
    assert again.record() == calibration.record()


def test_calibration_error_of_rows_counted_by_hand():
    # Bins of a fifteenth: 0.90 and 0.91 lie in the 14th, 1.0 in the last, the upper end 0.8 in the 12th.
    confidence = np.array([0.90, 0.91, 1.0, 0.8])
    right = np.array([True, False, True, False])
    sums = reliability_sums(np.zeros(4, dtype=int), right, confidence, np.zeros(4, dtype=int), 2, 1)
    assert sums.shape == (1, 2, BINS, 3)
    assert sums[0, 0, [13, 14, 11], 0].tolist() == [2, 1, 1]
    error = calibration_error(sums.sum(1))
    assert error[0] == pytest.approx((2 * abs(0.5 - 0.905) + 0 + 0.8) / 4)
    assert np.isnan(calibration_error(sums[:, 1])[0])  # a class that was never predicted
    table = reliability_table(sums[0].sum(0))
    assert [one.rows for one in table] == [1, 2, 1]
    assert table[1].accuracy == pytest.approx(0.5)
    assert table[1].confidence == pytest.approx(0.905)


def test_calibrated_probabilities_have_a_small_error():
    logits, label = distorted(10_000)
    calibration = fit_calibration(*distorted(10_000, seed=1))

    def error(probability):
        predicted = probability.argmax(1)
        parts = (predicted, predicted == label, probability.max(1), np.zeros(len(label), dtype=int))
        return calibration_error(reliability_sums(*parts, 3, 1).sum(1))[0]

    assert error(calibration.apply(logits)) < 0.015 < 0.1 < error(softmax(logits))
