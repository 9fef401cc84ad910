"""The lines of a new data set on its sensor, and on the unit and scaling that files, names and values suggest.

What the evidence does not tell is `digital_number`, values as stored: a wrong unit misleads more than none.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from geomae.discovery.sensor_guess import FILL_IN, SensorGuess
from geomae.discovery.stored_values import BandValues, StoredBands, band_values
from geomae.discovery.yaml_lines import comment, entry_line, flow
from geomae.sensors import Sensor

KELVIN = 273.15  # of 0 degrees Celsius
# Units as files state them, letters and digits only: unit here, scale, offset.
STATED: dict[str, tuple[str, float, float]] = {
    **dict.fromkeys(("k", "kelvin", "degk"), ("brightness_temperature", 1.0, 0.0)),
    **dict.fromkeys(("degc", "c", "celsius", "degreecelsius", "degreescelsius"), ("brightness_temperature", 1, KELVIN)),
    **dict.fromkeys(("db", "decibel", "decibels"), ("decibel", 1.0, 0.0)),
    **dict.fromkeys(("reflectance", "surfacereflectance", "toareflectance"), ("reflectance", 1.0, 0.0)),
    **dict.fromkeys(("wm2srum", "wm2srµm", "wm2sr1um1", "wm2sr1µm1", "wm2um1sr1"), ("radiance", 1.0, 0.0)),
}
SILENT = frozenset(("", "1", "none", "unitless", "dn", "counts", "count", "digitalnumber", "digitalnumbers", "unknown"))
HEIGHTS = frozenset(
    ("dem", "dsm", "dtm", "chm", "ndsm", "elevation", "height", "heights", "altitude", "srtm", "copdem", "nasadem")
)
INDICES = frozenset(("ndvi", "evi", "savi", "ndwi", "mndwi", "ndmi", "ndbi", "nbr", "ndsi", "gndvi", "lai", "fapar"))
SHARES = frozenset(("prob", "probs", "probability", "probabilities", "confidence", "softmax", "fraction", "fractions"))
WARMTH = frozenset(("temperature", "lst", "sst", "bt", "kelvin", "t2m", "thermal", "tir", "lwir", "lwir11"))
RADAR = frozenset(("db", "decibel", "sigma0", "gamma0", "sigma", "gamma", "backscatter", "sar", "vv", "vh", "hh", "hv"))
AS_STORED = ("digital_number", 1.0, 0.0)
TIMES_10000 = ("reflectance", 0.0001, 0.0)


@dataclass(frozen=True)
class UnitGuess:
    """A unit with its scale and offset, why it is proposed, and whether this rests on a sample of the values."""

    unit: str
    scale: float
    offset: float
    reason: str
    by_values: bool = False


def sensor_lines(guess: SensorGuess) -> list[str]:
    """The sensor: its name, or the bands of an inline one."""
    remark = guess.checks.get("sensor")
    text = f"FILL IN: {guess.question}" if guess.question else f"check: {remark}" if remark else ""
    if isinstance(guess.sensor, str):
        return [entry_line("sensor", guess.sensor, text)]
    mark = "  # FILL IN" if guess.sensor["name"] == FILL_IN else ""
    bands = [f"        - {flow(band)}{mark}" for band in guess.sensor["bands"]]
    return [f"    sensor:  # {text}", f"      name: {flow(guess.sensor['name'])}", "      bands:", *bands]


def scaling_lines(guess: SensorGuess, known: Sensor, stored: StoredBands) -> list[str]:
    """Unit, scale and offset of a known sensor: from the tags of the files, else from the values and their type."""
    values = band_values(stored.scaled())
    if stored.tagged:
        found = _with_tags(known, values)
    else:
        found = _unit(known, stored.dtype, stored.shared_unit, values, certain=guess.certain)
    return _lines(found, stored, "" if guess.certain and not found.by_values else "check: ")


def with_units(guess: SensorGuess, stored: StoredBands) -> tuple[SensorGuess, list[str]]:
    """A guess of a sensor that is none of the tables, and the lines on unit, scale and offset.

    If its bands have different units, these are written beside the bands.
    """
    assert not isinstance(guess.sensor, str)  # only those of the tables have a name
    samples = stored.scaled()
    each = [
        _unknown_unit(stored.dtype, name, stored.path, unit, band_values([one_CN[[at]] for one_CN in samples]))
        for at, (name, unit) in enumerate(stored.stated.items())
    ]
    if len({(one.unit, one.scale, one.offset) for one in each}) == 1:
        names, values = " ".join(stored.tags), band_values(samples)
        together = _unknown_unit(stored.dtype, names, stored.path, stored.shared_unit, values)
        return guess, _lines(together if together.unit == each[0].unit else each[0], stored, "check: ")
    own = {name: _keys(one, stored.tags[name]) for name, one in zip(stored.tags, each, strict=True)}
    bands = [band | own.get(band["name"], {}) for band in guess.sensor["bands"]]
    remarks = [f"{name}: {one.reason}" for name, one in zip(stored.tags, each, strict=True)]
    return replace(guess, sensor={**guess.sensor, "bands": bands}), [comment(f"check: units: {'; '.join(remarks)}")]


def _keys(found: UnitGuess, tag: tuple[float, float]) -> dict[str, Any]:
    """The unit of values that are scaled by a tag first."""
    return {"unit": found.unit, "scale": tag[0] * found.scale, "offset": tag[1] * found.scale + found.offset}


def _lines(found: UnitGuess, stored: StoredBands, mark: str) -> list[str]:
    keys = {name: _keys(found, tag) for name, tag in stored.tags.items()}
    values: dict[str, Any] = {"unit": found.unit}
    for key in ("scale", "offset"):
        figures = {name: one[key] for name, one in keys.items()}
        values[key] = next(iter(figures.values())) if len(set(figures.values())) == 1 else figures
    return [entry_line(key, value, f"{mark}{found.reason}" if key == "unit" else "") for key, value in values.items()]


def _unit(known: Sensor, dtype: str, stated: str, values: BandValues | None, *, certain: bool) -> UnitGuess:
    """The unit of a sensor's bands in files that are derived from its product, or are it if `certain`.

    `stated` is the unit that the files state for all bands, else empty.
    """
    radar = all(band.polarisation for band in known.bands)
    own = STATED.get(_plain_unit(stated))
    if own is not None and own[0] in (("decibel",) if radar else ("reflectance", "radiance")):
        return UnitGuess(*own, f"the files state the unit {stated}")
    if radar and known.unit == "digital_number":
        return _radar(dtype, values)
    if dtype == "uint8":
        return UnitGuess(*AS_STORED, "8 bit values are not calibrated")
    if known.unit == "digital_number":
        return _plain(dtype, values, frozenset())
    return _optical(known, dtype, values, certain)


def _unknown_unit(dtype: str, name: str, path: str, stated: str, values: BandValues | None) -> UnitGuess:
    """The unit of a band of an unknown sensor, from its `name`, the `path` of a file, and the unit `stated` there."""
    key = _plain_unit(stated)
    if key in STATED:
        return UnitGuess(*STATED[key], f"the files state the unit {stated}")
    if key not in SILENT:
        return UnitGuess(*AS_STORED, f"the files state the unit {stated}, which is none of geomae's: as stored")
    own = frozenset(re.split(r"[^a-z0-9]+", name.lower()))
    words = own if own & (HEIGHTS | INDICES | SHARES | WARMTH | RADAR) else _words(path)
    if dtype == "uint8":
        return UnitGuess(*AS_STORED, "8 bit values are not calibrated")
    if values is not None and words & WARMTH and values.low >= 180 and values.high <= 400:
        return UnitGuess(
            "brightness_temperature", 1, 0, f"a guess from the name and {values.span}: kelvin", by_values=True
        )
    if values is not None and words & RADAR and _as_decibel(values):
        return UnitGuess("decibel", 1, 0, f"a guess from the name and {values.span}: decibel", by_values=True)
    return _plain(dtype, values, words)


def _optical(known: Sensor, dtype: str, values: BandValues | None, certain: bool) -> UnitGuess:
    """Reflectance as stored, as in the sensor's product, or multiplied by 10000: the first that is plausible."""
    product = (known.unit, known.scale, known.offset)
    usual = f"usual for {known.name} in {dtype}"
    if known.unit == "reflectance" and known.scale == 1:
        product, usual = TIMES_10000, f"{dtype} is taken as reflectance x 10000"
    floats = dtype.startswith("float")
    if values is None and floats:
        return UnitGuess(known.unit, 1, 0, f"{dtype} is taken as {known.unit}")
    if values is None or (certain and not floats):
        return UnitGuess(*product, usual)
    small = floats and values.high <= 255  # bytes, percent or an index: too small for reflectance x 10000
    tries = [("reflectance", 1.0, 0.0)] if floats else []
    tries += [] if small else [product, TIMES_10000]
    for place, (unit, scale, offset) in enumerate(tries):
        if unit == "reflectance" and _as_reflectance(values.scaled(scale, offset)):
            if (unit, scale, offset) == product and not floats:
                return UnitGuess(*product, usual)
            what = {1.0: "reflectance", 0.0001: "reflectance x 10000"}.get(scale, f"the scaling of {known.name}")
            what += f" with the offset {offset:g}" if offset and scale == 0.0001 else ""
            other = values.scaled(*product[1:])
            differs = f"; with the scaling of {known.name} they would be {other.low:.4g} to {other.high:.4g}"
            instead = differs if place and not floats else ""
            return UnitGuess(unit, scale, offset, f"a guess from {values.span}: {what}{instead}", by_values=True)
    return _plain(dtype, values, frozenset())


