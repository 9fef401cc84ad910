"""Accuracy and areas by sample: the published examples of Olofsson et al. (2014) and Stehman (2014)."""

import numpy as np
import pytest
from scipy.stats import chi2

from geomae.metrics.area import chance_of_allocation, estimate_from_sample, nearness

MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])  # map, reference
SHARES = np.array([0.020, 0.015, 0.320, 0.645])
PIXELS, HECTARES = 10_000_000, 0.09


def points_of(matrix):
    """Map and reference class of each point of an error matrix."""
    classes = np.indices(matrix.shape).reshape(2, -1)
    return np.repeat(classes, matrix.ravel(), axis=1)


def codes(letters):
    return np.array(["ABCD".index(letter) for letter in letters])


def olofsson(unit):
    mapped, reference = points_of(MATRIX)
    return estimate_from_sample(mapped, mapped, reference, SHARES * PIXELS * unit, 4, "1234")


def test_example_of_olofsson():
    in_pixels, in_hectares = olofsson(1), olofsson(HECTARES)
    assert in_pixels.overall.value_X[0] == pytest.approx(0.947, abs=5e-4)
    for estimate, area, margin in ((in_pixels, 235_086, 68_418), (in_hectares, 21_158, 6_158)):
        assert estimate.area_K.value_X[0] == pytest.approx(area, abs=0.5)
        low, high = estimate.area_K.interval(0)
        assert (high - low) / 2 == pytest.approx(margin, abs=0.5)
    assert in_pixels.points_K.tolist() == [69, 56, 175, 340]
    assert in_pixels.notes == ()


def test_strata_that_are_map_classes_give_the_formulas_of_olofsson():
    estimate = olofsson(1)
    count, users = MATRIX.sum(1), np.diag(MATRIX) / MATRIX.sum(1)
    np.testing.assert_allclose(estimate.users_K.value_X, users)
    np.testing.assert_allclose(estimate.users_K.error_X, np.sqrt(users * (1 - users) / (count - 1)))
    error = np.sqrt((SHARES**2 * users * (1 - users) / (count - 1)).sum())
    assert estimate.overall.error_X[0] == pytest.approx(error)
    share = SHARES[:, None] * MATRIX / count[:, None]
    np.testing.assert_allclose(estimate.producers_K.value_X, np.diag(share) / share.sum(0))
    producers = share[0, 0] / share[:, 0].sum()  # equation 7, of the first class
    within = MATRIX[:, 0] / count
    terms = SHARES**2 * within * (1 - within) / (count - 1)
    variance = ((1 - producers) ** 2 * terms[0] + producers**2 * terms[1:].sum()) / share[:, 0].sum() ** 2
    assert estimate.producers_K.error_X[0] == pytest.approx(np.sqrt(variance))


def test_the_error_matrix_is_that_of_the_paper_in_points_and_in_shares_of_the_area():
    estimate = olofsson(1)
    np.testing.assert_array_equal(estimate.matrix_KK, MATRIX)
    np.testing.assert_allclose(estimate.share_KK, SHARES[:, None] * MATRIX / MATRIX.sum(1, keepdims=True))
    np.testing.assert_allclose(estimate.share_KK.sum(0), estimate.area_K.value_X / PIXELS)
    np.testing.assert_allclose(np.trace(estimate.share_KK), estimate.overall.value_X[0])
    np.testing.assert_array_equal(estimate.mapped_K, MATRIX.sum(1))


def test_the_error_matrix_of_other_strata_weighs_each_point_by_its_stratum():
    stratum, mapped, reference = (
        np.array([0, 0, 1, 1, 1, 1]),
        np.array([0, 1, 0, 0, 1, 1]),
        np.array([0, 1, 0, 1, 1, 1]),
    )
    estimate = estimate_from_sample(stratum, mapped, reference, np.array([30.0, 70.0]), 2, "ab")
    weight = np.array([0.15, 0.15, *[0.175] * 4])
    direct = [[weight[(mapped == row) & (reference == col)].sum() for col in (0, 1)] for row in (0, 1)]
    np.testing.assert_allclose(estimate.share_KK, direct)
    np.testing.assert_array_equal(estimate.matrix_KK, [[2, 1], [0, 3]])


def test_example_of_stehman():
    """Strata that are not the map's classes: the forty points of the paper, and the figures it works out."""
    stratum = np.repeat(np.arange(4), 10)
    mapped = codes("AAAAAAABBB" + "ABBBBBBBBB" + "BBCCCCCCBB" + "DDDDDDDDDD")
    reference = codes("AAAAACBABC" + "ABBBBBAABB" + "CCCCCDDBBA" + "DDDDDDDCCB")
    estimate = estimate_from_sample(stratum, mapped, reference, np.array([4e4, 3e4, 2e4, 1e4]), 4, "1234")
    share, error = estimate.area_K.value_X / 1e5, estimate.area_K.error_X / 1e5
    assert (share[0], share[2]) == (pytest.approx(0.35), pytest.approx(0.20))
    assert (error[0], error[2]) == (pytest.approx(0.082, abs=5e-4), pytest.approx(0.064, abs=5e-4))
    assert estimate.overall.value_X[0] == pytest.approx(0.63)
    assert estimate.overall.error_X[0] == pytest.approx(0.085, abs=5e-4)
    assert estimate.users_K.value_X[1] == pytest.approx(0.574, abs=5e-4)
    assert estimate.users_K.error_X[1] == pytest.approx(0.125, abs=5e-4)
    assert estimate.producers_K.value_X[1] == pytest.approx(0.794, abs=5e-4)


