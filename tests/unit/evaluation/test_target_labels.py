"""What labels of the target would give: no group is scored by anything that saw its labels."""

import numpy as np

from geomae.evaluation.folds import assign_groups
from geomae.evaluation.probe_scores import GroundTruth
from geomae.evaluation.target_labels import few_target_labels, oracle
from geomae.metrics.predictions import ClassMeasure

ALL_TWO = np.array([True, True])


def truth_of(label_T, group_T):
    return GroundTruth(label_T, group_T, ClassMeasure(("a", "b"), ALL_TWO))


def test_the_oracle_picks_in_one_half_of_the_groups_what_it_takes_in_the_other():
    label_T = np.tile([0, 1], 20)
    truth = truth_of(label_T, np.repeat(np.arange(10), 4))
    half_T = assign_groups(label_T, truth.group_T, 2)
    lucky = {"none": np.zeros(40, dtype=int)}
    lucky |= {f"right in half {half}": np.where(half_T == half, label_T, 1 - label_T) for half in (0, 1)}
    assert (oracle(lucky, truth, ALL_TWO) == 1 - label_T).all()  # what was right there is wrong here
    assert (oracle({"right": label_T} | lucky, truth, ALL_TWO) == label_T).all()
    assert oracle(lucky, truth_of(label_T, np.zeros(40, dtype=int)), ALL_TWO) is None


def test_few_labels_learn_from_groups_that_they_do_not_predict():
    rng = np.random.default_rng(0)
    label_T, group_T = np.tile([0, 1], 40), np.repeat(np.arange(10), 8)
    embedding_TD = np.stack([label_T * 6.0, rng.normal(size=80)], 1) + rng.normal(0, 0.3, (80, 2))
    truth = truth_of(label_T, group_T)
    found = few_target_labels(embedding_TD, truth, ALL_TWO, seed=0)
    assert set(found) == {5, 10} and len(found[5]) == 10
    assert np.mean([(codes_T == label_T).mean() for codes_T in found[5]]) > 0.95
    half_T = assign_groups(label_T, group_T, 2)
    for half in (0, 1):  # noise in place of the labels of a half leaves what is predicted there as it was
        within_T = np.lexsort((rng.random(80), group_T))  # mixed up within each group, so that the halves stay
        noisy_T = np.where(half_T == half, label_T[within_T], label_T)
        assert (noisy_T != label_T).sum() > 10
        noisy = few_target_labels(embedding_TD, truth_of(noisy_T, group_T), ALL_TWO, seed=0)
        for one, other in zip(found[5], noisy[5], strict=True):
            assert np.array_equal(one[half_T == half], other[half_T == half])


def test_a_number_that_a_class_has_not_in_each_half_is_left_out():
    label_T = np.array([0] * 40 + [1] * 12)
    group_T = np.concatenate([np.arange(40) % 10, np.arange(12) % 10])
    found = few_target_labels(np.random.default_rng(0).normal(size=(52, 3)), truth_of(label_T, group_T), ALL_TWO, 0)
    assert set(found) == {5}
    only_first = np.array([True, False])
    assert set(few_target_labels(np.eye(52), truth_of(label_T, group_T), only_first, 0)) == {5, 10}
