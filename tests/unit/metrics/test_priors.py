"""Class shares of resampled sets are found from probabilities, and what makes them doubtful is said."""

import numpy as np
import pytest

from geomae.metrics.calibration import fit_calibration, softmax
from geomae.metrics.priors import correct_probabilities, estimate_shares, most_likely_shares, reasons_not_to_trust

NAMES = ("crops", "forest", "houses", "meadow", "water")
TRAINED = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
TARGETS = {
    "equal": np.full(5, 0.2),
    "turned round": TRAINED[::-1].copy(),
    "one in most": np.array([0.05, 0.8, 0.05, 0.05, 0.05]),
    "one missing": np.array([0.4, 0.3, 0.0, 0.2, 0.1]),
}
CENTRES = 1.15 * np.random.default_rng(5).normal(size=(5, 8))


def scenes(share, tiles, seed):
    """Features of tiles whose classes have exactly these shares, and the classes."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(5), np.round(share * tiles).astype(int))
    return CENTRES[label] + rng.normal(size=(len(label), 8)), label


def distorted_logits(features):
    """Those of a model trained with the shares TRAINED, too sure of itself by 2.5 and wrong in its biases."""
    scores = features @ CENTRES.T - 0.5 * (CENTRES**2).sum(1) + np.log(TRAINED)
    return 2.5 * scores + np.array([2.0, -1.5, 1.0, 0.0, -1.5])


@pytest.fixture(scope="module")
def calibration():
    features, label = scenes(TRAINED, 1000, seed=100)
    return fit_calibration(distorted_logits(features), label)


@pytest.mark.parametrize("target", TARGETS)
def test_shares_of_resampled_sets_are_found(calibration, target):
    for seed in range(3):
        features, label = scenes(TARGETS[target], 1000, seed)
        share, settled = most_likely_shares(calibration.apply(distorted_logits(features)), TRAINED)
        assert settled
        np.testing.assert_allclose(share, np.bincount(label, minlength=5) / len(label), atol=0.03)
        assert share.sum() == pytest.approx(1)


def test_it_takes_the_calibration_of_biases():
    features, label = scenes(TARGETS["turned round"], 1000, seed=0)
    share, _ = most_likely_shares(softmax(distorted_logits(features)), TRAINED)
    assert np.abs(share - np.bincount(label) / 1000).max() > 0.03


def test_correction_helps_where_shares_differ_and_changes_little_where_they_do_not(calibration):
    for target, least, most in ((TRAINED, -0.005, 0.005), (TARGETS["one in most"], 0.01, 1)):
        features, label = scenes(target, 1000, seed=1)
        probability = calibration.apply(distorted_logits(features))
        share, _ = most_likely_shares(probability, TRAINED)
        corrected = correct_probabilities(probability, TRAINED, share)
        np.testing.assert_allclose(corrected.sum(1), 1)
        gain = (corrected.argmax(1) == label).mean() - (probability.argmax(1) == label).mean()
        assert least < gain < most


def test_shares_that_are_known_correct_as_the_rule_of_bayes_does():
    probability = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    corrected = correct_probabilities(probability, np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.75, 0.0]))
    np.testing.assert_allclose(corrected[0], (0.25 / 1.75, 1.5 / 1.75, 0))
    np.testing.assert_allclose(corrected[1:], probability[1:])  # nothing but a class of share 0 explains the last


def test_the_interval_covers_the_truth_and_narrows_with_tiles(calibration):
    widths = []
    for tiles in (200, 1800):
        features, _ = scenes(TARGETS["equal"], tiles, seed=3)
        probability = calibration.apply(distorted_logits(features))
        estimate = estimate_shares(probability, TRAINED, np.arange(tiles), NAMES, 20 * np.eye(5), seed=0)
        low, high = estimate.interval_K2.T
        assert estimate.reasons == ()
        assert (low < estimate.share_K).all()
        assert (estimate.share_K < high).all()
        assert ((low < 0.2) & (high > 0.2)).all()
        widths.append((high - low).mean())
    assert widths[1] == pytest.approx(widths[0] / 3, rel=0.25)


def test_few_groups_have_no_interval_and_this_is_a_reason(calibration):
    features, _ = scenes(TRAINED, 60, seed=0)
    probability = calibration.apply(distorted_logits(features))
    estimate = estimate_shares(probability, TRAINED, np.arange(60) % 9, NAMES, np.eye(5), seed=0)
    assert estimate.interval_K2 is None
    assert [reason.split(",")[0] for reason in estimate.reasons] == ["60 tiles", "9 groups"]


def test_classes_that_are_not_told_apart_are_named():
    confusion = 20 * np.eye(5)
    confusion[1, [1, 3]] = confusion[3, [1, 3]] = 10
    (reason,) = reasons_not_to_trust(confusion, TRAINED, NAMES, 1000, 50)
    assert "nearly singular" in reason
    assert "forest and meadow" in reason


def test_a_class_without_validation_is_named_and_one_never_trained_is_not():
    confusion = np.diag([10.0, 10, 10, 0, 0])
    (reason,) = reasons_not_to_trust(confusion, np.array([0.3, 0.3, 0.3, 0.1, 0]), NAMES, 1000, 50)
    assert "no validation tile of meadow" in reason


def test_a_class_never_trained_keeps_the_share_0():
    probability = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]] * 20)
    share, _ = most_likely_shares(probability, np.array([0.5, 0.5, 0.0]))
    assert share[2] == 0
    assert np.isfinite(share).all()