def test_intervals_hold_what_they_say():
    """Of 400 samples of a known map, about 95 % cover the true area, in strata that are not the map's classes."""
    rng = np.random.default_rng(0)
    stratum = np.repeat([0, 1, 2], [5000, 3000, 2000])
    mapped = rng.integers(0, 3, 10_000)
    reference = np.where(rng.uniform(size=10_000) < 0.7, mapped, (stratum + mapped) % 3)
    area, true_area = np.bincount(stratum).astype(float), np.bincount(reference)
    covered = np.zeros(3)
    for _ in range(400):
        drawn = np.concatenate([rng.choice(np.flatnonzero(stratum == one), 60, replace=False) for one in range(3)])
        estimate = estimate_from_sample(stratum[drawn], mapped[drawn], reference[drawn], area, 3, "abc")
        intervals = [estimate.area_K.interval(code) for code in range(3)]
        covered += [low <= true <= high for (low, high), true in zip(intervals, true_area, strict=True)]
    assert ((covered / 400 > 0.92) & (covered / 400 < 0.98)).all()


def test_a_stratum_without_points_is_left_out_and_named():
    mapped, reference = points_of(np.array([[9, 1, 0], [2, 8, 0], [0, 0, 0]]))
    estimate = estimate_from_sample(mapped, mapped, reference, np.array([60.0, 40, 100]), 3, ["crops", "wood", "ice"])
    note, few = estimate.notes
    assert "crops (10), wood (10)" in few
    assert "No reference point lies in stratum ice (50.0% of the area of the map)" in note
    assert "50.0%" in note
    assert estimate.area_K.value_X.sum() == pytest.approx(100)
    assert np.isnan(estimate.users_K.value_X[2])
    assert estimate.users_K.interval(2) is None


def test_one_point_beside_others_without_variation_has_no_interval_and_none_wrong_is_not_certainty():
    mapped, reference = points_of(np.array([[1, 0], [0, 20]]))
    estimate = estimate_from_sample(mapped, mapped, reference, np.array([10.0, 90.0]), 2, ["crops", "wood"])
    assert "One reference point lies in stratum crops" in estimate.notes[0]
    assert estimate.overall.value_X[0] == 1
    assert estimate.overall.interval(0, most=1) is None
    mapped, reference = points_of(np.array([[20, 0], [0, 20]]))
    estimate = estimate_from_sample(mapped, mapped, reference, np.array([10.0, 90.0]), 2, ["crops", "wood"])
    assert estimate.overall.interval(0, most=1) is None


def test_a_stratum_of_one_point_takes_no_interval_from_what_varies_elsewhere():
    """It adds the most that it can: a quarter of the squared range of what is estimated there."""
    matrix, share = np.array([[1, 0, 0], [1, 40, 3], [0, 2, 50]]), np.array([0.02, 0.38, 0.6])
    mapped, reference = points_of(matrix)
    estimate = estimate_from_sample(mapped, mapped, reference, share * 1000, 3, ["ice", "crops", "wood"])
    count, within = matrix.sum(1), matrix / matrix.sum(1, keepdims=True)
    terms = np.where(count[:, None] > 1, within * (1 - within) / np.maximum(count - 1, 1)[:, None], 0.25)
    users = np.diag(within)
    error = np.sqrt((share**2 * np.diag(terms)).sum())
    assert estimate.overall.error_X[0] == pytest.approx(error)
    assert estimate.overall.interval(0) == pytest.approx((share @ users - 1.96 * error, share @ users + 1.96 * error))
    np.testing.assert_allclose(estimate.area_K.error_X, 1000 * np.sqrt((share[:, None] ** 2 * terms).sum(0)))
    # The user's accuracy of the other classes does not rest on it, and that of its own class rests on it alone.
    np.testing.assert_allclose(estimate.users_K.error_X[1:], np.sqrt(users * (1 - users) / (count - 1 + 1e-9))[1:])
    assert estimate.users_K.no_interval(0, 1) == "not estimable: a stratum has one point"
    true = share @ within
    producers = share * users / true
    within_1 = share**2 * terms[:, 1] * np.where(np.arange(3) == 1, 1 - producers[1], producers[1]) ** 2
    assert estimate.producers_K.error_X[1] == pytest.approx(np.sqrt(within_1.sum()) / true[1])
    (note,) = estimate.notes
    assert "stratum ice" in note and "the most that is possible" in note


