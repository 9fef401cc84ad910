"""Probes on plain arrays: they agree with scikit-learn called by hand, and see in noise what chance gives.

T tiles, D features, K classes
"""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, f1_score, jaccard_score, precision_score, recall_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from geomae.errors import ConfigError
from geomae.evaluation.folds import assign_training, codes_of
from geomae.evaluation.linear_probe import (
    Logistic,
    choose_C,
    choose_ridge,
    fit_linear,
    fit_path,
    fit_ridge_path,
    one_hot,
)
from geomae.evaluation.probe_predictions import (
    DRAWS,
    draw_labelled_tiles,
    few_label_classes,
    knn_classes,
    knn_values,
    nearest_tiles,
    possible_shots,
)
from geomae.metrics.predictions import accuracy, average, balanced_accuracy, class_scores, confusion


def clouds(tiles=300, features=20, classes=4, seed=0, apart=1.0):
    """Embeddings of overlapping classes of unequal size, of unequal spread, and with features that go together."""
    rng = np.random.default_rng(seed)
    label = rng.choice(classes, tiles, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    mixing = rng.normal(size=(features, features)) * rng.uniform(0.1, 3, features)
    centre = np.random.default_rng(9).normal(size=(classes, features)) * apart
    return (centre[label] + rng.normal(size=(tiles, features))) @ mixing + 5, label


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("features", [20, 400])  # fewer and more than tiles
def test_linear_probe_is_that_of_scikit_learn(classes, strength, features):
    embedding, label = clouds(classes=classes, features=features, apart=0.3)
    ours = fit_linear(embedding, label, classes, strength)
    scaled = StandardScaler().fit_transform(embedding)
    theirs = LogisticRegression(C=strength, class_weight="balanced", max_iter=10_000, tol=1e-7).fit(scaled, label)
    test, _ = clouds(classes=classes, features=features, seed=1, apart=0.3)
    np.testing.assert_array_equal(ours.predict(embedding), theirs.predict(scaled))
    scores = ours.scores(test)
    probability = np.exp(scores - scores.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    wanted = theirs.predict_proba(StandardScaler().fit(embedding).transform(test))
    np.testing.assert_allclose(probability, wanted, atol=1e-3)


def test_a_path_of_strengths_ends_where_each_alone_does():
    embedding, label = clouds()
    share = one_hot(label, 4)
    for probe, strength in zip(fit_path(embedding, share, (0.01, 0.1, 1.0)), (0.01, 0.1, 1.0), strict=True):
        alone = fit_linear(embedding, label, 4, strength)
        np.testing.assert_allclose(probe.weight_DK, alone.weight_DK, atol=1e-3)


def test_a_fit_takes_one_thread_and_gives_the_others_back(monkeypatch):
    """Threads that wait for each other took most of the time of a fit."""

    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen = []
    monkeypatch.setattr(
        Logistic, "solve", lambda self, *args: seen.append(threads()) or (np.zeros((20, 4)), np.zeros(4))
    )
    embedding, label = clouds()
    with threadpool_limits(2, user_api="blas"):
        fit_path(embedding, one_hot(label, 4), [0.1])
        assert seen == [{1}]
        assert threads() == {2}


def test_a_class_that_was_not_trained_on_is_never_predicted_and_a_constant_feature_does_nothing():
    embedding, label = clouds(classes=3)
    known = label != 1
    probe = fit_linear(embedding[known], label[known], 3, 1.0)
    assert set(probe.predict(embedding)) == {0, 2}
    constant = np.concatenate([embedding, np.full((len(embedding), 1), 7.0)], axis=1)
    np.testing.assert_array_equal(fit_linear(constant[known], label[known], 3, 1.0).predict(constant),
                                  probe.predict(embedding))  # fmt: skip


def test_of_equal_tiles_the_first_are_the_nearest():
    """Four copies of each tile, of which the six nearest take all of one tile, and the first two of another."""
    rng = np.random.default_rng(0)
    tiles = rng.normal(size=(30, 8)).astype(np.float32)
    which = rng.permutation(np.repeat(np.arange(30), 4))
    unit = tiles.astype(float) / np.linalg.norm(tiles.astype(float), axis=1, keepdims=True)
    order = np.argsort(1 - unit @ unit.T, axis=1)[:, :2]
    wanted = [[*np.flatnonzero(which == first), *np.flatnonzero(which == second)[:2]] for first, second in order]
    np.testing.assert_array_equal(nearest_tiles(tiles[which], tiles, 6), wanted)


def test_knn_is_that_of_scikit_learn():
    (train, label), (test, _) = clouds(), clouds(seed=1)
    value = np.random.default_rng(0).normal(size=len(label))
    found, values = knn_classes(train, label, test, 4, (1, 5, 20)), knn_values(train, value, test, (5, 20))
    for count, codes in found.items():
        theirs = KNeighborsClassifier(count, metric="cosine").fit(train, label)
        np.testing.assert_array_equal(codes, theirs.predict(test))
    for count, means in values.items():
        theirs = KNeighborsRegressor(count, metric="cosine").fit(train, value)
        np.testing.assert_allclose(means, theirs.predict(test))


@pytest.mark.parametrize("features", [20, 400])
def test_ridge_is_that_of_scikit_learn(features):
    embedding, _ = clouds(features=features)
    value = embedding[:, 0] + np.random.default_rng(0).normal(size=len(embedding))
    scaled = StandardScaler().fit_transform(embedding)
    for probe, strength in zip(fit_ridge_path(embedding, value, (0.001, 1.0)), (0.001, 1.0), strict=True):
        theirs = Ridge(alpha=1 / strength).fit(scaled, value)
        np.testing.assert_allclose(probe.predict(embedding), theirs.predict(scaled), rtol=1e-6, atol=1e-8)
    dealt = assign_training(value, (), [None] * len(value), [None] * len(value), 0)
    strength, rmse = choose_ridge(embedding, value, dealt.parts())
    assert rmse[strength] == min(rmse.values()) < value.std()


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, 200), rng.integers(0, 3, 200)  # class 3 is never predicted
    counts = confusion(truth, predicted, 5)  # class 4 is nowhere
    by_class = class_scores(counts)
    assert accuracy(counts) == np.mean(truth == predicted)
    assert balanced_accuracy(counts) == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert average(by_class["f1"]) == pytest.approx(f1_score(truth, predicted, average="macro"))
    for name, theirs in (("recall", recall_score), ("f1", f1_score), ("iou", jaccard_score)):
        np.testing.assert_allclose(by_class[name][:4], theirs(truth, predicted, average=None))
    np.testing.assert_allclose(
        by_class["precision"][:4], precision_score(truth, predicted, average=None, zero_division=0)
    )
    assert all(np.isnan(values[4]) for values in by_class.values())
    assert balanced_accuracy(counts, np.arange(5) < 2) == pytest.approx(by_class["recall"][:2].mean())


def test_strength_ties_go_to_the_stronger_regularisation():
    embedding, label = clouds(classes=2, apart=50.0)  # every strength is right everywhere
    dealt = assign_training(label, ("a", "b"), [None] * 300, [None] * 300, 0)
    strength, scores = choose_C(embedding, label, 2, dealt.parts())
    assert set(scores.values()) == {1.0}
    assert strength == min(scores)


def test_a_probe_on_noise_lies_at_chance():
    rng = np.random.default_rng(0)
    classes, tiles = 4, 4000
    train, test = rng.normal(size=(400, 30)), rng.normal(size=(tiles, 30))
    label, truth = rng.integers(0, classes, 400), rng.integers(0, classes, tiles)
    dealt = assign_training(label, "abcd", [None] * 400, [None] * 400, 0)
    strength, _ = choose_C(train, label, classes, dealt.parts())
    sigma = np.sqrt(0.25 * 0.75 / tiles)
    found = {"linear": fit_linear(train, label, classes, strength).predict(test)}
    found |= {str(count): codes for count, codes in knn_classes(train, label, test, classes).items()}
    few = few_label_classes(train, label, np.arange(400), test, classes, 0)
    found |= {f"few{shots}": draws[0] for shots, draws in few.items()}
    for name, codes in found.items():
        assert abs(balanced_accuracy(confusion(truth, codes, classes)) - 0.25) < 3 * sigma, name


def test_folds_keep_together_what_belongs_together():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 30, 400)
    label = (group % 3 + (rng.random(400) < 0.2)) % 3
    names, nothing = ("a", "b", "c"), [None] * 400
    by_group = assign_training(label, names, nothing, group.tolist(), 0)
    assert by_group.how == "5 folds of the training tiles by group (30 groups)"
    assert assign_training(label, names, group.tolist(), group.tolist(), 0).how == by_group.how
    by_fold = assign_training(label, names, (group // 10).tolist(), group.tolist(), 0)
    assert by_fold.how == "3 folds of the training tiles by `group.folds` (3 groups)"
    for dealt, unit in ((by_group, group), (by_fold, group // 10)):
        assert all(len(set(dealt.fold_T[unit == one])) == 1 for one in set(unit))
        for learn, held in dealt.parts():
            assert not set(unit[learn]) & set(unit[held])
            assert len(learn) + len(held) == 400
    sizes = np.bincount(by_group.fold_T)
    assert sizes.min() > 0.6 * sizes.max()
    alone = assign_training(label, names, nothing, ["same"] * 400, 0)  # one group tells nothing apart
    assert "random folds" in alone.how
    assert np.ptp([np.bincount(label[alone.fold_T == fold], minlength=3) for fold in range(5)], axis=0).max() <= 1


def test_a_class_with_fewer_tiles_than_folds_is_named():
    label, nothing = np.array([0] * 20 + [1] * 3), [None] * 23
    with pytest.raises(ConfigError, match=r"class 'water' has 3 training tiles, fewer than the 5 folds.*--strength"):
        assign_training(label, ("tree", "water"), nothing, nothing, 0)


def test_few_labels_are_spread_over_groups_and_fixed_by_the_seed():
    rng = np.random.default_rng(0)
    label, group = rng.integers(0, 3, 300), rng.integers(0, 12, 300)
    drawn = draw_labelled_tiles(label, group, 5, 0, 0)
    assert np.bincount(label[drawn]).tolist() == [5, 5, 5]
    for one in range(3):
        assert len(set(group[drawn][label[drawn] == one])) == 5
    np.testing.assert_array_equal(drawn, draw_labelled_tiles(label, group, 5, 0, 0))
    assert set(drawn) != set(draw_labelled_tiles(label, group, 5, 0, 1))
    assert possible_shots(np.array([0] * 60 + [1] * 7)) == (1, 5)
    embedding, label = clouds()
    few = few_label_classes(embedding, label, np.arange(300), embedding, 4, 0)
    assert [len(draws) for draws in few.values()] == [DRAWS] * len(few)
    right = {shots: np.mean([np.mean(codes == label) for codes in draws]) for shots, draws in few.items()}
    assert right[1] < right[5] < right[10]


def test_codes_count_names_in_order():
    codes, names = codes_of(["b", "a", "b", "c"])
    assert codes.tolist() == [1, 0, 1, 2]
    assert names == ["a", "b", "c"]
