"""Dense patch embeddings of scenes: every patch once, from windows that leave no seams.

C bands, H W pixels, N patches
"""

from dataclasses import dataclass

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from geomae.catalog import open_catalog
from geomae.encoders import load_encoder
from geomae.encoders.dense import Lattice, dense_scores
from geomae.encoders.extraction import EncoderTiles
from geomae.evaluation.pca_maps import fit_colours, map_scene, scenes_to_map
from geomae.rasters import write_cog
from geomae.reports.pca_map_figures import write_map
from geomae.runtime.devices import open_compute
from geomae.tiles.index import build_index
from geomae.tiles.selection import own_record


@dataclass(frozen=True)
class Means:
    """An encoder whose patch embedding is the mean of each band over the patch; 4 x 4 patches in a tile."""

    bands: tuple

    def embed(self, pixels_BCHW, valid_BCHW):
        share = torch.nn.functional.adaptive_avg_pool2d(valid_BCHW.float(), 4)
        means = torch.nn.functional.adaptive_avg_pool2d(pixels_BCHW, 4) / share
        patches_BND = means.flatten(2).transpose(1, 2)
        return patches_BND.mean(1), patches_BND


@dataclass(frozen=True)
class Columns:
    """An encoder whose patch embedding is the column of the patch, whatever the pixels: nothing but imprint."""

    bands: tuple

    def embed(self, pixels_BCHW, valid_BCHW):
        column_BN1 = torch.arange(4.0).repeat(len(pixels_BCHW), 4)[..., None]
        return column_BN1.mean(1), column_BN1


@pytest.mark.parametrize(
    "size, patches, unit, step",
    [(64, 8, 1, 4), (64, 14, 7, 7), (32, 2, 1, 1), (48, 1, 1, 1), (64, 7, 7, 7), (60, 5, 1, 2)],
)
def test_windows_begin_at_whole_pixels_and_overlap_by_half_where_they_can(size, patches, unit, step):
    lattice = Lattice(size, patches)
    assert (lattice.unit, lattice.step) == (unit, step)
    for length in (size, size + 1, 3 * size, 5 * size + 17):
        starts = lattice.starts(length)
        assert all((start * size) % patches == 0 for start in starts)
        covered = {patch for start in starts for patch in range(start, start + patches)}
        assert covered >= set(range(lattice.count(length)))
        assert (starts[-1] * size) // patches < length
        assert lattice.count(length) * size / patches >= length


def test_windows_that_overlap_by_half_add_up_to_one():
    across = Lattice(64, 8).weights()[:, 3] / Lattice(64, 8).weights()[3, 3] * (1 - 1 / 8)
    np.testing.assert_allclose(across[:4] + across[4:], 1, rtol=1e-6)


@pytest.fixture
def scene(tmp_path):
    """A source with one scene of 50 x 83 pixels, of which a corner is nodata."""
    rng = np.random.default_rng(0)
    pixels_CHW = rng.integers(1, 4000, (2, 50, 83)).astype(np.uint16)
    pixels_CHW[:, :12, :9] = 0
    write_cog(tmp_path / "s.tif", pixels_CHW, crs="EPSG:32632", transform=(5.0, 0, 4e5, 0, -5.0, 5e6))
    (tmp_path / "data_catalog.yaml").write_text(
        "version: 1\ndatasets:\n  one:\n    path: s.tif\n    sensor: naip\n    bands: [red, green]\n"
        "    unit: digital_number\n    scale: 1\n    offset: 0\n    nodata: 0\n    tile: {size: 16}\n"
    )
    index = build_index(open_catalog(tmp_path / "data_catalog.yaml"), "one")
    return index.source, index.grids[0], pixels_CHW


