"""What `catalog init` takes from the files themselves: alpha, scale and offset, and a first file that is broken."""

import numpy as np
import pytest
import rasterio
from drafted_catalogs import draft
from rasterio.enums import ColorInterp

from geomae.discovery.draft_catalog import infer_catalog


def raster(path, bands=3, dtype="uint16", names=(), tags=(1.0, 0.0), alpha=None):
    """Noise; `tags` are scale and offset of each band, or pairs of them; `alpha` is the number of an alpha band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, path.name)))
    form = {"count": bands, "height": 64, "width": 64, "dtype": dtype, "crs": "EPSG:32632"}
    with rasterio.open(path, "w", driver="GTiff", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **form) as to:
        to.write(rng.integers(1, 250, (bands, 64, 64)).astype(dtype))
        pairs = tags if isinstance(tags, list) else [tags] * bands
        to.scales, to.offsets = zip(*pairs, strict=True)
        for number, name in enumerate(names, start=1):
            to.set_band_description(number, name)
    if alpha:
        with rasterio.open(path, "r+") as to:
            to.colorinterp = [ColorInterp.alpha if at == alpha else old for at, old in enumerate(to.colorinterp, 1)]


def drafted(folder):
    """The only entry of the first catalogue of a folder, and the name of its sensor."""
    catalog, name, _ = draft(folder)
    return catalog.entry(name), catalog.sensor(name).name


@pytest.mark.parametrize("alpha", [13, 1])
def test_twelve_bands_and_alpha_are_twelve_bands(tmp_path, alpha):
    raster(tmp_path / "a.tif", 13, alpha=alpha)
    entry, sensor = drafted(tmp_path)
    assert (sensor, len(entry.bands), entry.bands[alpha - 1]) == ("sentinel-2-l2a", 13, None)
    assert [band for band in entry.bands if band] == [
        *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    ]


def test_four_bands_of_8_bits_may_be_marked_as_alpha_and_are_near_infrared(tmp_path):
    raster(tmp_path / "m_3712201_sw_10_1.tif", 4, "uint8", alpha=4)
    entry, sensor = drafted(tmp_path)
    assert (sensor, entry.bands) == ("naip", ("red", "green", "blue", "nir"))


def test_a_band_with_a_name_is_none_of_alpha(tmp_path):
    raster(tmp_path / "a.tif", 3, names=("B02", "B03", "B04"), alpha=3)
    assert drafted(tmp_path)[0].bands == ("B02", "B03", "B04")


def test_tags_of_scale_and_offset_are_written(tmp_path):
    raster(tmp_path / "a.tif", dtype="int16", names=("B02", "B03", "B04"), tags=(0.0002, -0.1))
    entry, _ = drafted(tmp_path)
    assert (entry.unit, entry.scale, entry.offset) == ("reflectance", 0.0002, -0.1)


def test_tags_that_differ_by_band_are_written_by_band(tmp_path):
    tags = [(0.0002, 0.0), (0.0001, 0.0), (0.0001, 0.0)]
    raster(tmp_path / "a.tif", dtype="int16", names=("B02", "B03", "B04"), tags=tags)
    entry, _ = drafted(tmp_path)
    assert (entry.scale, entry.offset) == ({"B02": 0.0002, "B03": 0.0001, "B04": 0.0001}, 0)


@pytest.mark.parametrize(("tags", "scale"), [((0.0001, 0.0), None), ((0.0002, 0.0), 0.0002)])
def test_tags_of_a_product_are_written_where_they_are_not_the_sensors(tmp_path, tags, scale):
    for band in ("B02", "B03"):
        raster(tmp_path / f"HLS.S30.T32TMT.2021001T101010.v2.0.{band}.tif", 1, "int16", tags=tags)
    assert drafted(tmp_path)[0].scale == scale


def test_the_first_scene_of_a_product_may_be_broken(tmp_path):
    for day in ("001", "002"):
        for band in ("B02", "B03"):
            raster(tmp_path / f"HLS.S30.T32TMT.2021{day}T101010.v2.0.{band}.tif", 1, "int16")
    (tmp_path / "HLS.S30.T32TMT.2021001T101010.v2.0.B02.tif").write_bytes(b"broken")
    entry, sensor = drafted(tmp_path)
    assert (sensor, entry.bands) == ("hls-s30", ("B02", "B03"))


def test_alpha_that_is_skipped_is_no_quality_layer(tmp_path):
    raster(tmp_path / "ortho.tif", 4, "uint8", alpha=4)
    with rasterio.open(tmp_path / "ortho.tif", "r+") as to:
        to.write(np.where(np.arange(64) < 9, 0, 255).astype("uint8")[None].repeat(64, axis=0), 4)
    text = infer_catalog(tmp_path, tmp_path / "c.yaml").text()
    assert "bands: [red, green, blue, null]" in text and "quality layer" not in text


@pytest.mark.parametrize(
    "names",
    [
        ("400.0 nm", "406.5 nm", "415 nm", "2200.25 nm"),
        ("Band 1 (400.0 Nanometers)", "Band 2 (406.5 Nanometers)", "Band 3 (415.0 Nanometers)", "b4 (2200.25 nm)"),
        ("0.4 um", "0.4065 µm", "0.415 Micrometers", "2.20025um"),
    ],
)
def test_a_spectrometer_has_the_wavelengths_that_its_files_state(tmp_path, names):
    raster(tmp_path / "flight.tif", 4, names=names)
    catalog, name, text = draft(tmp_path)
    bands = catalog.sensor(name).bands
    assert [band.wavelength_um for band in bands] == pytest.approx([0.4, 0.4065, 0.415, 2.20025])
    assert [band.fwhm_um for band in bands] == pytest.approx([0.0065, 0.0065, 0.0085, 0.02])  # at most 0.02
    assert len({band.name for band in bands}) == 4
    assert "do not state widths" in text


@pytest.mark.parametrize(
    "names",
    [
        ("400.0 nm", "406.5 nm", "", "415 nm"),
        ("a 1", "b 2", "c 3", "d 4"),
        ("450-520 nm", "530-590 nm", "630-680 nm", "845-885 nm"),
        ("443 nm, FWHM 20 nm", "482 nm, FWHM 65 nm", "561 nm, FWHM 60 nm", "655 nm, FWHM 35 nm"),
        ("450–510 nm", "530–590 nm", "640–670 nm", "850/880 nm"),
        ("490 ± 32 nm", "560 ± 17 nm", "665 ± 15 nm", "842 ± 60 nm"),
        ("448,5 nm", "451,0 nm", "1.240,5 nm", "1.600,5 nm"),
        ("4.485e+02 nm", "4.510e+02 nm", "4.530e+02 nm", "4.550e+02 nm"),
        ("842 nm", "842 nm", "842 nm", "842 nm"),
        ("0 nm", "400 nm", "500 nm", "600 nm"),
        ("100 um", "200 um", "300 um", "400 um"),
        ("band2", "x", "x", "band3"),  # a number as a name is taken already
    ],
)
def test_without_the_wavelengths_of_all_bands_the_user_fills_them_in(tmp_path, names):
    raster(tmp_path / "flight.tif", 4, names=names)
    assert "FILL IN" in infer_catalog(tmp_path, tmp_path / "c.yaml").text()


def test_raw_files_of_eo_browser_are_bands_of_a_scene(tmp_path):
    for day in ("2023-05-01", "2023-06-10"):
        for band in ("B02", "B03", "B04"):
            raster(tmp_path / f"{day}-00_00_{day}-23_59_Sentinel-2_L2A_{band}_(Raw).tiff", 1)
    raster(tmp_path / "2023-05-01-00_00_2023-05-01-23_59_Sentinel-2_L2A_True_color.tiff", 3, "uint8")
    raw, colour = infer_catalog(tmp_path, tmp_path / "c.yaml").entries.values()
    assert (raw.sensor.startswith("sentinel-2-l2a"), raw.bands) == (True, ("B02", "B03", "B04"))
    assert colour.lines[0] == '    path: "2023-05-01-00_00_2023-05-01-23_59_Sentinel-2_L2A_True_color.tiff"'
