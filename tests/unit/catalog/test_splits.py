"""Splits: every tile in one, whole units together, the same whatever the order of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomae.catalog import LEFT_OUT, block_splits, group_splits, hold_out, random_splits
from geomae.errors import CatalogError

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def grid(side: int, stride_m: float, size_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, bottom = (axis.ravel() * stride_m for axis in np.meshgrid(np.arange(side), np.arange(side)))
    bounds_m = np.stack([left, bottom, left + size_m, bottom + size_m], axis=1)
    return left + size_m / 2, bottom + size_m / 2, bounds_m


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


def test_blocks_stay_whole_and_overlapping_train_tiles_are_left_out() -> None:
    x_m, y_m, bounds_m = grid(20, 500, 1000)  # tiles overlap their neighbours by half
    labels, counts = block_splits(x_m, y_m, bounds_m, 2, {"train": 0.5, "test": 0.5}, 0)
    assert counts["train"] + counts["test"] + counts[LEFT_OUT] == 400
    assert counts[LEFT_OUT] > 0
    blocks = np.floor(x_m / 2000) * 100 + np.floor(y_m / 2000)
    for block in np.unique(blocks):
        assert len(set(labels[blocks == block]) - {LEFT_OUT}) <= 1
    train, test = bounds_m[labels == "train"], bounds_m[labels == "test"]
    low = np.maximum(train[:, None, :2], test[None, :, :2])
    high = np.minimum(train[:, None, 2:], test[None, :, 2:])
    assert not (high > low).all(axis=-1).any()
    # and no tile was left out without a reason
    for box in bounds_m[labels == LEFT_OUT]:
        assert (np.minimum(box[2:], test[:, 2:]) > np.maximum(box[:2], test[:, :2])).all(axis=1).any()


def test_touching_tiles_do_not_overlap_also_when_their_grid_is_rotated() -> None:
    x_m, y_m, bounds_m = grid(12, 640, 640)
    corners_m = bounds_m[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    turn = np.array([[np.cos(0.05), -np.sin(0.05)], [np.sin(0.05), np.cos(0.05)]])
    rotated_m = corners_m @ turn.T + 6e6  # far from the origin, as real coordinates are
    centres_m = rotated_m.mean(axis=1)
    halves = {"train": 0.5, "test": 0.5}
    assert block_splits(x_m, y_m, bounds_m, 2, halves, 0)[1][LEFT_OUT] == 0
    assert block_splits(centres_m[:, 0], centres_m[:, 1], rotated_m, 2, halves, 0)[1][LEFT_OUT] == 0
    boxes_m = np.concatenate([rotated_m.min(axis=1), rotated_m.max(axis=1)], axis=1)
    assert block_splits(centres_m[:, 0], centres_m[:, 1], boxes_m, 2, halves, 0)[1][LEFT_OUT] > 0


def test_too_few_blocks_and_no_crs_are_refused() -> None:
    x_m, y_m, bounds_m = grid(4, 640, 640)
    with pytest.raises(CatalogError, match=r"there is 1 block for 3 splits .*make `block_km` smaller than 50"):
        block_splits(x_m, y_m, bounds_m, 50, FRACTIONS, 0)
    with pytest.raises(CatalogError, match="needs a CRS in every file; split by `group`"):
        block_splits(x_m * np.nan, y_m, bounds_m, 2, FRACTIONS, 0)


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
