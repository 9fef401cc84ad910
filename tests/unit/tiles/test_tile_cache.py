"""The cache of decoded pixels: the bits of the files, within its room, shared, and never trusted when damaged."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio

import geomae
from geomae.config import Data
from geomae.errors import ConfigError
from geomae.rasters import Window, read
from geomae.tiles import tile_cache as module
from geomae.tiles.index import build_index
from geomae.tiles.reader import TileReader
from geomae.tiles.tile_cache import CachedScenes, TileCache, cache_note, tile_cache

WIDE = Window(2, 3, 30, 29)
CATALOG = """
version: 1
datasets:
  fields:
    path: "fields_{{band}}.tif"
    sensor:
      unit: reflectance
      bands: [{{name: red, wavelength_um: 0.66, fwhm_um: 0.04}}, {{name: nir, wavelength_um: 0.86, fwhm_um: 0.04}}]
    scale: {scale}
    offset: 0
    nodata: 5
    tile: {{size: 8}}
"""


@pytest.fixture(scope="module")
def index_of(tmp_path_factory):
    """Tiles of a scene of 40 x 40, of whose bands one is twice as coarse; 5 is no data."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    for band, side, gsd_m in (("red", 40, 10), ("nir", 20, 20)):
        place = rasterio.Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_300_000)
        shape = {"count": 1, "width": side, "height": side, "dtype": "uint16", "crs": "EPSG:32633", "transform": place}
        with rasterio.open(folder / f"fields_{band}.tif", "w", driver="GTiff", **shape) as target:
            target.write(rng.integers(0, 50, (1, side, side), dtype=np.uint16))

    def make(scale=0.5):
        (folder / "catalog.yaml").write_text(CATALOG.format(scale=scale))
        return build_index(geomae.open_catalog(folder / "catalog.yaml"), "fields")

    return make


@pytest.fixture
def decoded(monkeypatch):
    """The windows that are read from files; squares have 16 pixels."""
    windows = []
    monkeypatch.setattr(module, "SIDE", 16)
    monkeypatch.setattr(module, "read", lambda *which: windows.append(which[2]) or read(*which))
    return windows


def files(folder):
    """The squares in a cache."""
    return sorted(folder.glob("*/*.npy"))


def test_pixels_are_those_of_the_files_and_these_are_decoded_once(tmp_path, index_of, decoded):
    index = index_of()
    plain, kept = TileReader(index), TileReader(index, cache=TileCache(tmp_path, 10**6))
    assert not all(plain.read(position)[1].all() for position in range(25))
    for position in range(25):
        for expected, found in zip(plain.read(position), kept.read(position), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert len(decoded) == len(files(tmp_path)) == 9  # 3 x 3 squares
    # Another training, of other bands and windows that cross squares, decodes nothing.
    other = TileReader(index, bands=["nir"], cache=TileCache(tmp_path, 10**6))
    for expected, found in zip(plain.window(0, WIDE), other.window(0, WIDE), strict=True):
        np.testing.assert_array_equal(found, expected[1:])
    assert len(decoded) == 9
    found[:] = False  # what is given belongs to the caller
    assert other.window(0, WIDE)[1].any()


def test_threads_decode_a_square_once(tmp_path, index_of, decoded):
    scenes = CachedScenes(TileCache(tmp_path, 10**6), index_of())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda col: scenes.read(0, Window(0, col, 4, 4)), [0, 1, 2, 3] * 4))
    assert decoded == [Window(0, 0, 16, 16)]


@pytest.mark.parametrize("damage", ["cut", "longer", "bit", "zeros", "foreign", "empty"])
def test_a_damaged_file_is_made_again(tmp_path, index_of, decoded, damage):
    index = index_of()
    expected = TileReader(index, cache=TileCache(tmp_path, 10**6)).read(0)
    (path,) = files(tmp_path)
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(
        {
            "cut": good[:-9], "longer": good + b"\0", "foreign": b"text", "empty": b"",
            "bit": good[:middle] + bytes([good[middle] ^ 4]) + good[middle + 1 :],
            "zeros": good[:middle] + bytes(64) + good[middle + 64 :],
        }[damage]
    )  # fmt: skip
    again = TileReader(index, cache=TileCache(tmp_path, 10**6)).read(0)
    assert len(decoded) == 2 and path.read_bytes() == good
    assert all(np.array_equal(one, other) for one, other in zip(expected, again, strict=True))


def test_what_changes_pixels_has_other_names(tmp_path, index_of, decoded):
    one, other = (TileReader(index_of(scale), cache=TileCache(tmp_path, 10**6)).read(0)[0] for scale in (0.5, 0.25))
    np.testing.assert_array_equal(one, 2 * other)
    assert len(files(tmp_path)) == 2


def test_the_room_is_kept_and_only_what_is_idle_gives_way(tmp_path, index_of, decoded):
    square = 2 * 16 * 16 * 4 + 200  # bytes of two bands, and the header
    room = 4 * square
    first = TileReader(index_of(), cache=TileCache(tmp_path, room))
    pixels = [first.read(position)[0] for position in range(25)]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= room
    before = files(tmp_path)
    assert 4 <= len(before) < 9
    for position in range(25):  # another epoch: what is kept stays, the rest is decoded
        np.testing.assert_array_equal(first.read(position)[0], pixels[position])
    assert files(tmp_path) == before
    for path in before[1:]:
        os.utime(path, (time.time() - 7200,) * 2)
    unfinished = before[0].with_name(".unfinished-x.npy")
    unfinished.touch()
    os.utime(unfinished, (time.time() - 7200,) * 2)
    second = TileReader(index_of(0.25), cache=TileCache(tmp_path, room))
    for position in range(25):
        second.read(position)
    after = files(tmp_path)
    assert set(after) & set(before) == {before[0]} and len(after) >= 4
    assert sum(path.stat().st_size for path in after) <= room
    assert not unfinished.exists()


def test_a_configuration_asks_for_a_cache(tmp_path, index_of, monkeypatch):
    assert tile_cache(Data()) is None
    one = Data(cache=str(tmp_path / "new"), cache_gb=0.5)
    assert tile_cache(one) is tile_cache(one)
    assert tile_cache(one).room == 5 * 10**8
    (tmp_path / "file").touch()
    assert not (tmp_path / "new").exists()  # before a tile is read
    with pytest.raises(ConfigError, match=r"data\.cache: .*/file is a file; name a folder"):
        tile_cache(Data(cache=str(tmp_path / "file" / "below")))
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path)
    with pytest.raises(ConfigError, match=r"data\.cache: .* cannot be written; check the permissions, or name another"):
        tile_cache(Data(cache=str(tmp_path / "other")))
    index = index_of()
    assert cache_note(one, index) == cache_note(Data(), index) == []
    (note,) = cache_note(Data(cache="x", cache_gb=1e-6), index)
    assert note.startswith("fields: its scenes take 0.0 GB decoded, more than the 1e-06 of data.cache_gb")


def test_a_folder_that_goes_away_costs_time_and_nothing_else(tmp_path, index_of, decoded, monkeypatch):
    reader = TileReader(index_of(), cache=TileCache(tmp_path / "cache", 10**6))
    expected = [TileReader(index_of()).read(position)[0] for position in (0, 24)]
    (tmp_path / "cache").touch()  # a file is in the way
    for position, pixels in zip((0, 24), expected, strict=True):
        np.testing.assert_array_equal(reader.read(position)[0], pixels)