def test_every_patch_is_that_of_its_pixels(scene):
    source, grid, pixels_CHW = scene
    encoder = Means(tuple(reversed(source.bands)))
    told = []
    scores_YXK, valid_YX = dense_scores(
        encoder, source, source.scenes[0], grid, Lattice(16, 4), lambda values: values,
        device=torch.device("cpu"), progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert scores_YXK.shape == (13, 21, 2)  # 50 and 83 pixels in patches of 4
    assert told[-1] == (len(Lattice(16, 4).starts(50)) * len(Lattice(16, 4).starts(83)),) * 2
    for row, col in ((3, 0), (0, 4), (5, 7), (11, 19), (12, 20)):
        patch = pixels_CHW[::-1, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4].astype(np.float64)
        np.testing.assert_allclose(scores_YXK[row, col], patch.mean((1, 2)), rtol=1e-5)
    assert not valid_YX[:3, :2].any()
    assert valid_YX.sum() == valid_YX.size - 6
    assert (scores_YXK[~valid_YX] == 0).all()


def test_what_windows_imprint_on_their_patches_fades(scene):
    source, grid, _ = scene
    scores_YXK, _ = dense_scores(
        Columns(source.bands), source, source.scenes[0], grid, Lattice(16, 4), lambda values: values,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert np.abs(np.diff(scores_YXK[3:, 2:-2], axis=1)).max() <= 1  # windows side by side would jump by 3


@pytest.mark.parametrize("name", ["landsat7-olinda", "naip"])
def test_maps_of_real_scenes_lie_where_the_scenes_lie_and_have_no_seams(name, shared_data, tmp_path):
    index = build_index(open_catalog(shared_data / "catalog.yaml"), name)
    encoder = load_encoder("baseline:random", layer=1, imagery=own_record(index))
    parts, compute = [EncoderTiles(encoder, index)], open_compute("cpu", "32")
    train_T = (index.tiles["split"] == "train").to_numpy()
    colours = fit_colours(compute, parts, train_T, 0, "")
    jobs = scenes_to_map(parts, None)
    assert len(jobs) == len(index.source.scenes)
    scaled_YXK, valid_YX = map_scene(compute, jobs[0], colours)
    assert scaled_YXK.shape == (*valid_YX.shape, 3)
    assert 0 <= scaled_YXK.min() <= scaled_YXK.max() <= 1
    drawn = write_map(tmp_path, jobs[0], scaled_YXK, valid_YX)
    raster, patch_px, step = drawn.raster, jobs[0].lattice.patch_px, jobs[0].lattice.step
    lies_as_its_scene(raster, index.source.scenes[0].files[0], patch_px)
    assert drawn.picture.read_bytes().startswith(b"\x89PNG")
    with rasterio.open(raster) as written:
        assert 0.9 <= seams(np.moveaxis(written.read().astype(np.float64), 0, -1), step) <= 1.1


def lies_as_its_scene(raster, scene, patch_px):
    """Check CRS, transform and extent, band names, and that the file is a COG."""
    with rasterio.open(raster) as written, rasterio.open(scene) as original:
        assert written.crs == original.crs
        assert written.transform @ Affine.scale(1 / patch_px) == pytest.approx(original.transform, rel=1e-12)
        pixel_x, pixel_y = written.res
        for one, other, pixel in zip(written.bounds, original.bounds, (pixel_x, pixel_y) * 2, strict=True):
            assert abs(one - other) < pixel
        assert written.descriptions == ("PC1", "PC2", "PC3")
        assert (written.dtypes, written.nodata) == (("uint8",) * 3, 0)
        assert (written.read() > 0).all()
    valid, errors, warnings = cog_validate(raster, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])


def seams(scores_YXK, step):
    """The mean absolute step from patch to patch across the borders of windows, as a multiple of that elsewhere."""
    across, elsewhere = [], []
    for axis in (0, 1):
        steps = np.moveaxis(np.abs(np.diff(scores_YXK, axis=axis)), axis, 0)
        border = (np.arange(len(steps)) + 1) % step == 0
        across.append(steps[border].mean())
        elsewhere.append(steps[~border].mean())
    return sum(across) / sum(elsewhere)
