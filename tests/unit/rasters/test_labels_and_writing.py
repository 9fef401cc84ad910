"""Labels on the grid of a scene, and georeferenced files that come back as they were written."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject

from geomae.errors import RasterError, StorageError
from geomae.rasters import Grid, Window, cog_in_strips, read_labels, write_cog

GRID = Grid(12, 12, 10.0, "EPSG:32633", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_300_000.0))
WHOLE = Window(0, 0, 12, 12)


def codes(height, width):
    return np.random.default_rng(0).integers(1, 6, (1, height, width)).astype("uint8")


def test_labels_on_the_same_grid(tmp_path):
    stored = codes(12, 12)
    stored[0, 3, 4] = 0
    write_cog(tmp_path / "l.tif", stored, grid=GRID, nodata=0, overviews="nearest")
    found, known = read_labels(str(tmp_path / "l.tif"), GRID, WHOLE)
    assert (found.dtype, known.dtype) == (np.int32, np.bool_)
    np.testing.assert_array_equal(found, stored[0])
    np.testing.assert_array_equal(known, stored[0] != 0)
    found, _ = read_labels(str(tmp_path / "l.tif"), GRID, Window(2, 3, 4, 5))
    np.testing.assert_array_equal(found, stored[0, 2:6, 3:8])


def test_labels_of_another_gsd_and_extent(tmp_path):
    stored = codes(4, 3)
    transform = (30.0, 0.0, 500_000.0, 0.0, -30.0, 5_300_000.0)
    write_cog(tmp_path / "l.tif", stored, crs="EPSG:32633", transform=transform)
    found, known = read_labels(str(tmp_path / "l.tif"), GRID, WHOLE)
    np.testing.assert_array_equal(found[:, :9], np.kron(stored[0], np.ones((3, 3)))[:, :9])
    assert known[:, :9].all()
    assert not known[:, 9:].any()
    assert (found[:, 9:] == 0).all()


def test_labels_of_another_crs_agree_with_gdal(tmp_path):
    origin = (15.0003, 47.856)
    stored = codes(100, 100)
    transform = (5e-5, 0.0, origin[0], 0.0, -5e-5, origin[1])
    write_cog(tmp_path / "l.tif", stored, crs="EPSG:4326", transform=transform)
    found, known = read_labels(str(tmp_path / "l.tif"), GRID, WHOLE)
    expected = np.zeros((12, 12), dtype="uint8")
    reproject(stored[0], expected, src_crs="EPSG:4326", src_transform=Affine(*transform), dst_crs=GRID.crs,
              dst_transform=Affine(*GRID.transform), resampling=Resampling.nearest)  # fmt: skip
    assert 0.5 < known.mean() < 1
    np.testing.assert_array_equal(known, expected != 0)
    assert (found[known] == expected[known]).mean() > 0.95
    part, _ = read_labels(str(tmp_path / "l.tif"), GRID, Window(3, 2, 5, 6))
    np.testing.assert_array_equal(part, found[3:8, 2:8])


def test_labels_elsewhere_are_unknown(tmp_path):
    write_cog(tmp_path / "l.tif", codes(4, 4), crs="EPSG:32633", transform=(10, 0, 600_000, 0, -10, 5_300_000))
    found, known = read_labels(str(tmp_path / "l.tif"), GRID, WHOLE)
    assert not known.any()
    assert (found == 0).all()


@pytest.mark.parametrize("crs", ['LOCAL_CS["site",UNIT["metre",1]]', "+proj=longlat +R=1737400"])
def test_labels_that_cannot_be_brought_to_the_scene_are_refused(tmp_path, crs):
    write_cog(tmp_path / "l.tif", codes(12, 12), crs="EPSG:4326", transform=GRID.transform)
    with pytest.raises(
        RasterError, match=r"l.tif: its CRS \(EPSG:4326\) and that of its scene .*have no place in common"
    ):
        read_labels(str(tmp_path / "l.tif"), replace(GRID, crs=crs), WHOLE)


@pytest.mark.parametrize("left", [179.9, -180.1])
def test_labels_reach_across_longitude_180(tmp_path, left):
    stored = codes(100, 100)
    write_cog(tmp_path / "l.tif", stored, crs="EPSG:4326", transform=(0.002, 0.0, left, 0.0, -0.002, 0.1))
    grid = Grid(12, 12, 1000.0, "EPSG:32660", (1000.0, 0.0, 828_000.0, 0.0, -1000.0, 6000.0))
    found, known = read_labels(str(tmp_path / "l.tif"), grid, WHOLE)
    assert known.all()
    col, row = np.meshgrid(np.arange(12) + 0.5, np.arange(12) + 0.5)
    lon, lat = pyproj.Transformer.from_crs(32660, 4326, always_xy=True).transform(
        828_000 + 1000 * col, 6000 - 1000 * row
    )
    assert (lon < 0).any() and (lon > 0).any()
    places = np.floor((0.1 - lat) / 0.002).astype(int), np.floor(((lon - left) % 360) / 0.002).astype(int)
    np.testing.assert_array_equal(found, stored[0][places])


def test_without_crs_the_shapes_must_match(tmp_path):
    stored = codes(12, 12)
    write_cog(tmp_path / "l.tif", stored)
    for grid in (GRID, replace(GRID, crs=None)):
        np.testing.assert_array_equal(read_labels(str(tmp_path / "l.tif"), grid, WHOLE)[0], stored[0])
    with pytest.raises(RasterError, match=r"l\.tif: has 12 x 12 pixels and its scene 11 x 12"):
        read_labels(str(tmp_path / "l.tif"), replace(GRID, height=11), Window(0, 0, 2, 2))


def test_labels_that_are_no_codes_are_refused(tmp_path):
    stored = np.full((1, 12, 12), 2.0, dtype="float32")
    stored[0, 0, 0] = np.nan
    write_cog(tmp_path / "l.tif", stored, grid=GRID)
    found, known = read_labels(str(tmp_path / "l.tif"), GRID, WHOLE)
    assert known.sum() == 143
    assert (found[known] == 2).all()
    write_cog(tmp_path / "l.tif", stored + 0.5, grid=GRID)
    with pytest.raises(RasterError, match="no 32-bit integers"):
        read_labels(str(tmp_path / "l.tif"), GRID, WHOLE)


def test_real_labels_of_a_scene(shared_data: Path):
    folder = shared_data / "scenes/landsat7_chiapas_two_dates"
    grid = Grid(250, 250, 30.0, "EPSG:32615", (30.0, 0.0, 462_405.0, 0.0, -30.0, 1_741_815.0))
    found, known = read_labels(str(folder / "training_data.gtif"), grid, Window(0, 0, 250, 250))
    assert set(np.unique(found[known])) == {1, 2, 3, 4, 5}
    assert known.sum() == 718


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_a_cog_comes_back_as_it_was_written(tmp_path, dtype):
    pixels = (np.random.default_rng(0).random((3, 600, 520)) * 200).astype(dtype)
    transform = (10.000263865187657, 0.0, 600_895.0021822372, 0.0, -9.999233345259547, 4_327_269.855440698)
    path = tmp_path / "deep" / "a.tif"
    settings = {"nodata": 201, "descriptions": ["B02", "B03", "B04"], "unit": "reflectance", "scale": 1e-4}
    write_cog(path, pixels, crs="EPSG:32630", transform=transform, **settings)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), pixels)
        assert tuple(file.transform)[:6] == transform
        assert file.crs.to_string() == "EPSG:32630"
        assert (file.nodata, file.descriptions) == (201, ("B02", "B03", "B04"))
        assert (file.units, file.scales) == (("reflectance",) * 3, (1e-4,) * 3)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.block_shapes[0], file.compression.name, file.overviews(1)) == ((256, 256), "deflate", [2, 4])
    assert [one.name for one in path.parent.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("crs", ["EPSG:4326", None])
@pytest.mark.parametrize("transform", [(1.0, 0, 0, 0, -1.0, 0), (-1.0, 0, 0, 0, 1.0, 0)])
def test_pixels_of_one_unit_at_the_origin_keep_their_transform(tmp_path, crs, transform):
    write_cog(tmp_path / "a.tif", np.ones((1, 4, 4), "uint8"), crs=crs, transform=transform)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert (tuple(file.transform)[:6], file.crs) == (transform, crs)


def test_overviews_of_classes_hold_classes_only(tmp_path):
    pixels = np.where(np.random.default_rng(0).random((1, 600, 600)) < 0.5, 10, 80).astype("uint8")
    for overviews, mixed in (("nearest", False), ("average", True)):
        write_cog(tmp_path / "a.tif", pixels, grid=None, overviews=overviews)
        with warnings_off(), rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
            assert (set(np.unique(file.read())) != {10, 80}) == mixed


def warnings_off():
    return pytest.warns(rasterio.errors.NotGeoreferencedWarning)


def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path):
    path = tmp_path / "a.tif"
    with pytest.raises(RasterError, match="do not fit a grid of 12 x 12"):
        write_cog(path, np.ones((1, 4, 4), "uint8"), grid=GRID)
    with pytest.raises(RasterError, match="1 descriptions for 2 bands"):
        write_cog(path, np.ones((2, 4, 4), "uint8"), descriptions=["one"])
    with pytest.raises(RasterError, match=r"a\.tif: cannot be written"):
        write_cog(path, np.ones((1, 4, 4), "uint8"), crs="EPSG:999999", transform=GRID.transform)
    with pytest.raises(RasterError, match=r"a\.tif: nodata -1 is no uint8; choose one from 0 to 255"):
        write_cog(path, np.ones((1, 4, 4), "uint8"), nodata=-1)
    with pytest.raises(RasterError, match="values of type complex64 are not written"):
        write_cog(path, np.ones((1, 4, 4), "complex64"))
    assert list(tmp_path.iterdir()) == []


NO_ROOM = """
import pathlib, resource, sys
import numpy as np
from geomae.errors import StorageError
from geomae.rasters import write_cog

