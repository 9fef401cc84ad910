import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomae.errors import CatalogError, GeomaeError
from geomae.files import read_yaml
from geomae.sensors import COMMON_NAMES, UNITS, Band, Scaling, inline_sensor, match_bands, sensor, sensor_names
from geomae.sensors.registry import TABLES

# Lower and upper end in um, as the STAC `eo` extension tabulates them.
COMMON_RANGE_UM = {
    "pan": (0.40, 1.00),
    "coastal": (0.40, 0.45),
    "blue": (0.45, 0.53),
    "green": (0.51, 0.60),
    "green05": (0.51, 0.55),
    "yellow": (0.58, 0.62),
    "red": (0.62, 0.69),
    "rededge": (0.69, 0.79),
    "rededge071": (0.69, 0.73),
    "rededge075": (0.73, 0.76),
    "rededge078": (0.76, 0.79),
    "nir": (0.76, 1.00),
    "nir08": (0.80, 0.90),
    "nir09": (0.90, 1.00),
    "cirrus": (1.35, 1.40),
    "swir16": (1.55, 1.75),
    "swir22": (2.08, 2.35),
    "lwir": (10.4, 12.5),
    "lwir11": (10.5, 11.5),
    "lwir12": (11.5, 12.5),
}
NAMES = (
    *("sentinel-2-l1c", "sentinel-2-l1c-n0400", "sentinel-2-l2a", "sentinel-2-l2a-n0400", "hls-l30", "hls-s30"),
    *("landsat-4-tm", "landsat-5-tm", "landsat-7-etm", "landsat-8-oli", "landsat-9-oli", "naip", "modis-land"),
    *("landsat-4-tm-c2l2", "landsat-5-tm-c2l2", "landsat-7-etm-c2l2", "landsat-8-oli-c2l2", "landsat-9-oli-c2l2"),
    *("planetscope-superdove", "sentinel-1-grd"),
)


