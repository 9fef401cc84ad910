"""Masks of every kind: exact counts, the same each time, and only patches with enough valid pixels are shown.

N patches, C bands, X tokens
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomae.models.masking import MaskRules, draw_mask, usable_patches, visible_count, visible_tokens
from geomae.randomness import generator, key

QUICK = settings(deadline=None, max_examples=80)  # a busy machine is not a fault
SIDES, RATIOS, SEEDS = st.integers(2, 32), st.floats(0.01, 0.99), st.integers(0, 2**31)
PLACES = ("random", "block", "grid")
GROUPS = ((2, 0), (1,), (3, 4))


def mask(rules, rows, cols, seed=0, usable=None, bands=5):
    usable = np.ones(rows * cols, dtype=bool) if usable is None else usable
    return draw_mask(usable, (rows, cols), bands, rules, generator(seed, "mask", 0))


@QUICK
@given(SIDES, SIDES, RATIOS)
def test_counts_are_exact(rows, cols, ratio):
    N = rows * cols
    visible = visible_count(N, ratio)
    assert visible == min(max(round((1 - ratio) * N), 1), N - 1)
    assert 1 <= visible < N


def test_the_usual_ratio_shows_exactly_a_quarter():
    assert [visible_count(side**2, 0.75) for side in (2, 4, 8, 14, 32)] == [1, 4, 16, 49, 256]


@QUICK
@given(st.sampled_from(PLACES), SIDES, SIDES, RATIOS, SEEDS, st.floats(0, 1))
def test_a_mask_is_a_permutation_that_shows_usable_patches_only(kind, rows, cols, ratio, seed, share):
    N, rules = rows * cols, MaskRules(ratio, kind)
    usable = np.random.default_rng(seed).random(N) < share
    visible = visible_count(N, ratio)
    if usable.sum() < visible:
        with pytest.raises(ValueError, match=f"{usable.sum()} usable patches cannot give {visible} visible ones"):
            mask(rules, rows, cols, seed, usable)
        return
    order, shown = mask(rules, rows, cols, seed, usable)
    assert shown is None
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    assert usable[order[:visible]].all()
    assert (np.diff(order[:visible]) > 0).all()
    assert (np.diff(order[visible:]) > 0).all()
    np.testing.assert_array_equal(order, mask(rules, rows, cols, seed, usable)[0])


@QUICK
@given(st.sampled_from(PLACES), st.sampled_from(["consistent", "independent"]), SIDES, SIDES, RATIOS, SEEDS)
def test_every_group_shows_as_many_patches(kind, scope, rows, cols, ratio, seed):
    N, rules = rows * cols, MaskRules(ratio, kind, scope, groups=GROUPS)
    order, _ = mask(rules, rows, cols, seed)
    np.testing.assert_array_equal(np.sort(order), np.arange(3 * N))
    visible = visible_tokens(N, 5, rules)
    places = [order[:visible][order[:visible] // N == g] % N for g in range(3)]
    assert [len(one) for one in places] == [visible_count(N, ratio)] * 3
    if scope == "consistent":
        assert all((one == places[0]).all() for one in places)


def test_independent_groups_show_different_places():
    order, _ = mask(MaskRules(0.75, scope="independent", groups=GROUPS), 16, 16)
    assert len({tuple(order[64 * g : 64 * (g + 1)] % 256) for g in range(3)}) == 3


@QUICK
@given(SIDES, SIDES, RATIOS, SEEDS, st.integers(2, 20))
def test_whole_bands_or_groups_are_hidden(rows, cols, ratio, seed, bands):
    order, shown = mask(MaskRules(ratio, "bands"), rows, cols, seed, bands=bands)
    np.testing.assert_array_equal(order, np.arange(rows * cols))
    assert shown.sum() == visible_count(bands, ratio)
    N, rules = rows * cols, MaskRules(ratio, "bands", groups=GROUPS)
    order, shown = mask(rules, rows, cols, seed)
    assert shown is None
    seen = order[: visible_tokens(N, 5, rules)]
    assert len(np.unique(seen // N)) == visible_count(3, ratio) == len(seen) / N


@QUICK
@given(RATIOS, SEEDS, st.integers(1, 20))
def test_dropped_bands_leave_one_at_least(chance, seed, bands):
    order, shown = mask(MaskRules(0.75, band_dropout=chance), 4, 4, seed, bands=bands)
    assert shown.shape == (bands,)
    assert shown.any()
    np.testing.assert_array_equal(order, mask(MaskRules(0.75), 4, 4, seed)[0])


def test_bands_are_dropped_as_often_as_asked():
    shown = np.stack([mask(MaskRules(0.75, band_dropout=0.3), 4, 4, seed, bands=12)[1] for seed in range(2000)])
    assert abs(shown.mean() - 0.7) < 5 * (0.21 / shown.size) ** 0.5


def test_a_quarter_of_a_grid_is_every_second_patch_of_every_second_row():
    for seed, (rows, cols) in enumerate([(8, 8), (14, 14), (6, 10), (32, 32)]):
        order, _ = mask(MaskRules(0.75, "grid"), rows, cols, seed)
        seen = order[: rows * cols // 4]
        assert len(set(seen // cols % 2)) == len(set(seen % cols % 2)) == 1


def test_blocks_hide_what_lies_together():
    """Of the neighbours of hidden patches more are hidden than in a random mask."""

    def together(kind):
        found = []
        for seed in range(50):
            order, _ = mask(MaskRules(0.5, kind), 16, 16, seed)
            hidden = np.ones(256, dtype=bool)
            hidden[order[:128]] = False
            hidden = hidden.reshape(16, 16)
            found.append((hidden[:, 1:] & hidden[:, :-1]).sum() / hidden[:, :-1].sum())
        return np.mean(found)

    assert together("random") == pytest.approx(0.5, abs=0.03)
    assert together("block") > 0.75


def test_shuffled_hidden_patches_keep_the_visible_ones():
    plain, _ = mask(MaskRules(0.75), 16, 16)
    shuffled, _ = mask(MaskRules(0.75, shuffled=True), 16, 16)
    np.testing.assert_array_equal(plain[:64], shuffled[:64])
    assert (plain != shuffled).any()
    np.testing.assert_array_equal(plain, np.r_[shuffled[:64], np.sort(shuffled[64:])])


def test_masks_differ_between_tiles_and_show_every_patch_equally_often():
    usable = np.ones(64, dtype=bool)
    usable[:4] = False
    draws = (draw_mask(usable, (8, 8), 1, MaskRules(0.75), generator(3, "mask", 0, k))[0] for k in range(3000))
    orders = [order[:16] for order in draws]
    assert len({tuple(order) for order in orders}) == 3000
    shown = np.bincount(np.concatenate(orders), minlength=64)
    assert (shown[:4] == 0).all()
    # 3000 draws of 16 out of 60: 800 on average with a standard deviation of 24.
    assert abs(shown[4:] - 800).max() < 5 * 24


@pytest.mark.parametrize("kind", PLACES)
def test_every_kind_shows_every_patch_sometimes(kind):
    shown = np.concatenate([mask(MaskRules(0.75, kind), 8, 8, seed)[0][:16] for seed in range(400)])
    assert (np.bincount(shown, minlength=64) > 10).all()


@QUICK
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 4]), st.integers(0, 2**31))
def test_usable_patches_have_enough_valid_pixels(C, rows, cols, side, seed):
    rng = np.random.default_rng(seed)
    valid = rng.random((C, rows * side, cols * side)) < rng.random()
    for least in (0.25, 0.5, 1.0):
        found = usable_patches(valid, side, least)
        for place in range(rows * cols):
            row, col = divmod(place, cols)
            cut = valid[:, row * side : (row + 1) * side, col * side : (col + 1) * side]
            assert found[place] == (cut.mean() >= least)
    assert usable_patches(np.ones_like(valid), side, 1.0).all()


def test_draws_depend_on_their_name_and_on_nothing_else():
    first = generator(1, "mask", 2, "tile").integers(2**62, size=4)
    generator(1, "other").random(100)
    np.testing.assert_array_equal(first, generator(1, "mask", 2, "tile").integers(2**62, size=4))
    names = [(1, "mask", 2), (1, "mask", 3), (2, "mask", 2), (1, "turn", 2), (1, "mask", 2, 0), (1, "mask2"), (12, "m")]
    assert len({key(*name) for name in names}) == len(names)
    # Written down once: with another value no older run could be replayed.
    assert key(0, "mask", 0, 1) == 111061258977467709298730225230208193172
    assert generator(0, "mask", 0, 1).integers(1000, size=3).tolist() == [356, 615, 440]
