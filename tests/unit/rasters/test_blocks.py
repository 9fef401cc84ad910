"""Decoded blocks are shared by threads, bounded, and give the bits of the file."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geomae.catalog import BandFile, Scene, Source
from geomae.errors import RasterError
from geomae.rasters import Window, blocks, read, stored
from geomae.rasters.blocks import Blocks, gather
from geomae.sensors import Band

SIDE, BLOCK = 200, 64
UTM = rasterio.Affine(10, 0, 500_000, 0, -10, 5_300_000)


@pytest.fixture
def shared(monkeypatch):
    """Blocks of this test alone."""
    own = Blocks()
    monkeypatch.setattr(blocks, "_SHARED", own)
    return own


def scene_of(*paths, bands=2):
    """A source of one scene, `bands` of each file."""
    files = tuple(BandFile(str(path), 1 + band) for path in paths for band in range(bands))
    described = tuple(Band(f"B{at}", None, 0.5 + at / 10, 0.05, 10.0) for at in range(len(files)))
    scene = Scene("scene", "scene", files)
    count = len(files)
    scale_C = tuple(0.5 + at for at in range(count))
    return Source("data", "sensor", described, "reflectance", scale_C, (1.0,) * count, (7.0,), None, (scene,)), scene


def write(path, dtype="uint16", count=2, mask=False, **how):
    """Noise in which some values are the nodata value 7."""
    pixels_CHW = np.random.default_rng(0).integers(0, 60, (count, SIDE, SIDE)).astype(dtype)
    shape = {"width": SIDE, "height": SIDE, "count": count, "dtype": dtype, "crs": "EPSG:32633", "transform": UTM}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **shape, **how) as target:
        target.write(pixels_CHW)
        if mask:
            target.write_mask(pixels_CHW[0] % 5 > 0)
    return path


def test_blocks_are_bounded_and_the_least_used_goes_first():
    kept, made = Blocks(room=3 * 80), []

    def get(key):
        return kept.get(key, lambda: made.append(key) or np.zeros(10))

    for key in "abcadabce":
        get(key)
    assert made == list("abcdbce")  # a stayed, as it was used in between
    assert kept.size == 3 * 80


def test_a_block_is_decoded_once_for_threads_that_ask_at_once_and_an_error_is_told_to_all():
    kept, begun, go = Blocks(), [], threading.Event()

    def fails():
        begun.append(1)
        go.wait(5)
        raise RasterError("damaged")

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(kept.get, "one", fails) for _ in range(4)]
        while not begun:
            pass
        go.set()
        assert [str(one.exception(5)) for one in waiting] == ["damaged"] * 4
    attempts = len(begun)  # one, or more where a thread came after the error
    go.clear()

    def made():
        begun.append(1)
        go.wait(5)
        return np.arange(3)

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(kept.get, "one", made) for _ in range(4)]
        while len(begun) == attempts:
            pass
        go.set()
        assert all(one.result(5) is waiting[0].result() for one in waiting)
    assert len(begun) == attempts + 1
    assert kept.decoded == 1


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 10), (17, 0), (12, 8)])
def test_a_window_is_gathered_from_the_blocks_that_meet_it(top, left):
    whole = np.arange(2 * 30 * 20).reshape(2, 30, 20)
    asked = []

    def block_at(row, col):
        asked.append((row, col))
        return whole[:, row * 8 : row * 8 + 8, col * 6 : col * 6 + 6]

    np.testing.assert_array_equal(
        gather((top, left), (9, 7), (8, 6), block_at), whole[:, top : top + 9, left : left + 7]
    )
    rows, cols = range(top // 8, (top + 8) // 8 + 1), range(left // 6, (left + 6) // 6 + 1)
    assert asked == list(itertools.product(rows, cols))


FORMATS = {
    "pixel": {"driver": "GTiff", "tiled": True, "interleave": "pixel", "compress": "deflate"},
    "band": {"driver": "GTiff", "tiled": True, "interleave": "band"},
    "strips": {"driver": "GTiff", "blockysize": 3, "compress": "lzw"},
    "float": {"driver": "GTiff", "tiled": True, "dtype": "float32"},
    "mask": {"driver": "GTiff", "tiled": True, "mask": True},
    "alpha": {"driver": "GTiff", "tiled": True, "count": 3, "dtype": "uint8", "photometric": "MINISBLACK", "alpha": 1},
    "jp2": {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", "blockxsize": 64, "blockysize": 64},
    "png": {"driver": "PNG", "dtype": "uint8"},
}  # fmt: skip


@pytest.mark.parametrize("how", FORMATS)
def test_a_window_gives_the_bits_of_the_whole(tmp_path, shared, how):
    options = dict(FORMATS[how])
    if options.get("tiled"):
        options |= {"blockxsize": BLOCK, "blockysize": BLOCK}
    path = write(tmp_path / f"a.{'tif' if options['driver'] == 'GTiff' else how}", **options)
    source, scene = scene_of(path)
    pixels_CHW, valid_CHW = read(source, scene, Window(0, 0, SIDE, SIDE))  # asked of GDAL
    assert shared.decoded == 0 and not valid_CHW.all()
    for row, col in [(0, 0), (60, 70), (130, 10), (180, 180)]:
        part = np.s_[:, row : row + 20, col : col + 20]
        pixels, valid = read(source, scene, Window(row, col, 20, 20))
        np.testing.assert_array_equal(pixels, pixels_CHW[part])
        np.testing.assert_array_equal(valid, valid_CHW[part])
        pixels[:] = -1  # what is given belongs to the caller
        np.testing.assert_array_equal(read(source, scene, Window(row, col, 20, 20))[0], pixels_CHW[part])
    assert shared.decoded > 0


def test_threads_decode_each_block_once(tmp_path, shared):
    source, scene = scene_of(
        *(write(tmp_path / f"{name}.tif", tiled=True, blockxsize=BLOCK, blockysize=BLOCK) for name in "ab")
    )
    windows = [Window(row, col, 16, 16) for row in range(0, 192, 16) for col in range(0, 192, 16)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda window: read(source, scene, window), windows))
    assert shared.decoded == 2 * 9
    assert shared.size == 2 * 9 * 2 * BLOCK * BLOCK * 2


def test_a_sweep_keeps_no_blocks(tmp_path, shared, monkeypatch):
    """Strips over a scene, by which maps are made, stay within the memory that they had."""
    monkeypatch.setattr(stored, "LEAST_SIDE", 16)
    source, scene = scene_of(write(tmp_path / "a.tif", tiled=True, blockxsize=16, blockysize=64))
    expected, _ = read(source, scene, Window(0, 0, SIDE, SIDE))
    for row in range(0, 192, 8):
        np.testing.assert_array_equal(read(source, scene, Window(row, 0, 8, SIDE))[0], expected[:, row : row + 8])
    assert shared.decoded == 0


def test_a_changed_file_is_decoded_anew(tmp_path, shared):
    path = write(tmp_path / "a.tif", tiled=True, blockxsize=BLOCK, blockysize=BLOCK)
    source, scene = scene_of(path)
    before, _ = read(source, scene, Window(0, 0, 16, 16))
    with rasterio.open(path, "r+") as target:
        target.write(np.full((2, SIDE, SIDE), 9, np.uint16))
    os.utime(path, ns=(0, Path(path).stat().st_mtime_ns + 10**9))
    after, _ = read(source, scene, Window(0, 0, 16, 16))
    assert (after[0] == 9 * 0.5 + 1).all() and not (before == after).all()
