"""Pixels and their validity: nodata, masks, alpha, scale, several gsd, windows, threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import RasterioIOError
from rasterio.transform import Affine

from geomae.catalog import BandFile, Scene, Source
from geomae.errors import RasterError
from geomae.rasters import Window, read, read_labels, scene_grid, write_cog
from geomae.rasters import headers as headers_module
from geomae.rasters.opening import describe_dataset, opened
from geomae.rasters.stored import Span, read_stored
from geomae.sensors import Band

UTM = Affine(10, 0, 500_000, 0, -10, 5_300_000)


def write(path, pixels_CHW, *, gsd_m=10.0, crs="EPSG:32633", origin=(500_000, 5_300_000), **profile):
    """A plain GeoTIFF in UTM."""
    pixels_CHW = np.asarray(pixels_CHW)
    count, height, width = pixels_CHW.shape
    transform = Affine(gsd_m, 0, origin[0], 0, -gsd_m, origin[1])
    shape = {"count": count, "height": height, "width": width, "dtype": pixels_CHW.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape, **profile) as target:
        target.write(pixels_CHW)
    return str(path)


def source_of(*band_files, mask=None, **settings):
    """A data set of one scene; one band for each (path, index)."""
    count = len(band_files)
    bands = tuple(Band(f"B{i}", None, 0.5 + i / 10, 0.05, 10.0) for i in range(count))
    scene = Scene("scene", "scene", tuple(BandFile(path, index) for path, index in band_files), mask=mask)
    plain = Source("data", "sensor", bands, "reflectance", (1.0,) * count, (0.0,) * count, (), None, (scene,))
    return replace(plain, **settings), scene


def read_all(source, scene):
    grid = scene_grid(source, scene)
    return read(source, scene, Window(0, 0, grid.height, grid.width))


def test_scale_and_offset_per_band_in_the_order_of_the_bands(tmp_path):
    path = write(tmp_path / "a.tif", np.stack([np.full((4, 5), 1000), np.full((4, 5), 2000)]).astype("uint16"))
    source, scene = source_of((path, 2), (path, 1), scale_C=(1e-4, 1e-3), offset_C=(-0.1, 0.5))
    pixels, valid = read_all(source, scene)
    assert pixels.dtype == np.float32
    assert valid.dtype == np.bool_
    assert valid.all()
    np.testing.assert_allclose(pixels[:, 0, 0], [0.1, 1.5], rtol=1e-6)


def test_wide_integers_keep_their_digits(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 4, 4), 2**24 + 1, dtype="uint32"))
    source, scene = source_of((path, 1), scale_C=(1.0,), offset_C=(-float(2**24),))
    assert (read_all(source, scene)[0] == 1).all()


def test_every_kind_of_nodata_is_invalid_and_zero(tmp_path):
    pixels_CHW = np.array([[[-9999, 16000, 5, 7], [0, -3, 8, 9]], [[1, 1, -9999, 1], [1, 1, 1, 5]]], dtype="int16")
    path = write(tmp_path / "a.tif", pixels_CHW, nodata=7)
    source, scene = source_of((path, 1), (path, 2), nodata=(-9999.0, 16000.0, 0.5, 1e9), offset_C=(3.0, 3.0))
    pixels, valid = read_all(source, scene)
    np.testing.assert_array_equal(valid[0], [[False, False, True, False], [True, True, True, True]])
    np.testing.assert_array_equal(valid[1], [[True, True, False, True], [True, True, True, True]])
    assert (pixels[~valid] == 0).all()
    assert pixels[0, 1, 1] == 0
    assert valid[0, 1, 1]


def test_nan_infinity_and_overflow_are_invalid(tmp_path):
    stored = np.array([[[np.nan, np.inf, -np.inf, 3e38, np.float32(-3.4028235e38), 2]]], dtype="float32")
    path = write(tmp_path / "a.tif", stored, nodata=-3.4028234663852886e38)
    source, scene = source_of((path, 1), scale_C=(10.0,))
    pixels, valid = read_all(source, scene)
    np.testing.assert_array_equal(valid[0, 0], [False] * 5 + [True])
    np.testing.assert_array_equal(pixels[0, 0], [0, 0, 0, 0, 0, 20])


def test_alpha_hides_unless_it_is_read_as_data(tmp_path):
    pixels = np.full((4, 2, 3), 9, dtype="uint8")
    pixels[3, 0, 0] = 0
    path = write(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES")
    source, scene = source_of((path, 1), (path, 2), (path, 3))
    valid = read_all(source, scene)[1]
    assert not valid[:, 0, 0].any()
    assert valid.sum() == 3 * 5
    source, scene = source_of((path, 1), (path, 2), (path, 3), (path, 4))
    assert read_all(source, scene)[1].all()


@pytest.mark.parametrize("internal", ["YES", "NO"])
def test_the_mask_of_the_file_counts(tmp_path, internal):
    path = tmp_path / "a.tif"
    shape = {"count": 1, "height": 4, "width": 4, "dtype": "uint8", "crs": "EPSG:32633", "transform": UTM}
    hidden = np.zeros((4, 4), dtype="uint8")
    hidden[1:] = 255
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "w", driver="GTiff", **shape) as target:
        target.write(np.full((1, 4, 4), 5, dtype="uint8"))
        target.write_mask(hidden)
    assert (tmp_path / "a.tif.msk").exists() == (internal == "NO")
    source, scene = source_of((str(path), 1))
    np.testing.assert_array_equal(read_all(source, scene)[1][0], hidden > 0)


def test_bits_and_values_of_the_scene_mask(tmp_path):
    path = write(tmp_path / "a.tif", np.full((2, 4, 4), 5, dtype="uint8"))
    flags = np.zeros((1, 4, 4), dtype="uint16")
    flags[0, 0] = [0, 1 << 3, 1 << 15, 4]
    mask = BandFile(write(tmp_path / "mask.tif", flags, nodata=0))
    source, scene = source_of((path, 1), (path, 2), mask=mask, invalid_bits=(3, 15), invalid_values=(4,))
    pixels, valid = read_all(source, scene)
    np.testing.assert_array_equal(valid[:, 0], [[True, False, False, False]] * 2)
    assert valid[:, 1:].all()
    assert (pixels[~valid] == 0).all()


def test_a_coarse_mask_is_brought_to_the_grid_by_nearest_neighbour(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 6, 6), 5, dtype="uint8"))
    coarse = np.zeros((1, 3, 3), dtype="uint8")
    coarse[0, 1, 2] = 1
    expected = np.kron(coarse[0], np.ones((2, 2))) == 0
    located = write(tmp_path / "mask.tif", coarse, gsd_m=20.0)
    write_cog(tmp_path / "bare.tif", coarse)
    for place in (located, str(tmp_path / "bare.tif")):
        source, scene = source_of((path, 1), mask=BandFile(place), invalid_values=(1,))
        np.testing.assert_array_equal(read_all(source, scene)[1][0], expected)


def test_a_mask_of_another_shape_without_crs_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 6, 6), 5, dtype="uint8"))
    write_cog(tmp_path / "bare.tif", np.zeros((1, 5, 6), dtype="uint8"))
    source, scene = source_of((path, 1), mask=BandFile(str(tmp_path / "bare.tif")), invalid_values=(1,))
    with pytest.raises(RasterError, match=r"bare\.tif has 5 x 6 pixels and .*a\.tif 6 x 6"):
        read_all(source, scene)


def test_pixels_beyond_the_mask_are_invalid(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 6, 6), 5, dtype="uint8"))
    mask = write(tmp_path / "mask.tif", np.zeros((1, 3, 6), dtype="uint8"))
    source, scene = source_of((path, 1), mask=BandFile(mask), invalid_values=(1,))
    valid = read_all(source, scene)[1][0]
    assert valid[:3].all()
    assert not valid[4:].any()


def test_a_window_is_the_crop_of_the_whole_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for gsd_m, size in ((10, 60), (20, 30), (60, 10)):
        stored = rng.integers(1, 5000, (2, size, size)).astype("uint16")
        stored[rng.random(stored.shape) < 0.1] = 0
        files.append(write(tmp_path / f"{gsd_m}.tif", stored, gsd_m=float(gsd_m), nodata=0, tiled=True, blockxsize=16,
                           blockysize=16))  # fmt: skip
    mask = BandFile(write(tmp_path / "mask.tif", (rng.random((1, 30, 30)) < 0.1).astype("uint8"), gsd_m=20.0))
    band_files = [(path, index) for path in files for index in (1, 2)]
    for gsd_m in (None, 10.0, 7.0, 25.0):
        settings = {"scale_C": (1e-4,) * 6, "offset_C": (-0.1,) * 6, "gsd_m": gsd_m, "invalid_values": (1,)}
        source, scene = source_of(*band_files, mask=mask, **settings)
        pixels, valid = read_all(source, scene)
        assert 0.2 < valid.mean() < 1
        for _ in range(25):
            height, width = (int(one) for one in rng.integers(1, 20, 2))
            row = int(rng.integers(0, pixels.shape[1] - height + 1))
            col = int(rng.integers(0, pixels.shape[2] - width + 1))
            part, part_valid = read(source, scene, Window(row, col, height, width))
            np.testing.assert_array_equal(part, pixels[:, row : row + height, col : col + width])
            np.testing.assert_array_equal(part_valid, valid[:, row : row + height, col : col + width])


def test_threads_read_what_one_thread_reads(tmp_path):
    rng = np.random.default_rng(1)
    files = [
        write(tmp_path / f"{i}.tif", rng.integers(0, 9999, (2, 64, 64)).astype("uint16"), compress="deflate")
        for i in range(80)  # more than a thread keeps open
    ]
    jobs = [(path, int(rng.integers(0, 48)), int(rng.integers(0, 48))) for path in files for _ in range(4)]

    def one(job):
        source, scene = source_of((job[0], 1), (job[0], 2))
        return read(source, scene, Window(job[1], job[2], 16, 16))[0]

    serial = [one(job) for job in jobs]
    with ThreadPoolExecutor(8) as executor:
        for expected, found in zip(serial, executor.map(one, jobs), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_replaced_file_is_read_anew(tmp_path):
    path = tmp_path / "a.tif"
    write_cog(path, np.full((1, 4, 4), 1, dtype="uint8"))
    source, scene = source_of((str(path), 1))
    assert (read_all(source, scene)[0] == 1).all()
    write_cog(path, np.full((1, 5, 4), 2, dtype="uint8"))
    pixels = read_all(source, scene)[0]
    assert pixels.shape == (1, 5, 4)
    assert (pixels == 2).all()


@pytest.mark.parametrize("window", [(0, 0, 5, 4), (-1, 0, 2, 2), (0, 3, 1, 2), (0, 0, 0, 1)])
def test_a_window_beyond_the_grid_is_refused(tmp_path, window):
    source, scene = source_of((write(tmp_path / "a.tif", np.ones((1, 4, 4), "uint8")), 1))
    with pytest.raises(RasterError, match="leaves the grid of 4 x 4"):
        read(source, scene, Window(*window))


def test_a_window_that_needs_too_much_memory_is_refused_by_the_header(tmp_path):
    path = tmp_path / "huge.tif"
    shape = {"count": 1, "height": 60_000, "width": 60_000, "dtype": "uint8", "crs": "EPSG:32633", "transform": UTM}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, sparse_ok=True, **shape):
        pass
    source, scene = source_of((str(path), 1))
    with pytest.raises(RasterError, match="read it in smaller windows"):
        read_all(source, scene)
    assert read(source, scene, Window(59_000, 59_000, 8, 8))[0].shape == (1, 8, 8)


def test_a_file_of_one_huge_block_is_refused_by_the_header(tmp_path, monkeypatch):
    monkeypatch.setattr(headers_module, "LARGEST_BYTES", 1000)
    source, scene = source_of((write(tmp_path / "a.tif", np.ones((1, 64, 64), "uint8")), 1))
    with pytest.raises(RasterError, match=r"a\.tif: one block of 64 x 64 pixels needs .*rewrite the file in tiles"):
        read_all(source, scene)


def test_real_chips_with_fmask(shared_data: Path):
    chip = shared_data / "hls_worldcover/images/chip_004.tif"
    mask = BandFile(str(shared_data / "hls_worldcover/fmask/chip_004.tif"))
    scaled = {"scale_C": (1e-4,) * 7, "gsd_m": 30.0}
    source, scene = source_of(*((str(chip), i) for i in range(1, 8)), mask=mask, invalid_values=(5,), **scaled)
    water = read_labels(mask.path, scene_grid(source, scene), Window(32, 32, 64, 64))[0] == 5
    pixels, valid = read(source, scene, Window(32, 32, 64, 64))
    np.testing.assert_array_equal(valid, np.broadcast_to(~water, valid.shape))
    assert pixels.shape == (7, 64, 64)
    assert -0.1 < pixels.min() <= pixels.max() < 1.5


def test_real_saturated_pixels(shared_data: Path):
    path = str(shared_data / "scenes/landsat7_chiapas_two_dates/LE70220492002106EDC00_stack.gtif")
    band_files = [(path, index) for index in range(1, 7)]
    source, scene = source_of(*band_files, nodata=(-9999.0, 16000.0), scale_C=(1e-4,) * 6)
    pixels, valid = read_all(source, scene)
    assert 0.97 < valid.mean() < 1
    assert pixels.max() < 1.6


@pytest.mark.parametrize("text", ["-1.797693134862316e+308", "-3.4028234663852886e+38", "-3.40282347e+38", "-inf"])
def test_a_nodata_value_beyond_float32_is_its_limit(tmp_path, text):
    pixels = np.full((1, 4, 4), 0.5, np.float32)
    pixels[0, 0] = np.finfo(np.float32).min
    untagged = write(tmp_path / "b.tif", pixels)
    path = write(tmp_path / "a.tif", pixels, nodata=-(2.0**100))
    tag = b"-1.2676506002282294e+30"
    content = (tmp_path / "a.tif").read_bytes()
    assert content.count(tag) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(tag, text.encode().ljust(len(tag), b"\0")))
    for source, scene in (source_of((path, 1)), source_of((untagged, 1), nodata=(float(text),))):
        pixels_CHW, valid_CHW = read_all(source, scene)
        assert valid_CHW[0].tolist() == [[False] * 4] + [[True] * 4] * 3
        assert pixels_CHW[0, 0].tolist() == [0.0] * 4


def test_a_png_that_lost_bytes_is_no_picture(tmp_path):
    """GDAL reads such a file without an error where all of it is asked for at once."""
    path = tmp_path / "a.png"
    values = np.random.default_rng(0).integers(0, 99, (3, 64, 64), dtype=np.uint8)
    shape = {"width": 64, "height": 64, "count": 3, "dtype": "uint8", "transform": UTM}
    with rasterio.open(path, "w", driver="PNG", **shape) as target:
        target.write(values)
    with opened(str(path), remote=False) as dataset:
        info = describe_dataset(str(path), None, dataset)
        assert np.array_equal(read_stored(dataset, info, (1, 2, 3), Span(0, 0, 64, 64), ())[0], values)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 7 :])
    with opened(str(path), remote=False) as dataset, pytest.raises(RasterioIOError):
        read_stored(dataset, info, (1, 2, 3), Span(0, 0, 64, 64), ())
