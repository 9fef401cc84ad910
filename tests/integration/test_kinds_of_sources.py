"""STAC items and cubes give every command, to the bit, what the same pixels give as plain files.

C bands, H W pixels
"""

import csv
import functools
import shutil

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import xarray
from helpers import SMALL, write_catalog
from stac_documents import RangeHandler, item_of, serving, write_collection, write_table

from geomae.commands import compare_recon, embed_pca, predict, pretrain, probe
from geomae.commands.options import CommonOptions
from geomae.models.folder import load_model
from geomae.rasters import write_cog
from geomae.tiles.sample_landscape import BANDS, landscape

pytestmark = pytest.mark.usefixtures("little_encoder")
CATALOG = """\
version: 1
datasets:
  files: {path: land/*.tif, bands: [BANDS], nodata: 0, REST}
  items: {stac: {items: items.json}, REST}
  table: {stac: {items: items.parquet}, REST}
  http: {stac: {items: http.json}, remote: true, REST}
  zarr2: {cube: {path: two/*.zarr}, REST}
  zarr3: {cube: {path: three/*.zarr}, REST}
  netcdf: {cube: {path: netcdf/*.nc}, REST}
"""
REST = """sensor: sentinel-2-l2a, unit: reflectance, scale: 0.0001, offset: 0, gsd_m: 10, tile: {size: 16},
    label: {raster: 'land/labels/{stem}.tif', classes: {2: natural, 3: natural, 4: natural, 5: used, 6: used, 7: used}},
    split: {random: {train: 0.7, test: 0.3}, seed: 0}"""
ON_A_MAP = ("items", "table", "http", "zarr2", "zarr3", "netcdf")
WITHOUT_CRS = ("zarr3", "netcdf")  # STAC items always say where they are


def write_cubes(folder, path):
    """The raster `path` as Zarr stores of both versions and as a NetCDF file, each with rows from the south."""
    with rasterio.open(path) as file:
        pixels_CHW, corner, crs = file.read(), file.transform, file.crs
    row, col = (np.arange(side) + 0.5 for side in pixels_CHW.shape[1:])
    stored = {"_FillValue": np.uint16(0)} | ({"grid_mapping": "spatial_ref"} if crs else {})
    arrays = {name: (("y", "x"), pixels_CHW[at], stored) for at, name in enumerate(BANDS)}
    cube = xarray.Dataset(arrays, coords={"y": corner.f + corner.e * row, "x": corner.c + corner.a * col})
    if crs:
        cube["spatial_ref"] = ((), 0, pyproj.CRS.from_epsg(crs.to_epsg()).to_cf())
    cube = cube.isel(y=slice(None, None, -1))
    cube.to_zarr(folder / "two" / f"{path.stem}.zarr", zarr_format=2, consolidated=True)
    cube.to_zarr(folder / "three" / f"{path.stem}.zarr", zarr_format=3, consolidated=False)
    cube.to_netcdf(folder / "netcdf" / f"{path.stem}.nc", engine="h5netcdf")


@pytest.fixture(scope="module")
def on_a_map(tmp_path_factory):
    """A catalogue of two scenes in all kinds of sources."""
    folder = tmp_path_factory.mktemp("kinds")
    shutil.copytree(landscape(size=96, scenes=1), folder / "land")
    rasters = sorted((folder / "land").glob("*.tif"))
    for name in ("two", "three", "netcdf"):
        (folder / name).mkdir()
    for path in rasters:
        write_cubes(folder, path)
    items = [item_of(path, "land/") for path in rasters]
    write_collection(folder / "items.json", items)
    write_table(folder / "items.parquet", [item_of(path, "land/", version="1.1.0") for path in rasters])
    with serving(functools.partial(RangeHandler, directory=folder / "land")) as address:
        write_collection(folder / "http.json", [item_of(path, f"{address}/") for path in rasters])
        yield write_catalog(folder, CATALOG.replace("BANDS", ", ".join(BANDS)).replace("REST", REST))