def test_every_sensor_of_the_tables_is_there():
    assert sensor_names() == tuple(sorted(NAMES))
    assert set(COMMON_RANGE_UM) == set(COMMON_NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_possible(name):
    found = sensor(name)
    assert found.name == name
    assert found.title and found.source
    assert len({band.name for band in found.bands}) == len(found.bands)
    assert set(found.overrides) <= {band.name for band in found.bands}
    for band in found.bands:
        scaling = found.scaling(band)
        assert scaling.unit in UNITS and scaling.scale > 0
        assert band.fwhm_um > 0 and band.gsd_m is not None and band.gsd_m > 0
        if band.polarisation is None:
            assert 0.3 < band.wavelength_um < 15
        if band.common_name is not None:
            low_um, high_um = COMMON_RANGE_UM[band.common_name]
            assert low_um <= band.wavelength_um <= high_um
        # brightness temperatures and thermal radiances are never stored as reflectances
        assert (scaling.unit == "reflectance") == (band.wavelength_um < 3 and name != "naip")
        assert found.band(band.name) is band


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_tables_say_where_each_figure_comes_from(path):
    table = read_yaml(path).values
    used = set()
    for entry in table["sensors"].values():
        figures = {figure for key in entry["sources"] for figure in key.split(", ")}
        assert figures == {"wavelength_um", "fwhm_um", "gsd_m", "scale", "offset", "nodata"}
        assert set(entry.get("stored", {})) <= set(entry["bands"])
        used |= set(entry["bands"])
    assert used == set(table["bands"])


@pytest.mark.parametrize(
    ("name", "token", "wavelength_um", "gsd_m"),
    [
        ("sentinel-2-l1c", "B8A", 0.865, 20),
        ("sentinel-2-l1c", "B10", 1.3735, 60),
        ("sentinel-2-l2a", "nir", 0.833, 10),
        ("landsat-8-oli", "B5", 0.865, 30),
        ("landsat-9-oli", "pan", 0.589, 15),
        ("landsat-7-etm", "nir08", 0.835, 30),
        ("landsat-5-tm", "B7", 2.223, 30),
        ("hls-l30", "B05", 0.865, 30),
        ("modis-land", "B5", 1.24, 500),
        ("sentinel-1-grd", "VH", 55465.76, 10),
    ],
)
def test_known_figures(name, token, wavelength_um, gsd_m):
    band = sensor(name).band(token)
    assert band.wavelength_um == pytest.approx(wavelength_um, abs=1e-3, rel=1e-6)
    assert band.gsd_m == gsd_m


@pytest.mark.parametrize(
    ("name", "token", "raw", "unit", "value"),
    [
        ("sentinel-2-l1c", "B04", 3000, "reflectance", 0.3),
        ("sentinel-2-l1c-n0400", "B04", 3000, "reflectance", 0.2),
        ("sentinel-2-l2a-n0400", "B04", 1000, "reflectance", 0.0),
        ("landsat-9-oli-c2l2", "nir08", 20000, "reflectance", 0.35),
        ("landsat-9-oli-c2l2", "lwir11", 44177, "brightness_temperature", 299.998),
        ("landsat-8-oli", "red", 10000, "reflectance", 0.1),
        ("landsat-8-oli", "lwir11", 30000, "radiance", 10.126),
        ("hls-l30", "lwir12", 1500, "brightness_temperature", 288.15),
        ("landsat-7-etm", "B6_VCID_2", 290, "brightness_temperature", 290),
        ("modis-land", "red", 1234, "reflectance", 0.1234),
        ("naip", "nir", 200, "digital_number", 200),
    ],
)
def test_stored_values_become_physical_ones(name, token, raw, unit, value):
    found = sensor(name)
    scaling = found.scaling(found.band(token))
    assert scaling.unit == unit
    assert raw * scaling.scale + scaling.offset == pytest.approx(value, abs=1e-3)


def test_products_keep_their_order():
    stored = [band.name for band in sensor("sentinel-2-l1c").bands]
    assert stored == ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
    assert [band.name for band in sensor("sentinel-2-l2a").bands] == [name for name in stored if name != "B10"]


def test_every_band_of_the_example_catalogue_resolves(shared_data: Path):
    entries = read_yaml(shared_data / "catalog.yaml").values["datasets"]
    for entry in (one for one in entries.values() if isinstance(one["sensor"], str)):
        found = [sensor(entry["sensor"]).band(token) for token in entry["bands"] if token is not None]
        assert len(set(found)) == len(found) > 3


@pytest.mark.parametrize("token", ["B2", "b02", "B02", "SR_B2", "blue", "BLUE"])
def test_one_band_has_many_spellings(token):
    for name in ("sentinel-2-l2a", "landsat-8-oli-c2l2", "hls-l30"):
        assert sensor(name).band(token).common_name == "blue"


def test_unknown_and_ambiguous_bands_are_refused_with_a_remedy():
    with pytest.raises(CatalogError, match=r"sensor landsat-7-etm has no band 'nir'; did you mean 'nir08'\?"):
        sensor("landsat-7-etm").band("nir")
    for token in ("lwir", "B6"):
        with pytest.raises(CatalogError, match="ambiguous; write B6_VCID_1 or B6_VCID_2"):
            sensor("landsat-7-etm").band(token)
    with pytest.raises(CatalogError, match="has no band 'swir16'; known: blue, green, nir, red"):
        sensor("naip").band("swir16")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("sentinel-2-l1", "choose one of these.*: sentinel-2-l1c, sentinel-2-l1c-n0400$"),
        ("sentinel-2", "choose one of these.*: sentinel-2-l1c, .*sentinel-2-l2a-n0400$"),
        ("S2", "choose one of these.*: sentinel-2-l1c, .*sentinel-2-l2a-n0400$"),
        ("landsat-8", "choose one of these.*: landsat-8-oli, landsat-8-oli-c2l2$"),
        ("Landsat 8", "choose one of these.*: landsat-8-oli, landsat-8-oli-c2l2$"),
        ("hls", "choose one of these.*: hls-l30, hls-s30$"),
        ("HLS_L30", r"did you mean 'hls-l30'\?"),
        ("superdove", r"did you mean 'planetscope-superdove'\?"),
        ("nayp", r"did you mean 'naip'\?"),
        ("spot", "known: hls-l30, hls-s30, "),
        ("", "known: hls-l30, hls-s30, "),
    ],
)
def test_unknown_sensors_are_refused_with_a_remedy(name, advice):
    with pytest.raises(CatalogError, match=f"unknown sensor '{name}'; {advice}"):
        sensor(name)


