"""The gap between two domains on plain arrays: figures agree with direct computations, and tests keep their level.

N tiles of the source, M of the target, D features, B blocks
"""

import warnings

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.spatial.distance import cdist, pdist

from geomae.errors import EmbeddingError
from geomae.evaluation.domain_distances import (
    coral_distance,
    median_distance,
    proxy_a_distance,
    squared_mmd,
    subspace_angle,
)
from geomae.evaluation.gap_components import (
    Pixels,
    class_distances,
    embedding_gap,
    label_shift,
    pixel_gap,
    reconstruction_gap,
    wasserstein,
)
from geomae.evaluation.permutation_tests import DomainComparison, GroupBlocks, corrected, holm, p_value


def direct_mmd(x, y, width):
    """Gretton et al. (2012), eq. 3, pair by pair."""
    within = [(np.exp(-(cdist(z, z) ** 2) / (2 * width**2)).sum() - len(z)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return sum(within) - 2 * np.exp(-(cdist(x, y) ** 2) / (2 * width**2)).mean()


def direct_coral(x, y):
    return ((np.cov(x.T) - np.cov(y.T)) ** 2).sum() / (4 * x.shape[1] ** 2)


def direct_angle(x, y, leading=5):
    axes = [np.linalg.svd(z - z.mean(0), full_matrices=False)[2][:leading].T for z in (x, y)]
    return np.rad2deg(subspace_angles(*axes)).mean()


def domains(groups=12, tiles=6, features=12, seed=0, shift=0.0, paired=True):
    """Embeddings of tiles in groups that differ from each other; those of the target are shifted."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), tiles)
    spread = rng.uniform(0.3, 2, features)
    place = rng.normal(size=(groups, features))
    other = place if paired else rng.normal(size=(groups, features))
    x = (place[group] + rng.normal(size=(len(group), features))) * spread + 3
    y = (other[group] + rng.normal(size=(len(group), features)) + shift) * spread + 3
    return x, group, y, group if paired else group + groups


@pytest.mark.parametrize("paired", [True, False])
def test_figures_are_those_of_a_direct_computation_for_every_permutation(paired):
    x, group_x, y, group_y = domains(shift=0.4, paired=paired)
    blocks = GroupBlocks.of(group_x, group_y)
    rows = np.concatenate([x, y])[blocks.order_N]
    width = median_distance(rows)
    assert width == pytest.approx(np.median(pdist(rows)), rel=1e-9)
    figures = {one.measure: one.value for one in embedding_gap(x, group_x, y, group_y, 0)}
    assert figures["mmd2"] == pytest.approx(direct_mmd(x, y, width), abs=1e-6)
    assert figures["coral"] == pytest.approx(direct_coral(x, y), rel=1e-6)
    assert figures["subspace_angle"] == pytest.approx(direct_angle(x, y), rel=1e-6)
    permutations = blocks.permuted(0).take(slice(0, 3))
    measures = squared_mmd(rows, blocks, width), coral_distance(rows, blocks), subspace_angle(rows, blocks)
    found = [measure(permutations) for measure in measures]
    for number in range(3):
        first, second = (
            rows[side[number][blocks.block_N] == 1] for side in (permutations.first_RB, permutations.second_RB)
        )
        assert found[0][number] == pytest.approx(direct_mmd(first, second, width), abs=1e-9)
        assert found[1][number] == pytest.approx(direct_coral(first, second), rel=1e-9)
        assert found[2][number] == pytest.approx(direct_angle(first, second), rel=1e-6)


def test_of_too_few_tiles_nothing_is_invented():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 8)), rng.normal(size=(3, 8))
    figures = {one.measure: one for one in embedding_gap(x, range(3), y, range(3, 6), 0)}
    assert figures["mmd2"].null_value is None  # halves of three tiles: one has a single tile
    assert "subspace_angle" not in figures
    rows = np.concatenate([x, y])
    blocks = GroupBlocks.of(range(3), range(3, 6))
    assert np.isfinite(squared_mmd(rows, blocks, 1.0)(blocks.observed())).all()


def test_groups_stay_whole_and_pairs_swap_within_themselves():
    blocks = GroupBlocks.of(["a", "a", "b", "c", "d", "e", "f", "g"], ["a", "b", "b", "c", "d", "e", "f", "x", "y"])
    permutations = blocks.permuted(1)
    assert (permutations.first_RB + permutations.second_RB == 1).all()
    for group in range(6):  # a to f occur in both
        both = permutations.second_RB[:, blocks.group_B == group]
        assert (both.sum(1) == 1).all()
        assert 0.4 < both[:, 0].mean() < 0.6
    alone = permutations.second_RB[:, blocks.group_B >= 6]  # g, x, y: two of the target
    assert (alone.sum(1) == 2).all()
    assert set(map(tuple, alone)) == {(0, 1, 1), (1, 0, 1), (1, 1, 0)}
    np.testing.assert_array_equal(permutations.first_RB, blocks.permuted(1).first_RB)
    assert (permutations.first_RB != blocks.permuted(2).first_RB).any()


@pytest.mark.parametrize(
    ("source", "target", "enough"),
    [
        (range(5), range(5), False),  # 16 different permutations: of mirrored ones the figure is the same
        (range(6), range(6), True),
        (range(3), range(3, 6), False),  # 10
        (range(4), range(4, 8), True),  # 35
        (range(18), [99], False),  # 19
        (range(19), [99], True),
    ],
)
def test_too_few_groups_have_no_p_value(source, target, enough):
    assert (GroupBlocks.of(list(source), list(target)).permuted(0) is not None) == enough
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(len(source) * 3, 4)), rng.normal(size=(len(target) * 3, 4))
    figures = embedding_gap(x, np.repeat(source, 3), y, np.repeat(target, 3), 0)
    assert all((one.p is not None) == enough == (one.p_holm is not None) for one in figures)
    assert ("proxy_a_distance" in [one.measure for one in figures]) == (len(target) > 1)


def test_one_group_has_no_halves():
    x, _, y, _ = domains()
    figures = embedding_gap(x, ["a"] * len(x), y, ["b"] * len(y), 0)
    assert [one.null_value for one in figures] == [None] * 3


def test_the_classifier_is_tested_on_groups_that_it_never_saw():
    """Tiles tell their group, and each group is in one domain: known groups alone would give 2."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 5)
    rows = 5 * rng.normal(size=(40, 60))[group] + 0.01 * rng.normal(size=(200, 60))
    blocks, single = GroupBlocks.of(group[:100], group[100:]), GroupBlocks.of(np.arange(100), np.arange(100, 200))
    assert proxy_a_distance(rows[blocks.order_N], blocks)(blocks.observed())[0] < 0.6
    assert proxy_a_distance(rows[single.order_N], single)(single.observed())[0] > 1.9


def test_a_shift_within_pairs_is_found_though_groups_differ_more():
    figures = embedding_gap(*domains(groups=10, shift=0.5, seed=4), 0)
    p_holm = {one.measure: one.p_holm for one in figures}
    assert p_holm["mmd2"] < 0.05
    assert p_holm["proxy_a_distance"] < 0.05


def test_without_a_gap_few_draws_reject():
    """Six pairs, and twelve groups that are in one domain each."""
    rejected = 0
    for seed in range(20):
        pairs, alone = domains(6, 4, 3, seed), domains(6, 4, 3, seed + 100, paired=False)
        x, y = (np.concatenate([pairs[side], alone[side]]) for side in (0, 2))
        group_x, group_y = (np.concatenate([pairs[side], 6 + alone[side]]) for side in (1, 3))
        rejected += min(one.p_holm for one in embedding_gap(x, group_x, y, group_y, seed)) < 0.05
    assert rejected <= 3


def test_embeddings_that_are_not_finite_are_refused():
    x, group, y, _ = domains()
    y[7, 3] = np.nan
    with pytest.raises(EmbeddingError, match=r"target: the embeddings of 1 of 72 tiles are not finite .*number 7"):
        embedding_gap(x, group, y, group, 0)
    with pytest.raises(EmbeddingError, match="source: has 1 tiles"):
        embedding_gap(x[:1], group[:1], x, group, 0)


def test_holm_over_those_that_were_tested():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert p_value(1.0, np.array([0.0, 1.0 - 1e-12, 2.0])) == 0.75
    x, group, y, _ = domains(groups=8)
    figures = embedding_gap(x, group, y, group, 0)
    again = corrected([*figures, *figures])
    assert again[0].p_holm >= figures[0].p_holm


def scenes(groups, seed=0, shift=0.0, tiles=4, pixels=50, bands=2, spread=0.02):
    """Pixels of tiles in groups that differ in brightness; some are invalid and hold what must not count."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), tiles)
    level = 0.2 + spread * np.random.default_rng(9).normal(size=(groups, bands))
    values = level[group][:, None] + shift + 0.03 * rng.normal(size=(len(group), pixels, bands))
    valid = rng.random(values.shape) < 0.9
    return Pixels(np.where(valid, values, 99).astype(np.float32), valid, group.tolist(), valid[..., 0].size)


def test_differences_of_pixels_are_those_of_a_direct_computation():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what POT could be joined with, and about its own source
        import ot
    source, target = scenes(12), scenes(12, seed=1, shift=0.01)
    figures = {(one.measure, one.band): one for one in pixel_gap(source, target, ["red", "nir"], "reflectance", 0)}
    for place, band in enumerate(("red", "nir")):
        x, y = (one.values_NPC[..., place][one.valid_NPC[..., place]].astype(float) for one in (source, target))
        wanted = {"mean_difference": y.mean() - x.mean(), "wasserstein": ot.wasserstein_1d(x, y)}
        for measure, value in wanted.items():
            figure = figures[measure, band]
            assert figure.value == pytest.approx(value, abs=1e-6)
            assert figure.unit == "reflectance"
            assert figure.p < 0.05  # within pairs, though groups differ by twice as much
            assert 0 < figure.null_value < 0.02
    assert wasserstein(np.array([0.0, 1.0]), np.array([5.0, 6.0, 5.0, 6.0])) == 5


def test_a_band_without_a_valid_pixel_is_left_out_and_few_groups_test_nothing():
    source, target = scenes(3), scenes(3, seed=1)
    target.valid_NPC[:, :, 0] = False
    figures = pixel_gap(source, target, ["red", "nir"], "reflectance", 0)
    assert [(one.band, one.p) for one in figures] == [("nir", None), ("nir", None)]


def test_label_shift_is_the_total_variation_of_class_shares():
    x, y = np.array(["crop"] * 30 + ["tree"] * 10), np.array(["crop"] * 10 + ["tree"] * 20 + ["snow"] * 10)
    alone = DomainComparison.of(np.arange(40), np.arange(40, 80), 0)
    assert label_shift(x, y, alone).value == pytest.approx((0.5 + 0.25 + 0.25) / 2)
    assert label_shift(x, y, alone).p < 0.01
    rows = np.random.default_rng(0).normal(size=(80, 4))
    rows[40:50] += 2
    found = class_distances(rows[:40], range(40), x, rows[40:], range(40, 80), y, 0)
    assert [one.measure for one in found] == ["mmd2/crop", "mmd2/tree"]
    assert found[0].value > 0.3 > 0.1 > abs(found[1].value)
    assert all(one.p is None and one.p_holm is None for one in found)


def test_errors_of_a_reconstruction_on_both_sides():
    rng = np.random.default_rng(0)
    square, pixels = rng.uniform(0.5, 1.5, (60, 3)), np.full((60, 3), 10.0)
    square[5], pixels[5] = 0, 0  # a tile of which nothing was scored
    comparison = DomainComparison.of(np.arange(60), np.arange(60, 120), 0)
    source, target, ratio = reconstruction_gap((square, pixels), (4 * square, pixels), comparison, "reflectance")
    assert target.value == pytest.approx(2 * source.value)
    assert source.value == pytest.approx(np.sqrt(square.sum(0) / pixels.sum(0)).mean())
    assert ratio.value == pytest.approx(2)
    assert 1 < ratio.null_value < 1.1
    assert ratio.p < 0.01