@pytest.fixture(scope="module")
def without_crs(tmp_path_factory):
    """The same scenes without a coordinate reference system, as files and as cubes."""
    folder = tmp_path_factory.mktemp("without-crs")
    land = landscape(size=96, scenes=1)
    for name in ("two", "three", "netcdf"):
        (folder / name).mkdir()
    for path in sorted(land.rglob("*.tif")):
        with rasterio.open(path) as file:
            place = folder / "land" / path.relative_to(land)
            write_cog(place, file.read(), crs=None, transform=tuple(file.transform)[:6])
        if path.parent == land:
            write_cubes(folder, place)
    lines = [line for line in CATALOG.splitlines(keepends=True) if "stac" not in line]
    return write_catalog(folder, "".join(lines).replace("BANDS", ", ".join(BANDS)).replace("REST", REST))


def results(catalog, kind, out, tracking_uri):
    """Everything that the five commands make of the data set `kind`, as values that can be compared."""
    made = out / kind
    trained = pretrain.PretrainOptions(
        catalog=catalog, datasets=(f"{kind}@train",), changes=(*SMALL, "steps=2"), out=made / "run", device="cpu",
        precision="32", tracking_uri=tracking_uri, quiet=True,
    )  # fmt: skip
    assert pretrain.run(trained) == 0

    def common(name):
        return CommonOptions(catalog, made / name, device="cpu", precision="32", quiet=True, tracking_uri=tracking_uri)

    encoder = f"mine={made / 'run' / 'model'}"
    assert embed_pca.run(embed_pca.EmbedPcaOptions(common("pca"), (encoder,), (kind,))) == 0
    asked = probe.ProbeOptions(
        common("probe"), f"{kind}@train", (f"{kind}@test",), (encoder,), strength=1.0, baselines=False
    )
    assert probe.run(asked) == 0
    saved = made / "probe" / "probes" / "mine"
    assert predict.run(predict.PredictOptions(common("map"), saved, (kind,))) == 0
    compared = compare_recon.CompareReconOptions(
        (str(made / "run" / "model"),), (kind,), show="best", scenes=1, common=common("recon")
    )
    assert compare_recon.run(compared) == 0
    weights = load_model(made / "run" / "model").mae.state_dict()
    found = {f"weights {name}": value.numpy() for name, value in weights.items()}
    for name in ("pca/embeddings.parquet", "map/predictions.parquet"):
        frame = geopandas.read_parquet(made / name)
        own = frame.drop(columns=["dataset", "selector", "domain"], errors="ignore")  # the names of the data set
        found |= {f"{name} {column}": np.stack(own[column]) for column in own}
    for name in ("probe/probe.csv", "map/accuracy.csv", "map/area.csv", "recon/reconstruction.csv"):
        if (made / name).exists():
            with (made / name).open(encoding="utf-8") as file:
                found[name] = np.array([",".join(row).replace(kind, "KIND") for row in csv.reader(file)])
    for path in sorted(made.glob("*/*.tif")):
        with rasterio.open(path) as file:
            found[f"raster {path.relative_to(made)} {file.crs} {tuple(file.transform)}"] = file.read()
    return found


@pytest.fixture(scope="module")
def expected(on_a_map, tracking_uri, tmp_path_factory):
    return results(on_a_map, "files", tmp_path_factory.mktemp("expected"), tracking_uri)


@pytest.fixture(scope="module")
def expected_without_crs(without_crs, tracking_uri, tmp_path_factory):
    return results(without_crs, "files", tmp_path_factory.mktemp("expected"), tracking_uri)


def compare(found, wanted):
    assert len(wanted) > 30 and any(name.startswith("raster map/map_") for name in wanted)
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert np.array_equal(found[name], values, equal_nan=values.dtype.kind == "f"), name


@pytest.mark.parametrize("kind", ON_A_MAP)
def test_every_kind_gives_what_plain_files_give(kind, on_a_map, expected, tracking_uri, tmp_path):
    compare(results(on_a_map, kind, tmp_path, tracking_uri), expected)


@pytest.mark.parametrize("kind", WITHOUT_CRS)
def test_cubes_without_crs(kind, without_crs, expected_without_crs, tracking_uri, tmp_path):
    compare(results(without_crs, kind, tmp_path, tracking_uri), expected_without_crs)
