"""Which record of a model is that of a data set's sensor."""

from dataclasses import replace

import pytest

from geomae.sensors import Band, sensor
from geomae.sensors.record import SensorRecord, record_of, same_sensor, unused_name

GREEN, EDGE = Band("green", "green", 0.56, 0.027, None), Band("edge", None, 0.717, 0.012, None)
CAMERA = SensorRecord("drone-2021", "reflectance", None, (GREEN, EDGE), (0.1, 0.2), (0.1, 0.1))
OTHER = replace(CAMERA, name="pole", bands=(replace(GREEN, wavelength_um=0.53), EDGE))
S2 = replace(CAMERA, name="sentinel-2-l2a", bands=sensor("sentinel-2-l2a").bands[:2])
ALL = (S2, OTHER, CAMERA)


@pytest.mark.parametrize(
    ("name", "unit", "bands", "expected"),
    [
        ("drone-2021", "reflectance", CAMERA.bands, CAMERA),
        ("drone-2022", "reflectance", CAMERA.bands, CAMERA),  # the same camera in another data set
        ("drone-2022", "reflectance", (replace(EDGE, gsd_m=2.0, common_name="rededge"),), OTHER),
        ("drone-2021", "reflectance", (EDGE,), CAMERA),  # of several with the band, that of the name
        ("pole", "reflectance", CAMERA.bands, CAMERA),  # another camera in a data set of the same name
        ("pole", "reflectance", (replace(GREEN, fwhm_um=0.1), EDGE), None),
        ("drone-2021", "reflectance", (*CAMERA.bands, Band("nir", "nir", 0.84, 0.1, None)), CAMERA),
        ("drone-2022", "reflectance", (*CAMERA.bands, Band("nir", "nir", 0.84, 0.1, None)), None),
        ("drone-2021", "reflectance", (Band("nir", "nir", 0.84, 0.1, None),), CAMERA),  # whose bands are missing
        ("drone-2022", "digital_number", CAMERA.bands, None),
        ("sentinel-2-l2a", "reflectance", S2.bands, S2),
        ("sentinel-2-l2a-n0400", "reflectance", S2.bands, None),  # published sensors are what their names say
        ("sentinel-2-l2a:digital_number", "reflectance", CAMERA.bands, None),
        ("drone-2022", "reflectance", S2.bands, None),
    ],
)
def test_an_inline_sensor_is_known_by_what_it_measures(name, unit, bands, expected):
    assert record_of(ALL, name, unit, bands) == expected


def test_bands_of_equal_names_may_be_others():
    assert same_sensor(CAMERA, replace(CAMERA, name="x", unit="digital_number")) and same_sensor(S2, S2)
    assert not same_sensor(CAMERA, replace(OTHER, name="drone-2021")) and not same_sensor(CAMERA, S2)


def test_records_of_a_model_have_names_of_their_own():
    assert unused_name(ALL, "pole") == "pole-2" and unused_name(ALL, "new") == "new"
    assert unused_name([*ALL, replace(OTHER, name="pole-2")], "pole") == "pole-3"
