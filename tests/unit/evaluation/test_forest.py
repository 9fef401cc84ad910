"""Statistics of tiles are what they say, and a forest on them is the same each time."""

import numpy as np
import pytest

from geomae.evaluation.forest import grow_forest, tile_statistics
from geomae.evaluation.probe_task import CLASSIFICATION, REGRESSION


def test_statistics_are_those_of_valid_pixels():
    rng = np.random.default_rng(0)
    pixels = rng.normal(5, 1, (2, 3, 8, 8))
    pixels[0, :, :2] = np.nan
    found = tile_statistics(pixels)
    assert found.shape == (2, 3 * (2 + 5 + 2) + 3 * 2)
    seen = pixels[0, :, 2:].reshape(3, -1)
    np.testing.assert_allclose(found[0, :3], seen.mean(1))
    np.testing.assert_allclose(found[0, 3:6], seen.std(1))
    np.testing.assert_allclose(found[0, 12:15], np.median(seen, axis=1))
    mean = seen.mean(1)
    assert found[0, 27] == pytest.approx((mean[0] - mean[1]) / (mean[0] + mean[1]))
    assert found[0, 28] == pytest.approx(np.corrcoef(seen)[0, 1])


def test_tiles_without_gaps_have_the_same_statistics_beside_one_with_gaps():
    rng = np.random.default_rng(0)
    pixels = rng.normal(5, 1, (3, 4, 8, 8)).astype(np.float32)
    pixels[2, 1, 0, 0] = np.nan
    np.testing.assert_array_equal(tile_statistics(pixels[:2]), tile_statistics(pixels)[:2])


def test_a_tile_without_pixels_is_unknown_and_a_flat_one_is_not():
    pixels = np.ones((2, 2, 4, 4))
    pixels[0] = np.nan
    found = tile_statistics(pixels)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_forests_of_one_seed_are_alike_and_take_unknown_statistics():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 60)
    rows = label[:, None] + rng.normal(0, 0.3, (60, 4))
    rows[0] = np.nan
    one, two = (grow_forest(rows, label, 7, CLASSIFICATION) for _ in range(2))
    np.testing.assert_array_equal(one.predict_proba(rows), two.predict_proba(rows))
    assert (one.predict(rows)[1:] == label[1:]).all()
    numbers = grow_forest(rows, label * 2.0, 7, REGRESSION)
    assert np.abs(numbers.predict(rows)[1:] - 2 * label[1:]).mean() < 0.2