def test_intervals_with_a_stratum_of_one_point_hold_at_least_what_they_say():
    rng = np.random.default_rng(0)
    stratum = np.repeat([0, 1, 2], [5000, 3000, 2000])
    reference = np.where(rng.uniform(size=10_000) < np.array([0.9, 0.8, 0.6])[stratum], stratum, (stratum + 1) % 3)
    area, truth = np.bincount(stratum).astype(float), float((stratum == reference).mean())
    covered = 0
    for _ in range(400):
        drawn = np.concatenate(
            [rng.choice(np.flatnonzero(stratum == one), size, replace=False) for one, size in enumerate((60, 60, 1))]
        )
        interval = estimate_from_sample(stratum[drawn], stratum[drawn], reference[drawn], area, 3, "abc").overall
        low, high = interval.interval(0)
        covered += low <= truth <= high
    assert covered / 400 > 0.95


def test_strata_that_are_no_classes_of_the_map_bound_what_a_point_may_show():
    stratum = np.array([0] + [1] * 20)
    mapped, reference = np.array([0] + [0, 1] * 10), np.array([0] + [0, 1] * 9 + [1, 0])
    estimate = estimate_from_sample(stratum, mapped, reference, np.array([10.0, 90.0]), 2, ["north", "south"])
    users = estimate.users_K.value_X[1]  # no point of the map's second class lies in the north, but some of it may
    shown = 0.9**2 * (np.r_[np.full(9, 1 - users), -users, np.zeros(10)]).var(ddof=1) / 20
    assert estimate.users_K.error_X[1] == pytest.approx(np.sqrt(shown + 0.1**2 / 4) / 0.45)


def test_without_variation_there_is_no_interval_and_the_reason_is_given():
    """Rounding made intervals such as [2431.8781337912596, 2431.8781337912606], which looked exact."""
    matrix = np.array([[3, 0, 0, 4, 0], [0, 55, 0, 0, 0], [0, 0, 37, 2, 0], [2, 0, 0, 27, 0], [0, 0, 0, 0, 3]])
    area = np.array([522.7639391332928, 2431.87813379126, 2262.1809546877657, 141.94963535907328, 270.5685596182191])
    mapped, reference = points_of(matrix)
    names = ["barren", "forest", "grass", "urban", "water"]
    estimate = estimate_from_sample(mapped, mapped, reference, area, 5, names)
    assert [estimate.area_K.interval(place) is None for place in range(5)] == [False, True, False, False, True]
    assert estimate.no_area_interval(1) == "not estimable: no variation among 55 points"
    assert estimate.no_area_interval(0) == ""
    sentence = estimate.without_interval(names)
    assert "forest (no variation among 55 points), water (no variation among 3 points)" in sentence
    assert estimate.notes == (
        "Fewer than 30 reference points in strata: barren (7), urban (29), water (3); intervals that rest on them are "
        "unreliable, mostly too narrow (Olofsson et al. 2014 give 50 to 100 points to a rare class)",
    )


def test_intervals_stay_within_what_can_be():
    mapped, reference = points_of(np.array([[19, 1], [0, 20]]))
    estimate = estimate_from_sample(mapped, mapped, reference, np.array([50.0, 50.0]), 2, ["crops", "wood"])
    assert estimate.users_K.interval(0, most=1)[1] == 1


def test_points_on_classes_are_compared_with_random_ones():
    share = np.array([0.093, 0.432, 0.402, 0.025, 0.048])
    assert chance_of_allocation(np.array([7, 55, 39, 31, 3]), share) < 1e-3  # urban: 2.5 % of the area, 23 % of points
    rng = np.random.default_rng(0)
    below = [chance_of_allocation(rng.multinomial(60, share), share) < 0.05 for _ in range(200)]
    assert 0.01 < np.mean(below) < 0.10  # as often as it says, with a class of which 1.5 points are expected
    likely = chance_of_allocation(np.array([30, 70]), np.array([0.35, 0.65]))
    assert likely == pytest.approx(chi2.sf(25 / 35 + 25 / 65, 1), abs=0.1)  # equal up to whole numbers of points


def test_nearness_is_one_of_random_points_and_less_of_clustered_ones():
    rng = np.random.default_rng(0)
    random, alone = rng.uniform(0, 100, (400, 2)), np.zeros(400, dtype=int)
    assert nearness(random, alone, np.array([100**2])) == pytest.approx(1, abs=0.1)
    grid = np.indices((20, 20)).reshape(2, -1).T * 5.0
    assert nearness(grid, alone, np.array([100**2])) == pytest.approx(2)
    clusters = np.repeat(rng.uniform(0, 100, (20, 2)), 20, axis=0) + rng.normal(0, 0.5, (400, 2))
    assert nearness(clusters, alone, np.array([100**2])) < 0.2
    # Class by class, with many points in a small class: each class is compared with its own density.
    few, many = rng.uniform(0, [100, 90], (50, 2)), rng.uniform([0, 90], 100, (350, 2))
    both = np.repeat([0, 1], [50, 350])
    assert nearness(np.concatenate([few, many]), both, np.array([9000, 1000])) == pytest.approx(1, abs=0.1)
    assert nearness(random[:2], np.array([0, 1]), np.array([50, 50])) is None