path = pathlib.Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    write_cog(path, np.random.default_rng(0).random((1, 300, 300)))
except StorageError as error:
    assert "cannot be written" in str(error), error
    sys.exit(0 if not list(path.parent.iterdir()) else 4)
sys.exit(3)
"""


def test_no_room_on_the_disk_is_said_and_leaves_nothing(tmp_path):
    arguments = [sys.executable, "-c", NO_ROOM, str(tmp_path / "a.tif")]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_cog(tmp_path / "file" / "a.tif", np.ones((1, 4, 4), "uint8"))


def test_a_cog_in_strips_is_that_of_the_whole(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(2, 300, 520)).astype(np.float32)
    write_cog(tmp_path / "whole.tif", pixels, crs="EPSG:32632", transform=(5, 0, 4e5, 0, -5, 5e6), nodata=float("nan"))
    with rasterio.open(tmp_path / "whole.tif") as file:
        expected, crs = file.read(), file.crs.to_string()
        overview = file.read(out_shape=(2, 150, 260))
        transform = tuple(file.transform)[:6]
    grid = Grid(300, 520, 5.0, crs, transform)
    with cog_in_strips(tmp_path / "strips.tif", grid, descriptions=["a", "b"], unit="reflectance") as write:
        for row in range(0, 256, 64):
            write(row, pixels[:, row : row + 64])
    with rasterio.open(tmp_path / "strips.tif") as file:
        assert (file.crs, tuple(file.transform)[:6], file.descriptions) == (crs, transform, ("a", "b"))
        assert file.units == ("reflectance", "reflectance") and file.overviews(1)
        assert np.array_equal(file.read()[:, :256], expected[:, :256])
        assert np.isnan(file.read()[:, 256:]).all()  # which was never written
        assert np.array_equal(file.read(out_shape=(2, 150, 260))[:, :128], overview[:, :128])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strips.tif", "whole.tif"]


def test_a_cog_in_strips_that_fails_leaves_nothing(tmp_path):
    grid = Grid(16, 16, 5.0, "EPSG:32632", (5, 0, 4e5, 0, -5, 5e6))
    with pytest.raises(ZeroDivisionError), cog_in_strips(tmp_path / "a.tif", grid, descriptions=["a"], unit="1"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