def _radar(dtype: str, values: BandValues | None) -> UnitGuess:
    if values is not None and _as_decibel(values):
        return UnitGuess("decibel", 1, 0, f"a guess from {values.span}: decibel", by_values=True)
    if values is not None and dtype.startswith("float") and values.low >= 0 and values.high <= 10:
        return UnitGuess("backscatter", 1, 0, f"a guess from {values.span}: linear power", by_values=True)
    return UnitGuess(*AS_STORED, f"as stored in {dtype}")


def _with_tags(known: Sensor, values: BandValues | None) -> UnitGuess:
    """The unit of a sensor's bands in files that state scale and offset; `values` are those after this scaling."""
    reason = "from the tags of the files"
    if known.unit == "reflectance" and values is not None and not _as_reflectance(values):
        reason += f"; check: with them, {values.span} are hardly reflectance"
    return UnitGuess(known.unit, 1, 0, reason)


def _plain(dtype: str, values: BandValues | None, words: frozenset[str]) -> UnitGuess:
    """Values as stored, with their range, and what they may be."""
    if values is None:
        return UnitGuess(*AS_STORED, f"as stored in {dtype}")
    return UnitGuess(*AS_STORED, f"unknown unit, as stored: {values.span}{_likeness(values, words)}", by_values=True)


