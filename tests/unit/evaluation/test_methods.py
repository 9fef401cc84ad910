"""Methods that know class shares: each equals a direct computation, and cures what plain alignments make worse."""

import warnings
from dataclasses import replace

import numpy as np
import ot
import pytest
from evaluation.test_alignment import CLASSES, EVEN, FEW, LABEL_N, SOURCE_ND, draw
from sklearn.covariance import ledoit_wolf_shrinkage

from geomae.errors import ConfigError
from geomae.evaluation import class_transport
from geomae.evaluation.alignment import Alignment
from geomae.evaluation.class_transport import SMOOTH, couple_target_shift
from geomae.evaluation.domains import Domains
from geomae.evaluation.folds import FoldPlan, Labelled
from geomae.evaluation.methods import PRIOR, move, weighted_coral, weighted_standardise
from geomae.evaluation.self_training import PORTIONS, confident_of_each_class
from geomae.evaluation.share_estimation import black_box_shares, fit_source_probe, target_shares
from geomae.metrics.predictions import UNKNOWN
from geomae.metrics.priors import correct_probabilities, most_likely_shares

C = 0.1
PARTS = [np.arange(first, len(LABEL_N), 3) for first in range(3)]
FOLDS = [(np.setdiff1d(np.arange(len(LABEL_N)), held), held) for held in PARTS]
PLAN = FoldPlan(np.arange(len(LABEL_N)), FOLDS, {})
LABELLED = Labelled(LABEL_N, np.arange(len(LABEL_N)) // 10, ("a", "b", "c"))
SOURCE = fit_source_probe(SOURCE_ND, LABELLED, PLAN, C)
FEW_MD, FEW_M = draw(FEW, 300, 6)
WEIGHT_N = np.array([0.2, 1.0, 3.0])[LABEL_N]


def domains(target_MD):
    return Domains(SOURCE_ND, LABELLED, PLAN, target_MD, C, SOURCE)


def predict(name, target_MD):
    moved = move(name, domains(target_MD))
    return moved.probes([C])[0].predict(moved.target_ME)


def shares_of(label_M):
    return np.bincount(label_M, minlength=CLASSES) / len(label_M)


@pytest.mark.parametrize("shares", [FEW, EVEN, (0.8, 0.1, 0.1)])
def test_shares_of_a_resampled_target_are_found(shares):
    target_MD, label_M = draw(shares, 300, 8)
    found = target_shares(SOURCE, SOURCE_ND, LABELLED, PLAN, target_MD, np.arange(len(label_M)) // 6, 0)
    np.testing.assert_allclose(found.likely.share_K, shares_of(label_M), atol=0.05)
    np.testing.assert_allclose(found.black_box_K, shares_of(label_M), atol=0.05)
    np.testing.assert_allclose(found.source_K, EVEN, atol=1e-9)
    low_K, high_K = found.likely.interval_K2.T
    assert ((low_K - 0.02 <= shares_of(label_M)) & (shares_of(label_M) <= high_K + 0.02)).all()
    assert found.likely.reasons == ()


def test_it_is_said_where_the_confusion_matrix_carries_no_shares():
    mixed_ND = SOURCE_ND.copy()
    blurred = LABEL_N > 0  # two classes that look the same
    mixed_ND[blurred] = np.random.default_rng(0).permutation(SOURCE_ND[blurred])
    source = fit_source_probe(mixed_ND, LABELLED, PLAN, C)
    found = target_shares(source, mixed_ND, LABELLED, PLAN, FEW_MD, np.arange(len(FEW_M)), 0)
    assert any("nearly singular" in one and "b and c" in one for one in found.likely.reasons)


def test_it_is_said_where_features_differ_within_classes():
    shifted_MD = FEW_MD * np.linspace(0.3, 4, FEW_MD.shape[1]) + np.linspace(-9, 9, FEW_MD.shape[1])
    found = target_shares(SOURCE, SOURCE_ND, LABELLED, PLAN, shifted_MD, np.arange(len(FEW_M)), 0)
    assert any("features differ within classes" in one for one in found.likely.reasons)


def test_black_box_shares_invert_the_confusion_matrix():
    counts_KK = np.array([[80.0, 15, 5], [10, 30, 10], [2, 8, 40]])
    share_K = np.array([0.2, 0.5, 0.3])
    given_KK = counts_KK / counts_KK.sum(1, keepdims=True)
    np.testing.assert_allclose(black_box_shares(counts_KK, share_K @ given_KK), share_K, atol=1e-6)
    np.testing.assert_allclose(np.linalg.solve(given_KK.T, share_K @ given_KK), share_K, atol=1e-6)


def test_prior_correction_cures_a_label_shift_that_alignments_make_worse():
    right = {name: (predict(name, FEW_MD) == FEW_M).mean() for name in ("none", "standardise", "coral", PRIOR)}
    assert max(right["standardise"], right["coral"]) < right["none"] - 0.2
    assert right[PRIOR] > right["none"] + 0.01


def test_prior_correction_is_the_corrected_probability():
    share_MK = SOURCE.probabilities(FEW_MD)
    share_K, _ = most_likely_shares(share_MK, SOURCE.equal_K)
    corrected_MK = correct_probabilities(share_MK, SOURCE.equal_K, share_K)
    moved = move(PRIOR, domains(FEW_MD))
    score_MK = SOURCE.probe.shifted(moved.offset_K).scores(FEW_MD) / SOURCE.calibration.temperature
    np.testing.assert_allclose(np.exp(score_MK) / np.exp(score_MK).sum(1, keepdims=True), corrected_MK, atol=1e-5)
    np.testing.assert_allclose(moved.share_K, share_K, atol=1e-5)


def test_weighted_standardisation_is_that_of_repeated_tiles():
    times_N = np.array([1, 2, 5])[LABEL_N]
    repeated_ND = np.repeat(SOURCE_ND, times_N, axis=0)
    found, _ = weighted_standardise(SOURCE_ND, times_N.astype(float), FEW_MD)
    np.testing.assert_allclose(
        found.apply(SOURCE_ND), (SOURCE_ND - repeated_ND.mean(0)) / repeated_ND.std(0), atol=1e-6
    )


def test_weighted_coral_is_the_direct_computation():
    def moments(rows_ND, weight_N):
        mean_D = np.average(rows_ND, axis=0, weights=weight_N)
        std_D = np.sqrt(np.average((rows_ND - mean_D) ** 2, axis=0, weights=weight_N))
        spread_ND = np.sqrt(weight_N / weight_N.mean())[:, None] * (rows_ND - mean_D) / std_D
        much = ledoit_wolf_shrinkage(spread_ND, assume_centered=True)
        plain_DD = spread_ND.T @ spread_ND / len(rows_ND)
        mean = np.trace(plain_DD) / len(plain_DD)
        return mean_D, np.outer(std_D, std_D) * ((1 - much) * plain_DD + much * mean * np.eye(len(plain_DD)))

    def root(matrix_DD):
        value_D, axes_DD = np.linalg.eigh(matrix_DD)
        return axes_DD @ np.diag(np.sqrt(value_D)) @ axes_DD.T

    (mean_D, cov_DD), (there_D, cov_there_DD) = moments(SOURCE_ND, WEIGHT_N), moments(FEW_MD, np.ones(len(FEW_MD)))
    source, target = weighted_coral(SOURCE_ND, WEIGHT_N, FEW_MD)
    expected_ND = (SOURCE_ND - mean_D) @ np.linalg.inv(root(cov_DD)) @ root(cov_there_DD)
    np.testing.assert_allclose(source.apply(SOURCE_ND), expected_ND, atol=1e-6)
    np.testing.assert_allclose(target.apply(FEW_MD), FEW_MD - there_D, atol=1e-6)
    plain = Alignment.fit("coral", SOURCE_ND, FEW_MD)
    even, _ = weighted_coral(SOURCE_ND, np.ones(len(SOURCE_ND)), FEW_MD)
    np.testing.assert_allclose(even.apply(SOURCE_ND), plain.transform(SOURCE_ND, "source"), atol=1e-6)


def test_weighted_alignments_cure_gain_offset_and_shares_at_once():
    shifted_MD = FEW_MD * np.linspace(0.3, 4, FEW_MD.shape[1]) + np.linspace(-9, 9, FEW_MD.shape[1])
    right = {name: (predict(name, shifted_MD) == FEW_M).mean() for name in ("none", "standardise")}
    for name in ("weighted-standardise", "weighted-coral"):
        assert (predict(name, shifted_MD) == FEW_M).mean() > max(right.values()) + 0.2


def test_couplings_are_those_of_pot():
    source_SD, label_S, target_RD = SOURCE_ND[:60] / 15, LABEL_N[:60], FEW_MD[:50] / 15
    with warnings.catch_warnings(action="ignore"):  # inner iterations are cut short
        share_K, log = ot.bregman.jcpot_barycenter(
            [source_SD, source_SD], [label_S, label_S], target_RD, SMOOTH, log=True
        )
    found = couple_target_shift(source_SD, label_S, target_RD)
    np.testing.assert_allclose(found, log["gamma"][0], atol=1e-6)
    assert share_K.shape == (CLASSES,)


def test_transport_brings_domains_together_and_draws_are_those_of_the_seed(monkeypatch):
    name = "target-shift-ot"
    monkeypatch.setattr(class_transport, "MOST_TILES", 60)
    moved, again = (move(name, domains(FEW_MD)) for _ in range(2))
    assert np.array_equal(moved.pool_PE, again.pool_PE)
    other = move(name, replace(domains(FEW_MD), seed=1))
    assert not np.array_equal(moved.pool_PE, other.pool_PE)
    shifted_MD = FEW_MD * np.linspace(0.3, 4, FEW_MD.shape[1]) + np.linspace(-9, 9, FEW_MD.shape[1])
    right, without = ((predict(one, shifted_MD) == FEW_M).mean() for one in (name, "none"))
    assert right > without + 0.2


def test_the_confident_of_each_class_are_learned_where_both_probes_agree():
    first = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.1, 0.9], [0.4, 0.6]])
    second = np.array([[0.7, 0.3], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.4, 0.6]])
    expected = [UNKNOWN, 0, UNKNOWN, UNKNOWN, 1, UNKNOWN]  # 0.7, 0.8, none, 0.6; 0.7, 0.6
    assert confident_of_each_class(first, second, 1 / 3).tolist() == expected


def test_self_training_learns_a_part_of_each_class_of_the_target():
    target_MD, label_M = draw(EVEN, 260, 1)
    moved = move("self-training", domains(target_MD))
    taken = moved.pseudo_M != UNKNOWN
    assert 0.5 * PORTIONS[-1] < taken.mean() <= PORTIONS[-1] + 0.01
    assert (moved.pseudo_M == label_M)[taken].mean() > 0.95
    rows, label = moved.learned()
    assert len(rows) == len(label) == len(LABEL_N) + taken.sum()


def test_other_names_are_refused():
    with pytest.raises(ConfigError, match="prior-correction"):
        move("prior-corection", domains(FEW_MD))