def names_met(wanted, offered, same_sensor=False):
    return [None if index is None else offered[index].name for index in match_bands(wanted, offered, same_sensor)]


def test_across_sensors_bands_meet_by_wavelength():
    landsat, sentinel = sensor("landsat-8-oli").bands, sensor("sentinel-2-l1c").bands
    assert [band.name for band in landsat] == ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11"]
    met = names_met(landsat, sentinel)
    assert met == ["B01", "B02", "B03", "B04", "B8A", "B11", "B12", None, "B10", None, None]
    # B08 of Sentinel-2 is too far from any band of Landsat 8, and the broad near infrared of Landsat 7 meets it
    assert names_met([sensor("sentinel-2-l1c").band("B08")], landsat) == [None]
    assert names_met([sensor("sentinel-2-l1c").band("B08")], sensor("landsat-7-etm").bands) == ["B4"]


def test_within_a_sensor_bands_meet_by_name():
    stored = sensor("sentinel-2-l1c").bands
    wanted = [replace(stored[1], name="B2", wavelength_um=0.5), stored[8], replace(stored[8], name="X1")]
    assert match_bands(wanted, stored, same_sensor=True) == (1, 8, None)


def test_the_reach_is_half_the_narrower_width():
    wide = Band("wide", None, 0.60, 0.20, 10)
    narrow = Band("narrow", None, 0.61, 0.02, 10)
    assert match_bands([wide], [narrow], False) == (0,)  # exactly at the border
    assert match_bands([narrow], [wide], False) == (0,)
    assert match_bands([wide], [replace(narrow, wavelength_um=0.611)], False) == (None,)
    nearer = replace(wide, wavelength_um=0.605)
    assert match_bands([narrow], [wide, nearer, replace(narrow, wavelength_um=0.602)], False) == (1,)
    assert match_bands([narrow], [wide, replace(wide, fwhm_um=0.05)], False) == (1,)
    assert match_bands([narrow], [], False) == (None,)


def test_polarisations_are_never_mixed():
    radar = sensor("sentinel-1-grd").bands
    other = inline_sensor("other", [{"name": "hv", "wavelength_um": 55500, "fwhm_um": 600, "polarisation": "vh"}]).bands
    assert names_met(radar, other) == [None, "hv"]
    assert match_bands([replace(radar[0], polarisation=None)], radar, False) == (None,)


bands = st.builds(
    Band,
    name=st.text("ABC123", min_size=1, max_size=4),
    common_name=st.sampled_from([None, *COMMON_NAMES]),
    wavelength_um=st.floats(0.3, 14),
    fwhm_um=st.floats(0.001, 3),
    gsd_m=st.none() | st.floats(0.1, 1000),
    polarisation=st.sampled_from([None, "VV", "VH"]),
)


@given(bands)
def test_bands_survive_json(band):
    assert Band.from_dict(json.loads(json.dumps(band.to_dict()))) == band


@given(bands, st.lists(bands, max_size=6))
def test_what_is_met_lies_within_reach_and_nothing_nearer_does(wanted, offered):
    def distance_um(band):
        return abs(band.wavelength_um - wanted.wavelength_um)

    fitting = [
        distance_um(band)
        for band in offered
        if band.polarisation == wanted.polarisation
        and distance_um(band) <= min(band.fwhm_um, wanted.fwhm_um) / 2 + 1e-9
    ]
    (index,) = match_bands([wanted], offered, same_sensor=False)
    assert (index is None) == (not fitting)
    if index is not None:
        assert offered[index].polarisation == wanted.polarisation
        assert distance_um(offered[index]) <= min(fitting) + 1e-8


