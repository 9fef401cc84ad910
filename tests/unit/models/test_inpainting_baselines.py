"""Inpainting without training, against loops over every pixel.

B batch, C bands, H W pixels
"""

import numpy as np
import pytest
import torch
from skimage.restoration import inpaint_biharmonic

from geomae.errors import ConfigError
from geomae.models.inpainting_baselines import biharmonic, inpainting, inverse_distance, nearest_patch, tile_mean

CELL, SIDE = 4, (12, 16)


@pytest.fixture
def tiles():
    """Two tiles of three bands; one band has gaps of its own, and one is seen nowhere in the second tile."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(5, 2, (2, 3, *SIDE))
    cells = rng.random((2, 1, SIDE[0] // CELL, SIDE[1] // CELL)) < 0.4
    seen = cells.repeat(CELL, 2).repeat(CELL, 3) & np.ones((1, 3, 1, 1), dtype=bool)
    seen[0, 1] &= rng.random(SIDE) < 0.7
    seen[1, 2] = False
    pixels[~seen] = np.nan  # whoever looks there is found out
    return torch.from_numpy(pixels), torch.from_numpy(seen)


def shepard(pixels, seen, power):
    """The definition, pixel by pixel."""
    places = np.argwhere(seen)
    found = np.zeros(pixels.shape)
    for row, col in np.ndindex(*pixels.shape):
        if seen[row, col]:
            found[row, col] = pixels[row, col]
        elif len(places):
            weight = np.hypot(*(places - (row, col)).T) ** -power
            found[row, col] = weight @ pixels[seen] / weight.sum()
    return found


@pytest.mark.parametrize("power", [2.0, 4.0])
def test_inverse_distance_is_what_shepard_defined(tiles, power):
    pixels, seen = tiles
    found = inverse_distance(pixels, seen, power)
    for b, c in np.ndindex(2, 3):
        expected = shepard(pixels[b, c].numpy(), seen[b, c].numpy(), power)
        np.testing.assert_allclose(found[b, c], expected, rtol=1e-9)


def test_the_power_is_two_unless_said_otherwise(tiles):
    assert torch.equal(inpainting("baseline:idw", CELL)(*tiles), inverse_distance(*tiles, 2.0))
    assert torch.equal(inpainting("baseline:idw?power=3.5", CELL)(*tiles), inverse_distance(*tiles, 3.5))


def test_bands_that_are_seen_alike_are_as_bands_alone(tiles):
    pixels, seen = (values[:, :1].expand(-1, 3, -1, -1).clone() for values in tiles)
    together = inverse_distance(pixels, seen)
    torch.testing.assert_close(together[:, 1], inverse_distance(*(values[:, :1] for values in tiles))[:, 0])


def test_biharmonic_is_that_of_scikit_image(tiles):
    pixels, seen = tiles
    found = biharmonic(pixels, seen)
    for b, c in np.ndindex(2, 3):
        if seen[b, c].any():
            known = pixels[b, c].where(seen[b, c], 0).numpy()
            np.testing.assert_allclose(found[b, c], inpaint_biharmonic(known, ~seen[b, c].numpy()), rtol=1e-6)
    assert (found[1, 2] == 0).all()


def test_biharmonic_continues_a_plane():
    plane = torch.arange(16.0)[:, None] * 0.5 + torch.arange(16.0)
    seen = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    seen[..., 4:8, 4:12] = False
    torch.testing.assert_close(biharmonic(plane.where(seen, 0), seen)[0, 0], plane, atol=1e-4, rtol=0)


def test_means_of_the_tile_and_of_the_nearest_patch(tiles):
    pixels, seen = tiles
    mean, nearest = tile_mean(pixels, seen), nearest_patch(pixels, seen, CELL)
    assert mean.shape == nearest.shape == pixels.shape
    for b, c in np.ndindex(2, 3):
        values = pixels[b, c][seen[b, c]]
        assert mean[b, c, 0, 0] == pytest.approx(float(values.mean()) if len(values) else 0)
    row, col = (int(place) // CELL * CELL for place in np.argwhere(seen[0, 0].numpy())[0])
    patch = pixels[0, 0, row : row + CELL, col : col + CELL]
    torch.testing.assert_close(nearest[0, 0, row, col], patch[seen[0, 0, row : row + CELL, col : col + CELL]].mean())


@pytest.mark.parametrize("name", ["mean", "nearest", "idw", "biharmonic"])
def test_only_seen_pixels_matter(tiles, name):
    pixels, seen = tiles
    fill = inpainting(f"baseline:{name}", CELL)
    found = fill(pixels, seen)
    assert found.isfinite().all()
    assert torch.equal(found, fill(pixels.where(seen, 1e6), seen))
    assert found.dtype == pixels.dtype
    assert fill(pixels.float(), seen).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("baseline:idv", ("'idv'", "'idw'")),
        ("baseline:idw?powr=2", ("power=P",)),
        ("baseline:idw?power=9", ("at most 4",)),
        ("baseline:mean?power=2", ("no other",)),
    ],
)
def test_a_baseline_that_is_not_there_is_refused(text, parts):
    with pytest.raises(ConfigError) as caught:
        inpainting(text, CELL)
    assert all(part in str(caught.value) for part in parts)
