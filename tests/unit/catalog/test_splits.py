"""Splits: every tile in one, whole units together, the same whatever the order of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomae.catalog import block_splits, group_splits, hold_out, random_splits
from geomae.errors import CatalogError

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def centres(side: int, stride_m: float) -> np.ndarray:
    """Centres (N, 2) of a square lattice of tiles."""
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) * stride_m + stride_m / 2


@settings(max_examples=30)
@given(st.permutations(range(40)), st.integers(0, 5))
def test_splits_do_not_depend_on_the_order_of_rows(order: list[int], seed: int) -> None:
    ids = np.array([f"tile-{index}" for index in range(40)])
    labels = random_splits(ids, FRACTIONS, seed)
    assert (random_splits(ids[order], FRACTIONS, seed) == labels[order]).all()
    assert {name: (labels == name).sum() for name in FRACTIONS} == {"train": 28, "val": 4, "test": 8}


def test_another_seed_deals_otherwise() -> None:
    ids = np.arange(100)
    assert (random_splits(ids, FRACTIONS, 0) != random_splits(ids, FRACTIONS, 1)).any()


def test_groups_stay_whole_and_each_split_has_one() -> None:
    groups = np.array(["a"] * 90 + ["b"] * 5 + ["c"] * 5)
    labels = group_splits(groups, {"train": 0.9, "val": 0.05, "test": 0.05}, 3)
    assert {len(set(labels[groups == name])) for name in "abc"} == {1}
    assert set(labels) == {"train", "val", "test"}
    with pytest.raises(CatalogError, match=r"there are 2 groups for 3 splits .*use a finer group"):
        group_splits(groups[10:95], FRACTIONS, 0)


def test_blocks_stay_whole() -> None:
    centre_m = centres(20, 500) - 5000
    labels, blocks = block_splits(centre_m, 2, {"train": 0.5, "test": 0.5}, 0)
    assert blocks[0] == "-3,-3"
    assert blocks.tolist() == [f"{np.floor(x / 2000):.0f},{np.floor(y / 2000):.0f}" for x, y in centre_m]
    assert {len(set(labels[blocks == block])) for block in blocks} == {1}
    assert set(labels) == {"train", "test"}


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(CatalogError, match=r"there is 1 block for 3 splits .*make `block_km` smaller than 50"):
        block_splits(centres(4, 640), 50, FRACTIONS, 0)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=80), st.floats(0.05, 0.4), st.integers(0, 3))
def test_hold_out_takes_whole_units_up_to_the_share(units: list[int], share: float, seed: int) -> None:
    units_N = np.array(units)
    held_N = hold_out(units_N, share, seed)
    most = max(1, round(share * len(units)))
    assert held_N.sum() <= most
    assert not set(units_N[held_N]) & set(units_N[~held_N])
    if min((units_N == unit).sum() for unit in set(units)) <= most:
        assert held_N.any()
    back = hold_out(units_N[::-1], share, seed)[::-1]
    assert (back == held_N).all()


def test_hold_out_draws_no_unit_above_the_share_and_never_the_only_tile() -> None:
    assert not hold_out(np.array(["a"] * 10 + ["b"] * 10), 0.1, 0).any()
    assert hold_out(np.arange(5), 0.1, 0).sum() == 1
    assert not hold_out(np.array(["a"]), 0.1, 0).any()
