"""The unit that `catalog init` proposes: from what files state, else from names and a sample of the values."""

import numpy as np
import pytest
import rasterio
import xarray as xr
from drafted_catalogs import draft

from geomae.catalog import open_catalog
from geomae.discovery.draft_catalog import infer_catalog, unresolved
from geomae.discovery.stored_values import band_values, sample_values

BLUE_TO_NIR = ("B02", "B03", "B04", "B08")
OWN_C2 = (2.75e-05, -0.2)


def raster(path, low, high, names=("",), *, dtype="float32", units=(), nodata=None, tags=None, softmax=False):
    """Even noise between two values; its upper rows are nodata, where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels_CHW = np.random.default_rng(0).uniform(low, high, (len(names), 64, 64))
    if softmax:
        pixels_CHW /= pixels_CHW.sum(axis=0)
    if nodata is not None:
        pixels_CHW[:, :8] = nodata
    form = {"count": len(names), "height": 64, "width": 64, "dtype": dtype, "crs": "EPSG:32632", "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **form) as to:
        to.write(pixels_CHW.astype(dtype))
        to.descriptions = [name or None for name in names]
        if units:
            to.units = units
        if tags:
            to.scales, to.offsets = ([one] * len(names) for one in tags)


def drafted(folder):
    """The only entry of the first catalogue of a folder: unit, scale, offset, and the remark on the unit."""
    catalog, name, text = draft(folder)
    entry = catalog.entry(name)
    remark = next(line.partition("#")[2].strip() for line in text.splitlines() if "    unit: " in line)
    return (entry.unit, entry.scale, entry.offset), remark


KNOWN = [
    ("S1A_IW_GRD_1.tif", (-25, -4, ("VV", "VH")), ("decibel", 1, 0), "a guess from values -24.69 to -4.123"),
    ("S1A_IW_GRD_1.tif", (0.003, 0.4, ("VV", "VH")), ("backscatter", 1, 0), ": linear power"),
    ("S1A_IW_GRD_1.tif", (20, 900, ("VV", "VH")), ("digital_number", 1, 0), "as stored in float32"),
    ("s2.tif", (0.01, 0.5, BLUE_TO_NIR), ("reflectance", 1, 0), "a guess from values 0.01"),
    ("s2.tif", (100, 5000, BLUE_TO_NIR), ("reflectance", 0.0001, 0), ": reflectance x 10000"),
    ("s2.tif", (3, 250, BLUE_TO_NIR), ("digital_number", 1, 0), "unknown unit, as stored: values 5"),
    ("s2.tif", (-0.9, 0.9, BLUE_TO_NIR), ("digital_number", 1, 0), "as of an index like NDVI"),
    ("landsat8.tif", (8000, 20000, ("SR_B2", "SR_B3")), ("reflectance", *OWN_C2), "the scaling of landsat-8"),
]


@pytest.mark.parametrize(("name", "values", "unit", "reason"), KNOWN)
def test_floating_point_of_a_known_sensor_is_what_its_values_are(tmp_path, name, values, unit, reason):
    raster(tmp_path / "x" / name, *values)
    found, remark = drafted(tmp_path / "x")
    assert found == unit
    assert remark.startswith("check: ") and reason in remark


def test_whole_numbers_that_the_products_scaling_makes_negative_are_reflectance_times_10000(tmp_path):
    bands = ("SR_B2", "SR_B3", "SR_B4")
    raster(tmp_path / "landsat8.tif", 200, 4000, bands, dtype="uint16")
    found, remark = drafted(tmp_path)
    assert found == ("reflectance", 0.0001, 0)
    assert remark.endswith("with the scaling of landsat-8-oli-c2l2 they would be -0.1936 to -0.09051")
    raster(tmp_path / "landsat8.tif", 8000, 20000, bands, dtype="uint16")
    assert drafted(tmp_path) == (("reflectance", *OWN_C2), "check: usual for landsat-8-oli-c2l2 in uint16")


@pytest.mark.parametrize(("low", "offset"), [(1100, -0.1), (100, 0)])
def test_an_offset_that_was_applied_already_is_not_applied_again(tmp_path, low, offset):
    raster(tmp_path / "S2A_MSIL2A_20230607T101031_N0509_R022_T32TMT.tif", low, 5000, BLUE_TO_NIR)
    assert drafted(tmp_path)[0] == ("reflectance", 0.0001, offset)


UNKNOWN = [
    ("a.tif", (270, 310), {"units": ("K",)}, ("brightness_temperature", 1, 0), "the files state the unit K"),
    ("a.tif", (-5, 30), {"units": ("degC",)}, ("brightness_temperature", 1, 273.15), "state the unit degC"),
    ("lst_1.tif", (270, 310), {}, ("brightness_temperature", 1, 0), "a guess from the name and values 27"),
    ("a.tif", (270, 310), {}, ("digital_number", 1, 0), "as of kelvin; if so, write `unit: brightness_temperature`"),
    ("lst_1.tif", (0, 30), {}, ("digital_number", 1, 0), "unknown unit, as stored: values 0"),
    ("sigma0_1.tif", (-22, -5), {}, ("decibel", 1, 0), "a guess from the name and values -21.78"),
    ("a.tif", (-22, -5), {}, ("digital_number", 1, 0), "as of decibels; if so, write `unit: decibel`"),
    ("ndvi_1.tif", (0.1, 0.8), {}, ("digital_number", 1, 0), "an index by the name"),
    ("a.tif", (-0.3, 0.9), {}, ("digital_number", 1, 0), "as of an index like NDVI"),
    ("dem.tif", (200, 330), {"nodata": -9999}, ("digital_number", 1, 0), "values 202.2 to 327.2"),
    ("dem.tif", (200, 330), {"dtype": "int16"}, ("digital_number", 1, 0), "heights by the name"),
    ("a.tif", (200, 3300), {"units": ("m",)}, ("digital_number", 1, 0), "state the unit m, which is none of geomae's"),
    ("a.tif", (0.1, 0.9), {"names": ("",) * 5, "softmax": True}, ("digital_number", 1, 0), "add up to 1"),
    ("a.tif", (0.1, 0.9), {}, ("digital_number", 1, 0), "if reflectance, write `unit: reflectance`"),
    ("a.tif", (100, 4000), {}, ("digital_number", 1, 0), "`unit: reflectance` and `scale: 0.0001`"),
    ("a.tif", (0, 100), {"units": ("%",), "tags": (0.5, 1)}, ("digital_number", 0.5, 1), "state the unit %"),
]


@pytest.mark.parametrize(("name", "values", "more", "unit", "reason"), UNKNOWN)
def test_the_unit_of_an_unknown_sensor_is_told_or_left_open(tmp_path, name, values, more, unit, reason):
    raster(tmp_path / "x" / name, *values, **more)
    found, remark = drafted(tmp_path / "x")
    assert found == unit
    assert remark.startswith("check: ") and reason in remark


def test_bands_of_an_unknown_sensor_may_have_units_of_their_own(tmp_path):
    raster(tmp_path / "era.tif", 270, 310, ("t2m", "height"), units=("K", "m"))
    text = infer_catalog(tmp_path, tmp_path / "c.yaml").text()
    assert "{name: t2m, wavelength_um: 1, fwhm_um: 1, unit: brightness_temperature, scale: 1, offset: 0}" in text
    assert "# check: units: t2m: the files state the unit K; height: the files state the unit m" in text
    (tmp_path / "c.yaml").write_text(text)
    assert open_catalog(tmp_path / "c.yaml").entry(tmp_path.name).unit is None and unresolved(tmp_path / "c.yaml") == []


def test_tags_that_do_not_give_reflectance_are_written_with_a_remark(tmp_path):
    raster(tmp_path / "s2.tif", 100, 5000, BLUE_TO_NIR, dtype="int16", tags=(0.01, 0))
    found, remark = drafted(tmp_path)
    assert found == ("reflectance", 0.01, 0)
    assert remark.startswith("check: from the tags of the files; check: with them, values 1.41 to 49.63")


def test_cubes_state_their_unit(tmp_path):
    made = xr.Dataset({"t2m": (("y", "x"), np.full((32, 32), 281.0, "float32"), {"units": "K"})})
    made.to_netcdf(tmp_path / "era.nc", engine="h5netcdf")
    assert drafted(tmp_path) == (("brightness_temperature", 1, 0), "check: the files state the unit K")


def test_values_are_sampled_where_some_are_valid_and_without_fill(tmp_path):
    pixels_HW = np.zeros((600, 600), np.float32)
    pixels_HW[:200, :200] = 3
    pixels_HW[:200, 1] = -9999
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        count=1,
        height=600,
        width=600,
        dtype="float32",
        transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as to:
        to.write(pixels_HW, 1)
    found = band_values(sample_values([str(tmp_path / "a.tif"), str(tmp_path / "none.tif")], [1], ()))
    assert (found.low, found.middle, found.high) == (3, 3, 3)
    assert band_values([]) is None


@pytest.mark.parametrize(
    "names", [("Sigma0_VH", "Sigma0_VV"), ("Gamma0_VH_db", "Gamma0_VV_db"), ("VH_dB", "VV_dB"), ("Intensity_VH", "VV")]
)
def test_calibrated_bands_of_a_radar_are_read_by_their_polarisation(tmp_path, names):
    raster(tmp_path / "S1A_IW_GRDH_1SDV_20210601T053513_Orb_Cal_TC.tif", -25, -4, names)
    text = infer_catalog(tmp_path, tmp_path / "c.yaml").text()
    assert "bands: [VH, VV]" in text and "do not name their bands" not in text
    assert drafted(tmp_path)[0] == ("decibel", 1, 0)
