"""Cubes: the figures of plain files to the bit, in any order of dimensions; what is refused, and the remedy."""

import functools
import json
import shutil

import h5py
import numpy as np
import pyproj
import pytest
import xarray as xr
import zarr
from stac_documents import RangeHandler, serving

from geomae.catalog import open_catalog
from geomae.catalog.schema_cubes import CubeAddress, cube_address, is_cube
from geomae.errors import CatalogError
from geomae.rasters import Window, read, write_cog
from geomae.rasters.grids import scene_grid
from geomae.tiles.index import build_index
from geomae.tiles.reader import TileReader
from geomae.tiles.sources import open_source

BANDS = ("red", "green", "blue", "nir")
SIDE = 32
TRANSFORM = (5.0, 0.0, 400_000.0, 0.0, -5.0, 5_000_000.0)
ENTRY = """    sensor: naip
    unit: reflectance
    tile: {size: 16}
"""


def pixels_TCHW():
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 4000, (2, 4, SIDE, SIDE)).astype("uint16")
    pixels[0, :, :4, :4] = 0
    return pixels


def cube(*, crs=True, y_up=False, order=("time", "y", "x"), stacked=False, **attributes):
    pixels = pixels_TCHW()
    y = TRANSFORM[5] - 5 * (np.arange(SIDE) + 0.5)
    coords = {"y": y, "x": TRANSFORM[2] + 5 * (np.arange(SIDE) + 0.5)}
    coords["time"] = np.array(["2021-06-07", "2021-08-07T10:00:31"], "M8[ns]")
    stored = {"scale_factor": 0.0001, "_FillValue": np.uint16(0), **({"grid_mapping": "spatial_ref"} if crs else {})}
    if stacked:
        arrays = {"values": (("time", "band", "y", "x"), pixels, {**stored, **attributes})}
        coords["band"] = list(BANDS)
    else:
        arrays = {name: (("time", "y", "x"), pixels[:, at], {**stored, **attributes}) for at, name in enumerate(BANDS)}
    made = xr.Dataset(arrays, coords=coords)
    if crs:
        made["spatial_ref"] = ((), 0, pyproj.CRS.from_epsg(32632).to_cf())
    made = made.isel(y=slice(None, None, -1)) if y_up else made
    return made.transpose(*(("time", "band", "y", "x") if stacked else order), missing_dims="ignore")


def save(made, path, kind):
    chunks = {
        name: tuple(16 if dim in ("x", "y") else 1 for dim in one.dims)
        for name, one in made.data_vars.items()
        if one.ndim > 1
    }
    if kind == "nc":
        made.to_netcdf(path, engine="h5netcdf", encoding={name: {"chunksizes": one} for name, one in chunks.items()})
    else:
        encoding = {name: {"chunks": one} for name, one in chunks.items()}
        made.to_zarr(path, zarr_format=int(kind), encoding=encoding, consolidated=kind == "2")
    return path


def catalog_of(folder, key="path: c.zarr", entry=ENTRY):
    (folder / "c.yaml").write_text(f"version: 1\ndatasets:\n  c:\n    cube: {{{key}}}\n{entry}")
    return open_catalog(folder / "c.yaml")


def refused(folder, *said, key="path: c.zarr", entry=ENTRY):
    with pytest.raises(CatalogError) as caught:
        open_source(catalog_of(folder, key, entry), "c")
    text = str(caught.value)
    assert "c.yaml:" in text and "\n" not in text
    for one in said:
        assert one in text


def plain(folder, crs=True, pixels=None):
    where = {"crs": "EPSG:32632" if crs else None, "transform": TRANSFORM}
    for at, pixels_CHW in enumerate(pixels_TCHW() if pixels is None else pixels):
        write_cog(folder / f"p/{at}.tif", pixels_CHW, descriptions=BANDS, nodata=0, **where)
    text = f"version: 1\ndatasets:\n  p:\n    path: p/*.tif\n    scale: 0.0001\n    offset: 0\n{ENTRY}"
    (folder / "p.yaml").write_text(text)
    return build_index(open_catalog(folder / "p.yaml"), "p")


