"""A file of a format that is not read is called by its name, with what to do; a damaged one is to be restored."""

import zipfile

import numpy as np
import pytest
import rasterio
import xarray
from helpers import called, changed_catalog, refused, write_catalog

from geomae.errors import RasterError
from geomae.rasters.opening import header

CONVERT = "write it as GeoTIFF: gdal_translate -of COG"
CUBE = "and is not read as a raster; it is a cube: name it by `cube: {path: ...}` in place of `path`"
HDF5 = b"\x89HDF\r\n\x1a\n"


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.tif", b"II*\0")


def erdas(path):
    shape = {"driver": "HFA", "width": 4, "height": 4, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **shape, crs="EPSG:32632", transform=rasterio.Affine(1, 0, 9, 0, -1, 9)) as file:
        file.write(np.ones((1, 4, 4), dtype=np.uint8))


def beginning(content):
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("a.zip", zipped, "is an archive, and is not read as a raster; unpack it"),
        ("a.tif", zipped, "is an archive, and is not read as a raster; unpack it"),
        ("a.img", erdas, f"is Erdas Imagine, and is not read as a raster; {CONVERT} a.img a.tif"),
        (
            "a.nc",
            beginning(b"CDF\x01more"),
            "is classic NetCDF, and is not read as a raster; rewrite it as NetCDF 4, nc",
        ),
        ("a.nc", beginning(b"CDF\x01more"), "nccopy -k nc4 a.nc a-4.nc, and name that by `cube`"),
        ("a.nc", beginning(HDF5), f"is NetCDF, {CUBE}"),
        ("a.h5", beginning(HDF5), f"is HDF5, {CUBE}"),
        ("a", beginning(HDF5), f"is HDF5, {CUBE}"),
        ("a.hdf", beginning(b"\x0e\x03\x13\x01"), "is HDF, and is not read as a raster; write its sub-datasets"),
        ("a.grib2", beginning(b"GRIB"), f"is GRIB, and is not read as a raster; {CONVERT} a.grib2 a.tif"),
        ("a.bil", beginning(b"1234"), f"is ENVI, and is not read as a raster; {CONVERT} a.bil a.tif"),
        (
            "a.tif",
            beginning(b"<!DOCTYPE html>"),
            "is a web page, as a failed download leaves it, and is not read as a raster; fetch",
        ),
        ("a.tif", beginning(b"version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
        ("a.tif", beginning(b"<VRTDataset>"), "gdal_translate -of COG a.tif a-converted.tif"),
        ("a.tif", beginning(b"1234"), "cannot be read (not recognized"),
        ("a.tif", beginning(b""), "restore the file or leave it out"),
    ],
)
def test_what_a_file_is_and_what_to_do(tmp_path, name, make, said):
    make(tmp_path / name)
    with pytest.raises(RasterError) as caught:
        header(str(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert said in str(caught.value)
    assert ("restore the file" in str(caught.value)) == (said[0] in "cr")


def test_zarr_is_a_folder(tmp_path):
    xarray.Dataset({"b": (("y", "x"), np.ones((4, 4)))}).to_zarr(tmp_path / "zarr" / "a.zarr", consolidated=False)
    write_catalog(tmp_path, changed_catalog("scenes/*.tif", "zarr/*.zarr"))
    said = [f"a.zarr is a Zarr store, {CUBE}"]
    refused(called("catalog", "check", cwd=tmp_path), "data_catalog.yaml:4: datasets.tiny.path: zarr/", *said)
    write_catalog(tmp_path, changed_catalog("scenes/*.tif", "zarr/a.zarr"))
    refused(called("catalog", "check", cwd=tmp_path), "data_catalog.yaml:4", *said)
