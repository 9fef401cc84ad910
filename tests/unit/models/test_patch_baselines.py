"""Reconstructions without training, against loops over every pixel.

B batch, N patches, C bands, P pixels of a patch in one band
"""

import numpy as np
import pytest
import torch

from geomae.models.inpainting_baselines import mean_by_distance, mean_of_nearest, mean_of_visible

ROWS, COLS = 3, 4


@pytest.fixture
def parts():
    rng = torch.Generator().manual_seed(0)
    patches = torch.randn(2, ROWS * COLS, 3, 4, generator=rng)
    valid = torch.rand(patches.shape, generator=rng) > 0.3
    visible = torch.zeros(2, ROWS * COLS, dtype=torch.bool)
    visible[0, [0, 2, 10]] = visible[1, [5, 6]] = True
    valid[0, 2, 1] = False  # the nearest patch does not have the band
    valid[1, [5, 6], 2] = False  # no visible patch has it
    return patches.masked_fill(~valid, torch.nan), valid & visible[:, :, None, None], visible


def test_mean_of_the_visible_pixels(parts):
    patches, seen, visible = parts
    found = mean_of_visible(patches, seen)
    assert found.shape == patches.shape
    for b, c in np.ndindex(2, 3):
        values = patches[b, visible[b], c][seen[b, visible[b], c]]
        expected = float(values.mean()) if len(values) else 0.0
        torch.testing.assert_close(found[b, :, c], torch.full((12, 4), expected))


def test_mean_of_the_nearest_visible_patch(parts):
    """Of several nearest ones the first in reading order, as patch 1 between patches 0 and 2 shows."""
    patches, seen, visible = parts
    found = mean_of_nearest(patches, seen, COLS)
    for b, n, c in np.ndindex(2, ROWS * COLS, 3):
        known = [m for m in range(ROWS * COLS) if visible[b, m] and seen[b, m, c].any()]
        distance = [((n // COLS - m // COLS) ** 2 + (n % COLS - m % COLS) ** 2, m) for m in known]
        nearest = min(distance)[1] if known else None
        expected = 0.0 if nearest is None else float(patches[b, nearest, c][seen[b, nearest, c]].mean())
        torch.testing.assert_close(found[b, n, c], torch.full((4,), expected))


def test_mean_of_the_visible_patches_by_distance(parts):
    patches, seen, _ = parts
    found = mean_by_distance(patches, seen, COLS)
    for b, n, c in np.ndindex(2, ROWS * COLS, 3):
        known = [m for m in range(ROWS * COLS) if seen[b, m, c].any()]
        means = np.array([float(patches[b, m, c][seen[b, m, c]].mean()) for m in known])
        squared = np.array([(n // COLS - m // COLS) ** 2 + (n % COLS - m % COLS) ** 2 for m in known], dtype=float)
        weight = 1 / np.maximum(squared, 1)
        expected = means[known.index(n)] if n in known else (weight @ means / weight.sum() if known else 0.0)
        torch.testing.assert_close(found[b, n, c], torch.full((4,), float(expected)))


def test_neither_sees_hidden_pixels(parts):
    patches, seen, visible = parts
    changed = torch.where(visible[:, :, None, None], patches, 1e6)
    assert torch.equal(mean_of_visible(patches, seen), mean_of_visible(changed, seen))
    assert torch.equal(mean_of_nearest(patches, seen, COLS), mean_of_nearest(changed, seen, COLS))
