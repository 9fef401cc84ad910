"""Masks: exact counts, the same each time, and only patches with enough valid pixels are shown.

N patches
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomae.models.masking import random_order, usable_patches, visible_count
from geomae.randomness import generator, key

QUICK = settings(deadline=None, max_examples=80)  # a busy machine is not a fault
SIDES, RATIOS = st.integers(2, 32), st.floats(0.01, 0.99)


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
@given(SIDES, SIDES, RATIOS, st.integers(0, 2**31), st.floats(0, 1))
def test_a_mask_is_a_permutation_that_shows_usable_patches_only(rows, cols, ratio, seed, share):
    N = rows * cols
    usable = np.random.default_rng(seed).random(N) < share
    visible = visible_count(N, ratio)
    if usable.sum() < visible:
        with pytest.raises(ValueError, match=f"{usable.sum()} usable patches cannot give {visible} visible ones"):
            random_order(usable, visible, generator(seed, "mask", 0))
        return
    order = random_order(usable, visible, generator(seed, "mask", 0))
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    assert usable[order[:visible]].all()
    assert (np.diff(order[:visible]) > 0).all()
    assert (np.diff(order[visible:]) > 0).all()
    np.testing.assert_array_equal(order, random_order(usable, visible, generator(seed, "mask", 0)))


def test_masks_differ_between_tiles_and_show_every_patch_equally_often():
    usable = np.ones(64, dtype=bool)
    usable[:4] = False
    orders = [random_order(usable, 16, generator(3, "mask", 0, k))[:16] for k in range(3000)]
    assert len({tuple(order) for order in orders}) == 3000
    shown = np.bincount(np.concatenate(orders), minlength=64)
    assert (shown[:4] == 0).all()
    # 3000 draws of 16 out of 60: 800 on average with a standard deviation of 24.
    assert abs(shown[4:] - 800).max() < 5 * 24


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
