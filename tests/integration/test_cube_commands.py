"""`geomae embed` gives of cubes what it gives of the same pixels as plain files.

C bands, H W pixels
"""

import shutil

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import xarray
from helpers import write_catalog

from geomae.commands.embed import EmbedOptions, run
from geomae.commands.options import CommonOptions
from geomae.tiles.sample_landscape import BANDS, landscape

CATALOG = """\
version: 1
datasets:
  files: {path: land/*.tif, bands: [BANDS], nodata: 0, REST}
  zarr: {cube: {path: cubes/*.zarr}, REST}
  netcdf: {cube: {path: cubes/*.nc}, REST}
"""
REST = """sensor: sentinel-2-l2a, unit: reflectance, scale: 0.0001, offset: 0, tile: {size: 16},
    label: {raster: 'land/labels/{stem}.tif', classes: {2: forest, 5: crop, 6: bare}, min_purity: 0.4},
    table: {path: land/scenes.csv, key: scene}, domain: {column: domain}"""


def write_cubes(folder, path):
    """The raster `path` as a Zarr store and as a NetCDF file, each with rows from the south."""
    with rasterio.open(path) as file:
        pixels_CHW, corner, epsg = file.read(), file.transform, file.crs.to_epsg()
    row, col = (np.arange(side) + 0.5 for side in pixels_CHW.shape[1:])
    stored = {"_FillValue": np.uint16(0), "grid_mapping": "spatial_ref"}
    arrays = {name: (("y", "x"), pixels_CHW[at], stored) for at, name in enumerate(BANDS)}
    cube = xarray.Dataset(arrays, coords={"y": corner.f + corner.e * row, "x": corner.c + corner.a * col})
    cube["spatial_ref"] = ((), 0, pyproj.CRS.from_epsg(epsg).to_cf())
    cube = cube.isel(y=slice(None, None, -1))
    cube.to_zarr(folder / f"{path.stem}.zarr", zarr_format=3, consolidated=False)
    cube.to_netcdf(folder / f"{path.stem}.nc", engine="h5netcdf")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubes")
    shutil.copytree(landscape(size=64, scenes=1), folder / "land")
    (folder / "cubes").mkdir()
    for path in sorted((folder / "land").glob("*.tif")):
        write_cubes(folder / "cubes", path)
    return write_catalog(folder, CATALOG.replace("BANDS", ", ".join(BANDS)).replace("REST", REST))


def test_embeddings_of_cubes_are_those_of_plain_files(catalog, tracking_uri, tmp_path):
    common = CommonOptions(catalog, tmp_path, device="cpu", precision="32", quiet=True, tracking_uri=tracking_uri)
    assert run(EmbedOptions(common, ("baseline:statistics",), ("files", "zarr", "netcdf"))) == 0
    frame = geopandas.read_parquet(tmp_path / "embeddings.parquet")
    files, *cubes = (frame[frame["dataset"] == name].drop(columns="dataset") for name in ("files", "zarr", "netcdf"))
    assert len(files) > 20 and len(files.columns) > 8
    for cube in cubes:
        for column in files.columns:
            assert np.array_equal(np.stack(cube[column]), np.stack(files[column])), column
