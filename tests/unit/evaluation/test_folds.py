"""Groups are assigned to folds in several threads, as encoders are probed."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from geomae.evaluation.folds import assign_groups, assign_training


def test_rare_classes_warn_in_no_thread():
    label, group = np.array([0] * 9 + [1]), np.arange(10)
    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("error")
        folds = list(pool.map(lambda _: assign_groups(label, group, 2), range(200)))
    assert all(np.array_equal(one, folds[0]) for one in folds)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("tiles", [2, 6, 16])
def test_few_numbers_have_folds(tiles, grouped):
    """None of their quarters has a tile for each fold, which scikit-learn refused to stratify by."""
    value, nothing = np.arange(tiles) / 3, [None] * tiles
    groups = [f"g{number}" for number in range(tiles)] if grouped else nothing
    parts = assign_training(value, (), nothing, groups, 0).parts()
    assert len(parts) == min(5, tiles)
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(tiles))
