"""Groups are assigned to folds in several threads, as encoders are probed."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from geomae.evaluation.folds import assign_groups


def test_rare_classes_warn_in_no_thread():
    label, group = np.array([0] * 9 + [1]), np.arange(10)
    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("error")
        folds = list(pool.map(lambda _: assign_groups(label, group, 2), range(200)))
    assert all(np.array_equal(one, folds[0]) for one in folds)
