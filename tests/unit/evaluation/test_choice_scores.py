"""Scores that read no label of the target: high where a method carries over, and equal to a direct computation."""

import numpy as np
import pytest
from evaluation.test_alignment import CLASSES, LABEL_N, SOURCE_ND, TARGET_MD
from evaluation.test_methods import FOLDS, LABELLED, C, domains
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score
from sklearn.preprocessing import StandardScaler

from geomae.evaluation.choice_scores import (
    DOMAIN_C,
    domain_accuracy,
    group_agreement,
    mixed_validation,
    weighted_validation,
)
from geomae.evaluation.folds import assign_groups
from geomae.evaluation.linear_probe import fit_linear
from geomae.evaluation.methods import move

GROUP_M = np.arange(len(TARGET_MD)) // 10


def learned(rows, label, strength=C):
    """scikit-learn's probe of standardised rows, in which each class counts the same."""
    scale = StandardScaler().fit(rows)
    probe = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000, tol=1e-8)
    return scale, probe.fit(scale.transform(rows), label)


def test_weighted_validation_is_the_direct_computation():
    moved = move("none", domains(TARGET_MD))
    rows, side = np.concatenate([SOURCE_ND, TARGET_MD]), np.repeat([0, 1], [len(SOURCE_ND), len(TARGET_MD)])
    scale, probe = learned(rows, side, DOMAIN_C)
    odds_N = np.divide(*probe.predict_proba(scale.transform(SOURCE_ND)).T[::-1])
    truth, predicted, weights = [], [], []
    for learn, held in FOLDS:
        scale, probe = learned(SOURCE_ND[learn], LABEL_N[learn])
        predicted.append(probe.predict(scale.transform(SOURCE_ND[held])))
        truth.append(LABEL_N[held])
        weights.append(odds_N[held])
    direct = balanced_accuracy_score(*map(np.concatenate, (truth, predicted)), sample_weight=np.concatenate(weights))
    assert weighted_validation(moved, C) == pytest.approx(direct, abs=0.01)


def test_agreement_is_kappa_between_halves_of_the_groups_and_falls_where_the_target_is_another():
    moved = move("none", domains(TARGET_MD))
    half_N = assign_groups(LABEL_N, LABELLED.group_P, 2)
    guesses = []
    for half in (0, 1):
        scale, probe = learned(SOURCE_ND[half_N == half], LABEL_N[half_N == half])
        guesses.append(probe.predict(scale.transform(TARGET_MD)))
    assert group_agreement(moved, C) == pytest.approx(cohen_kappa_score(*guesses), abs=0.02)
    noise_MD = np.random.default_rng(0).normal(size=TARGET_MD.shape) * 0.1 + SOURCE_ND.mean(0)
    assert group_agreement(move("none", domains(noise_MD)), C) < group_agreement(moved, C) - 0.1


def test_mixtures_keep_the_class_of_the_larger_part_where_classes_lie_far_from_each_other():
    far_MD = np.repeat(np.eye(CLASSES) * 10, 40, axis=0) + np.random.default_rng(0).normal(size=(120, CLASSES)) * 0.1
    probe = fit_linear(far_MD, np.repeat(np.arange(CLASSES), 40), CLASSES, 1.0)
    assert mixed_validation(probe, far_MD, 0) == 1
    assert 0.4 < mixed_validation(probe, np.random.default_rng(0).normal(size=(400, CLASSES)) + 3, 0) < 0.7
    assert mixed_validation(probe, far_MD[:40], 0) == 0  # where all are of one class nothing can be told


def test_domains_are_domain_accuracy_where_they_differ():
    same = domain_accuracy(domains(TARGET_MD), GROUP_M)
    assert 0.35 < same < 0.65
    assert domain_accuracy(domains(TARGET_MD + 2), GROUP_M) > 0.9


def test_no_score_depends_on_the_order_in_which_they_are_asked():
    moved = move("standardise", domains(TARGET_MD))
    first = (
        weighted_validation(moved, C),
        group_agreement(moved, C),
        mixed_validation(moved.probes([C])[0], TARGET_MD, 0),
    )
    again = (
        mixed_validation(moved.probes([C])[0], TARGET_MD, 0),
        group_agreement(moved, C),
        weighted_validation(moved, C),
    )
    assert first == again[::-1]