def assert_same(one, other):
    assert len(one) == len(other)
    assert one.source.scale_C == other.source.scale_C
    assert one.grids == other.grids
    for position in range(len(one)):
        for mine, theirs in zip(TileReader(one).read(position), TileReader(other).read(position), strict=True):
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("crs", [True, False])
@pytest.mark.parametrize("kind", ["2", "3", "nc"])
def test_a_cube_gives_what_plain_files_give(tmp_path, kind, crs):
    made = cube(crs=crs, y_up=True, order=("x", "time", "y"))
    name = "c.nc" if kind == "nc" else "c.zarr"
    save(made, tmp_path / name, kind)
    index = build_index(catalog_of(tmp_path, f"path: {name}"), "c")
    assert_same(index, plain(tmp_path, crs))
    assert [scene.time for scene in index.source.scenes] == ["2021-06-07", "2021-08-07T10:00:31Z"]
    assert [scene.id for scene in index.source.scenes] == ["c_20210607", "c_20210807"]


@pytest.mark.parametrize("kind", ["2", "3"])
def test_a_remote_cube_gives_what_a_local_one_gives(tmp_path, kind):
    save(cube(), tmp_path / "c.zarr", kind)
    remote = ENTRY + "    remote: true\n"
    with serving(functools.partial(RangeHandler, directory=tmp_path)) as address:
        if kind == "3":
            refused(tmp_path, "needs consolidated metadata", key=f"path: '{address}/c.zarr'", entry=remote)
            with pytest.warns(UserWarning, match="Consolidated"):
                zarr.consolidate_metadata(tmp_path / "c.zarr")
        index = build_index(catalog_of(tmp_path, f"path: '{address}/c.zarr'", remote), "c")
        assert_same(index, plain(tmp_path))
        refused(tmp_path, "check the address", key=f"path: '{address}/none.zarr'", entry=remote)
        refused(tmp_path, "only Zarr stores are read", key=f"path: '{address}/c.nc'", entry=remote)


def test_bands_along_a_dimension(tmp_path):
    save(cube(stacked=True), tmp_path / "c.nc", "nc")
    assert_same(build_index(catalog_of(tmp_path, "path: c.nc"), "c"), plain(tmp_path))


def test_valid_range_missing_value_and_a_quality_array(tmp_path):
    made = cube(valid_range=np.array([1, 3000], "uint16"), missing_value=np.uint16(7))
    made["quality"] = (("y", "x"), np.eye(SIDE, dtype="uint8"))
    save(made, tmp_path / "c.nc", "nc")
    entry = ENTRY + "    mask: {band: quality, invalid_values: [1]}\n"
    source = open_source(catalog_of(tmp_path, "path: c.nc", entry), "c")
    valid = read(source, source.scenes[1], Window(0, 0, SIDE, SIDE))[1]
    stored = pixels_TCHW()[1]
    assert np.array_equal(valid, (stored >= 1) & (stored <= 3000) & (stored != 7) & ~np.eye(SIDE, dtype=bool))


def test_only_the_chunks_of_a_window_are_read(tmp_path, monkeypatch):
    from zarr.storage import LocalStore

    save(cube(), tmp_path / "c.zarr", "3")
    source = open_source(catalog_of(tmp_path), "c")
    scene_grid(source, source.scenes[0])
    wanted = []
    get = LocalStore.get

    async def counted(self, key, *arguments, **options):
        wanted.append(key)
        return await get(self, key, *arguments, **options)

    monkeypatch.setattr(LocalStore, "get", counted)
    for _ in range(2):
        read(source, source.scenes[1], Window(0, 16, 16, 16))
    chunks = sorted(key for key in wanted if key.split("/")[0] in BANDS and "/c/" in key)
    assert chunks == sorted(f"{band}/c/1/0/1" for band in BANDS)


def test_small_windows_of_an_array_without_chunks_share_one_request(tmp_path, monkeypatch):
    """A request takes HDF5 milliseconds, and a data set has thousands of tiles."""
    import h5netcdf

    cube().to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    source = open_source(catalog_of(tmp_path, "path: c.nc"), "c")
    scene_grid(source, source.scenes[0])
    wanted = []
    get = h5netcdf.Variable.__getitem__
    monkeypatch.setattr(h5netcdf.Variable, "__getitem__", lambda self, key: wanted.append(self.name) or get(self, key))
    for row in range(0, SIDE, 16):
        found = read(source, source.scenes[1], Window(row, 16, 16, 16))[0]
        assert np.allclose(found, 0.0001 * pixels_TCHW()[1, :, row : row + 16, 16:32])
    assert sorted(name for name in wanted if name not in ("/x", "/y")) == sorted(f"/{band}" for band in BANDS)


def test_an_address_is_read_as_it_is_written():
    address = CubeAddress("/a b/c.zarr", "B02, [x]", "lat", "lon", None, "time", 3)
    assert is_cube(str(address)) and cube_address(str(address)) == address
    assert not is_cube("/a/b.tif") and not is_cube("/a/b[1]")


