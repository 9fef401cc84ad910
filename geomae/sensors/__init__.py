"""Sensors and their bands: published tables, sensors defined in a catalogue, and the matching of bands."""

from geomae.sensors.band import COMMON_NAMES, Band, band_groups, match_bands
from geomae.sensors.baselines import FIRST_OFFSET_BASELINE, OFFSET_SUFFIX, carries_offset
from geomae.sensors.registry import UNITS, Scaling, Sensor, inline_sensor, sensor, sensor_names

__all__ = [
    "COMMON_NAMES",
    "FIRST_OFFSET_BASELINE",
    "OFFSET_SUFFIX",
    "UNITS",
    "Band",
    "Scaling",
    "Sensor",
    "band_groups",
    "carries_offset",
    "inline_sensor",
    "match_bands",
    "sensor",
    "sensor_names",
]
