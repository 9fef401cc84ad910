"""Where the pixels of a scene lie: several gsd, the wanted gsd, files that do not fit together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from geomae.catalog import BandFile, Scene, Source
from geomae.errors import RasterError
from geomae.rasters import Window, read, scene_grid, write_cog
from geomae.sensors import Band


def plane(gsd_m, size, crs="EPSG:32633", origin=(500_000.0, 5_300_000.0)):
    """Reflectance as a linear function of place, which bilinear resampling keeps: (pixels_1HW, crs, transform)."""
    centre = (np.arange(size) + 0.5) * gsd_m
    pixels_1HW = (centre[None, None, :] + 2 * centre[None, :, None]).astype("float32")
    return pixels_1HW, crs, (gsd_m, 0.0, origin[0], 0.0, -gsd_m, origin[1])


def write(path, pixels_CHW, crs, transform):
    write_cog(path, pixels_CHW, crs=crs, transform=transform)
    return str(path)


def source_of(*paths, gsd_m=None, band_gsd_m=10.0):
    bands = tuple(Band(f"B{i}", None, 0.5 + i / 10, 0.05, band_gsd_m) for i in range(len(paths)))
    scene = Scene("scene", "scene", tuple(BandFile(path) for path in paths))
    ones, zeros = (1.0,) * len(paths), (0.0,) * len(paths)
    return Source("data", "sensor", bands, "reflectance", ones, zeros, (), gsd_m, (scene,)), scene


def read_all(source, scene):
    grid = scene_grid(source, scene)
    return read(source, scene, Window(0, 0, grid.height, grid.width))


def test_bands_of_several_gsd_meet_on_the_finest_grid_without_a_shift(tmp_path):
    paths = [write(tmp_path / f"{gsd_m}.tif", *plane(gsd_m, 240 // gsd_m)) for gsd_m in (20, 10, 60)]
    source, scene = source_of(*paths)
    grid = scene_grid(source, scene)
    assert (grid.height, grid.width, grid.gsd_m, grid.crs) == (24, 24, 10.0, "EPSG:32633")
    assert grid.transform == (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_300_000.0)
    pixels, valid = read_all(source, scene)
    assert valid.all()
    expected = plane(10, 24)[0][0]
    np.testing.assert_allclose(pixels[0, 1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-6)
    np.testing.assert_array_equal(pixels[1], expected)
    np.testing.assert_allclose(pixels[2, 3:-3, 3:-3], expected[3:-3, 3:-3], rtol=1e-6)


@pytest.mark.parametrize(("gsd_m", "size"), [(5.0, 48), (20.0, 12), (30.0, 8)])
def test_the_wanted_gsd_is_the_grid_over_the_same_extent(tmp_path, gsd_m, size):
    source, scene = source_of(write(tmp_path / "a.tif", *plane(10, 24)), gsd_m=gsd_m)
    grid = scene_grid(source, scene)
    assert (grid.height, grid.width, grid.gsd_m) == (size, size, gsd_m)
    assert grid.transform == (gsd_m, 0.0, 500_000.0, 0.0, -gsd_m, 5_300_000.0)
    pixels, valid = read_all(source, scene)
    assert valid.all()
    np.testing.assert_allclose(pixels[0, 1:-1, 1:-1], plane(gsd_m, size)[0][0, 1:-1, 1:-1], rtol=1e-6)


@pytest.mark.parametrize("gsd_m", [1e-320, 1e-9, 0.15, 241.0, 1e300])
def test_a_gsd_that_no_grid_can_have_is_refused(tmp_path, gsd_m):
    source, scene = source_of(write(tmp_path / "a.tif", *plane(10, 24)), gsd_m=gsd_m)
    with pytest.raises(RasterError, match=r"a\.tif: has 24 x 24 pixels of 10 m, which .*; correct `gsd_m`"):
        scene_grid(source, scene)


def test_a_gsd_within_five_percent_takes_the_file_as_it_is(tmp_path):
    source, scene = source_of(write(tmp_path / "a.tif", *plane(28.6, 24)), gsd_m=30.0)
    assert scene_grid(source, scene).height == 24
    np.testing.assert_array_equal(read_all(source, scene)[0], plane(28.6, 24)[0])


def test_gsd_is_in_metres_whatever_the_unit_of_the_crs(tmp_path):
    feet = write(tmp_path / "a.tif", *plane(10, 24, crs="EPSG:2263", origin=(980_000.0, 200_000.0)))
    source, scene = source_of(feet)
    assert scene_grid(source, scene).gsd_m == pytest.approx(3.048, rel=1e-4)
    degrees = write(tmp_path / "b.tif", *plane(0.001, 24, crs="EPSG:4326", origin=(10.0, 60.0)))
    source, scene = source_of(degrees)
    assert scene_grid(source, scene).gsd_m == pytest.approx(111.32 * 0.5**0.5, rel=1e-2)


def test_no_invalid_pixel_bleeds_into_a_valid_one(tmp_path):
    coarse, crs, transform = plane(20, 6)
    coarse[:] = 3
    coarse[0, 2, 2] = 30_000
    write_cog(tmp_path / "b.tif", coarse, crs=crs, transform=transform, nodata=30_000)
    source, scene = source_of(write(tmp_path / "a.tif", *plane(10, 12)), str(tmp_path / "b.tif"))
    pixels, valid = read_all(source, scene)
    expected = np.ones((12, 12), dtype=bool)
    expected[4:6, 4:6] = False
    np.testing.assert_array_equal(valid[1], expected)
    np.testing.assert_allclose(pixels[1][expected], 3, rtol=1e-6)
    assert (pixels[1][~expected] == 0).all()


def test_without_crs_the_largest_shape_is_the_finest(tmp_path):
    paths = [write(tmp_path / f"{gsd_m}.tif", plane(gsd_m, 240 // gsd_m)[0], None, None) for gsd_m in (20, 10)]
    source, scene = source_of(*paths)
    grid = scene_grid(source, scene)
    assert (grid.height, grid.gsd_m, grid.crs) == (24, 10.0, None)
    expected = plane(10, 24)[0][0]
    np.testing.assert_allclose(read_all(source, scene)[0][0, 1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-6)
    assert scene_grid(replace(source, gsd_m=20.0), scene).height == 12


def test_without_crs_one_shape_is_at_the_wanted_gsd(tmp_path):
    paths = [write(tmp_path / f"{name}.tif", plane(10, 24)[0], None, None) for name in "ab"]
    source, scene = source_of(*paths, gsd_m=30.0)
    assert (scene_grid(source, scene).height, scene_grid(source, scene).gsd_m) == (24, 30.0)
    np.testing.assert_array_equal(read_all(source, scene)[0][1], plane(10, 24)[0][0])


def test_an_odd_size_fits_under_a_rounded_coarse_one(tmp_path):
    paths = [write(tmp_path / f"{size}.tif", np.ones((1, size, size), "uint8"), None, None) for size in (121, 61)]
    source, scene = source_of(*paths)
    pixels, valid = read_all(source, scene)
    assert valid.all()
    np.testing.assert_allclose(pixels, 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (plane(20, 12, crs="EPSG:32632"), "to one CRS"),
        (plane(20, 12, origin=(500_011.0, 5_300_000.0)), "do not cover the same ground"),
        (plane(20, 13), "do not cover the same ground"),
        ((plane(20, 12)[0], None, None), "has no CRS"),
    ],
)
def test_files_that_do_not_fit_are_both_named(tmp_path, other, reason):
    source, scene = source_of(write(tmp_path / "a.tif", *plane(10, 24)), write(tmp_path / "b.tif", *other))
    with pytest.raises(RasterError, match=reason) as caught:
        scene_grid(source, scene)
    assert "a.tif" in str(caught.value)
    assert "b.tif" in str(caught.value)


def test_half_a_coarse_pixel_of_difference_is_followed(tmp_path):
    pixels_1HW, crs, transform = plane(20, 12)
    moved = write(tmp_path / "b.tif", pixels_1HW + 8, crs, (*transform[:2], transform[2] + 8, *transform[3:]))
    source, scene = source_of(write(tmp_path / "a.tif", *plane(10, 24)), moved)
    pixels, valid = read_all(source, scene)
    assert valid.all()
    np.testing.assert_allclose(pixels[1, 2:-2, 2:-2], pixels[0, 2:-2, 2:-2], rtol=1e-6)


def test_a_file_turned_against_the_others_is_refused(tmp_path):
    turned = Affine.translation(500_000, 5_300_000) @ Affine.rotation(30) @ Affine.scale(10, -10)
    pixels_1HW, crs, _ = plane(10, 24)
    paths = [write(tmp_path / "a.tif", *plane(10, 24)), write(tmp_path / "b.tif", pixels_1HW, crs, tuple(turned)[:6])]
    with pytest.raises(RasterError, match=r"b\.tif"):
        scene_grid(*source_of(*paths))
    source, scene = source_of(paths[1], paths[1])
    assert scene_grid(source, scene).gsd_m == pytest.approx(10)


def test_a_band_that_a_file_does_not_have_is_named(tmp_path):
    path = write(tmp_path / "a.tif", *plane(10, 24))
    source, scene = source_of(path)
    with pytest.raises(RasterError, match=r"a\.tif: has 1 bands, and band 2 is needed"):
        scene_grid(source, replace(scene, bands=(BandFile(path, 2),)))


def test_real_patches_of_three_gsd(shared_data: Path):
    folder = sorted((shared_data / "scenes/bigearthnet_example").iterdir())[0]
    names = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    source, scene = source_of(*(str(folder / f"{folder.name}_{name}.tif") for name in names), gsd_m=10.0)
    grid = scene_grid(source, scene)
    assert (grid.height, grid.width, grid.gsd_m) == (120, 120, 10.0)
    pixels, valid = read_all(source, scene)
    assert valid.all()
    with rasterio.open(folder / f"{folder.name}_B05.tif") as file:
        coarse = file.read(1).astype("float32")
    blocks = pixels[4].reshape(60, 2, 60, 2).mean(axis=(1, 3))
    assert np.corrcoef(blocks.ravel(), coarse.ravel())[0, 1] > 0.98
    assert abs(blocks.mean() / coarse.mean() - 1) < 1e-3


def test_real_scenes_of_two_heights(shared_data: Path):
    paths = sorted((shared_data / "scenes/naip_two_dates").glob("*.tif"))
    assert [scene_grid(*source_of(str(path))).height for path in paths] == [724, 723]