RED = {"name": "r", "common_name": "red", "wavelength_um": 0.65, "fwhm_um": 0.04}
THERMAL = {"name": "t", "wavelength_um": 11, "fwhm_um": 1, "unit": "brightness_temperature", "scale": 0.1}


def test_inline_sensors_are_read():
    drone = inline_sensor(
        "drone", {"unit": "reflectance", "scale": 0.001, "offset": -0.1, "nodata": 0, "bands": [RED, THERMAL]}
    )
    assert drone.bands == (Band("r", "red", 0.65, 0.04, None), Band("t", None, 11.0, 1.0, None))
    assert drone.scaling(drone.band("red")) == Scaling("reflectance", 0.001, -0.1)
    assert drone.scaling(drone.band("T")) == Scaling("brightness_temperature", 0.1, -0.1)
    assert drone.nodata == (0.0,)
    bare = inline_sensor("bare", [RED])
    assert (bare.unit, bare.scale, bare.offset, bare.nodata) == ("digital_number", 1.0, 0.0, ())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bands": [RED], "sclae": 1}, r"unknown key 'sclae'; did you mean 'scale'\?"),
        (
            {"bands": [{**RED, "wavelenght_um": 1}]},
            r"band 'r': unknown key 'wavelenght_um'; did you mean 'wavelength_um'",
        ),
        ({"bands": [{**RED, "common_name": "nir8"}]}, r"band 'r': unknown common name 'nir8'; did you mean 'nir08'\?"),
        ({"bands": [{**RED, "wavelength_um": 650}]}, r"wavelength_um 650 is no optical wavelength; write 0\.65 if"),
        ({"bands": [{**RED, "wavelength_um": "red"}]}, "`wavelength_um` is 'red'; give a finite number"),
        ({"bands": [{**RED, "fwhm_um": 0}]}, "`fwhm_um` is 0; give a number above 0"),
        ({"bands": [{**RED, "gsd_m": -1}]}, "`gsd_m` is -1; give a number above 0"),
        ({"bands": [{"name": "r", "fwhm_um": 1}]}, "band 'r': is missing `wavelength_um`"),
        ({"bands": [{"wavelength_um": 1, "fwhm_um": 1}]}, "a band has no `name`; add one"),
        ({"bands": [{**RED, "name": 1}]}, "`name` is 1; write it as text"),
        ({"bands": [{**RED, "polarisation": "VX"}]}, "unknown polarisation 'VX'"),
        ({"bands": [{**RED, "unit": "reflectence"}]}, r"unknown unit 'reflectence'; did you mean 'reflectance'\?"),
        ({"bands": [RED, {**RED, "name": "R"}]}, "band 'R' is listed twice"),
        ({"bands": ["red"]}, "band 'red' must be a mapping"),
        ({"bands": []}, "has no list of `bands`"),
        ({"bands": [RED], "scale": 0}, "`scale` is 0"),
        ({"bands": [RED], "scale": float("nan")}, "`scale` is nan; give a finite number"),
        ({"bands": [RED], "nodata": "none"}, "`nodata` is 'none'; give a number or a list of numbers"),
        (7, "write a mapping with `bands`, or the name of a known sensor"),
    ],
)
def test_bad_inline_sensors_are_refused_with_a_remedy(values, message):
    with pytest.raises(CatalogError, match=f"^sensor 'drone': .*{message}"):
        inline_sensor("drone", values)


def test_a_damaged_stored_band_is_refused():
    with pytest.raises(GeomaeError, match=r"config\.json: unknown key 'width'; "):
        Band.from_dict({**RED, "width": 1}, "config.json")