def _likeness(values: BandValues, words: frozenset[str]) -> str:
    """What values of no known unit look like."""
    low, middle, high = values.low, values.middle, values.high
    for meant, what in ((HEIGHTS, "heights"), (INDICES, "an index"), (SHARES, "probabilities or shares")):
        if words & meant:
            return f", {what} by the name"
    if values.sums_to_one:
        return ", which add up to 1 as probabilities do"
    if -1.01 <= low < -0.05 and high <= 1.01:
        return ", as of an index like NDVI"
    if low >= -0.05 and high <= 1.6:
        return ", as of reflectance, probabilities or shares; if reflectance, write `unit: reflectance`"
    if _as_decibel(values):
        return ", as of decibels; if so, write `unit: decibel`"
    if low >= 180 and high <= 345:
        return ", as of kelvin; if so, write `unit: brightness_temperature`"
    if low >= 0 and 255 < high <= 20_000 and middle < 8000:
        return "; if reflectance x 10000, write `unit: reflectance` and `scale: 0.0001`"
    return ""


def _as_reflectance(values: BandValues) -> bool:
    return values.low >= -0.05 and -0.02 <= values.middle <= 1.2 and 0 < values.high <= 2


def _as_decibel(values: BandValues) -> bool:
    return values.low >= -60 and values.middle < -1 and values.high <= 25 and values.high - values.low > 1


def _plain_unit(stated: str) -> str:
    return re.sub(r"[^a-z0-9µ%]", "", stated.lower())


def _words(path: str) -> frozenset[str]:
    """The words in the last three parts of a path: file, folder, and the folder above."""
    return frozenset(re.split(r"[^a-z0-9]+", "/".join(path.lower().split("/")[-3:])))