def test_dimensions_that_are_not_clear(tmp_path):
    save(cube().rename(y="lines"), tmp_path / "c.zarr", "3")
    refused(tmp_path, "time, lines, x", "name it: `y:`")
    assert len(open_source(catalog_of(tmp_path, "path: c.zarr, y: lines"), "c").scenes) == 2
    made = cube()
    made["swir"] = (("time", "lat", "x"), np.ones((2, 4, SIDE), "uint16"))
    shutil.rmtree(tmp_path / "c.zarr")
    save(made, tmp_path / "c.zarr", "3")
    refused(tmp_path, "y can be", "name one with `y:`")
    refused(tmp_path, "'swir'", "is not on the grid", key="path: c.zarr, y: y, variables: [red, swir]")


def test_ten_thousand_bands_are_a_mistake(tmp_path):
    xr.Dataset({"v": (("band", "y", "x"), np.ones((10_000, 2, 2), "uint8"))}).to_netcdf(
        tmp_path / "c.nc", engine="h5netcdf"
    )
    refused(tmp_path, "its dimension 'band' has 10000 bands", key="path: c.nc")


def test_uneven_coordinates(tmp_path):
    made = cube()
    save(made.assign_coords(x=made.x.values + 3 * (np.arange(SIDE) == 5)), tmp_path / "c.nc", "nc")
    refused(tmp_path, "'x' are not evenly spaced", "warp it to a regular grid", key="path: c.nc")


def test_a_store_that_is_being_written(tmp_path):
    store = save(cube(), tmp_path / "c.zarr", "2")
    (store / "red" / "0.0.0.abc.partial").write_bytes(b"")
    refused(tmp_path, "being written")
    (store / "red" / "0.0.0.abc.partial").unlink()
    described = json.loads((store / "red" / ".zarray").read_text())
    (store / "red" / ".zarray").write_text(json.dumps({**described, "shape": [3, SIDE, SIDE]}))
    refused(tmp_path, "consolidated metadata do not match its array 'red'", "zarr.consolidate_metadata")
    (store / "red" / ".zarray").write_text(json.dumps(described)[:40])
    refused(tmp_path, ".zarray: cannot be read", "damaged or being written")


@pytest.mark.parametrize("kind", ["2", "3"])
def test_chunks_that_are_not_there_are_fill_value(tmp_path, kind, caplog):
    pixels = pixels_TCHW()
    pixels[1, :3, 16:, :16] = 0  # as `_FillValue`
    made = cube()
    for at, name in enumerate(BANDS):
        made[name][:] = pixels[:, at]
    store = save(made, tmp_path / "c.zarr", kind)
    assert not (store / "red" / ("1.1.0" if kind == "2" else "c/1/1/0")).exists()  # left out by the writer
    index = build_index(catalog_of(tmp_path), "c")
    assert_same(index, plain(tmp_path, pixels=pixels))
    said = [one.message for one in caplog.records if "lack chunks" in one.message]
    if kind == "2":  # consolidated, so it was written to the end
        assert not said
    else:
        (said,) = set(said)
        assert "c.yaml:4: datasets.c.cube: 1 of 1 cubes lack chunks" in said
        assert "1 of 8 chunks of 'blue' (read as 0), and some of 2 more arrays" in said


def test_nothing_leaves_a_store_and_no_codec_runs_code(tmp_path):
    store = save(cube(), tmp_path / "c.zarr", "2")
    described = json.loads((store / "red" / ".zarray").read_text())
    for name, key in ((".zarray", None), (".zmetadata", "red/.zarray")):
        bad = {**described, "filters": [{"id": "pickle", "protocol": 5}]}
        place = (store / "red" / name) if key is None else store / name
        values = json.loads(place.read_text())
        place.write_text(json.dumps(bad if key is None else {**values, "metadata": {**values["metadata"], key: bad}}))
    refused(tmp_path, "'red' is stored with the codec 'pickle'")
    (store / "away").symlink_to(tmp_path)
    refused(tmp_path, "away in it is a link")
    with h5py.File(tmp_path / "c.nc", "w") as file:
        file["far"] = h5py.ExternalLink("other.h5", "/x")
    refused(tmp_path, "far is an external link", key="path: c.nc")


def test_an_address_on_a_network_needs_to_be_allowed(tmp_path):
    refused(tmp_path, "is not on this machine; add `remote: true`", key="path: 'https://example.org/c.zarr'")
