"""The likely sensor of a group of rasters, and what the user has to check or decide about the guess.

A guess uses names, band descriptions, band count, data type and ground sample distance. Each guess states its reason.
"""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from geomae.catalog.band_order import is_alpha
from geomae.discovery.grouping import LANDSAT_SENSORS
from geomae.errors import CatalogError
from geomae.sensors import FIRST_OFFSET_BASELINE, Band, Sensor, sensor, sensor_names

FIRST_OFFSET_DAY = 20220125  # from this day on Sentinel-2 products came with baseline 04.00 or later
SENTINEL_2 = ("sentinel-2-l2a", "sentinel-2-l2a-n0400", "sentinel-2-l1c", "sentinel-2-l1c-n0400")
BEGIN = r"(?<![A-Za-z0-9])"

Hint = tuple[tuple[str, ...], bool]
"""Names of sensors, the most likely first, and whether the first is certain."""

FILL_IN = "fill-in"  # name of a sensor whose bands are placeholders
PREFERRED = (
    *("sentinel-2-l2a", "sentinel-2-l1c", "landsat-8-oli-c2l2", "landsat-9-oli-c2l2", "landsat-7-etm-c2l2"),
    *("landsat-5-tm-c2l2", "hls-l30", "hls-s30", "naip", "planetscope-superdove", "sentinel-1-grd"),
)
TM = ("B1", "B2", "B3", "B4", "B5", "B7")
USUAL_STACKS: tuple[tuple[str, tuple[str, ...]], ...] = (  # beginning of a sensor's name, bands as commonly stacked
    ("sentinel-2", ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")),
    ("landsat-4", TM),
    ("landsat-5", TM),
    ("landsat-7", TM),
    ("landsat-8", tuple(f"B{number}" for number in range(2, 8))),
    ("landsat-8", tuple(f"B{number}" for number in range(1, 8))),
    ("landsat-9", tuple(f"B{number}" for number in range(2, 8))),
    ("landsat-9", tuple(f"B{number}" for number in range(1, 8))),
    ("hls-l30", tuple(f"B0{number}" for number in range(2, 8))),
    ("hls-l30", tuple(f"B0{number}" for number in range(1, 8))),
    ("hls-s30", ("B02", "B03", "B04", "B8A", "B11", "B12")),
    ("naip", ("red", "green", "blue")),
)
RADAR_BAND = re.compile(  # as SNAP and others call calibrated bands: Sigma0_VV, Gamma0_VH_db, VV_dB
    r"(?:(?:sigma|gamma|beta)_?(?:0|nought)[_ ]|(?:amplitude|intensity)[_ ])?(V[VH]|H[HV])(?:[_ ]db)?", re.IGNORECASE
)
WAVELENGTH = re.compile(  # as GDAL, QGIS and others describe the bands of spectrometers: "Band 7 (448.5 Nanometers)"
    r"(?<![\w.,+±-])(?P<length>\d+(?:\.\d+)?)\s*(?:(?P<nm>nm|nanomet(?:er|re)s?)|um|[µμ]m|micromet(?:er|re)s?|microns?)(?!\w)",
    re.IGNORECASE,
)
OTHER_FIGURES = re.compile(  # a width or a range: a description with them gives more than the centre
    r"±|\+/-|fwhm|width|\d\s*(?:[-–—/~…]|to)\s*\d", re.IGNORECASE
)
OPTICAL_UM = (0.2, 15.0)  # shortest and longest wavelength that is believed
FEWEST_BANDS = 3  # of a sensor that is known by wavelengths only
WIDEST_UM = 0.02  # width of a band that states its wavelength only, at most
COLOUR_UM = {"red": (0.65, 0.1), "green": (0.55, 0.1), "blue": (0.46, 0.1)}  # of common cameras: centre and width


def hinted_sensors(path: str) -> Hint:
    """The sensors of the tables that `path` suggests, the most likely first, and whether the first is certain.

    Empty if the path suggests none.
    """
    for pattern, read in READERS:
        matches = list(pattern.finditer(path))
        if matches:
            return read(matches[-1])  # the file name counts more than the names of folders
    return (), False


def _sentinel_2(match: re.Match[str]) -> Hint:
    level, day = f"sentinel-2-{match['level'].lower()}", int(match["day"])
    baseline = match["baseline"]
    if baseline is not None:
        return (f"{level}{'-n0400' if int(baseline) >= FIRST_OFFSET_BASELINE else ''}",), True
    likely, other = (f"{level}-n0400", level) if day >= FIRST_OFFSET_DAY else (level, f"{level}-n0400")
    return (likely, other), False


def _landsat_product(match: re.Match[str]) -> Hint:
    return (LANDSAT_SENSORS[match["number"]] + ("-c2l2" if match["level"] == "L2" else ""),), True


def _landsat(match: re.Match[str]) -> Hint:
    name = LANDSAT_SENSORS[match["number"]]
    return (name, f"{name}-c2l2"), False


def _always(*names: str, certain: bool = False) -> Callable[[re.Match[str]], Hint]:
    return lambda match: (names, certain)


READERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Hint]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), read)
    for pattern, read in (
        (r"S2[A-D]_MSI(?P<level>L1C|L2A)_(?P<day>\d{8})(?:T\d+)?(?:_N(?P<baseline>\d{4}))?", _sentinel_2),
        (BEGIN + r"L[COTEM]0(?P<number>[45789])_(?P<level>L1|L2)[A-Z]{2}_", _landsat_product),
        (r"HLS\.L30\.", _always("hls-l30", certain=True)),
        (r"HLS\.S30\.", _always("hls-s30", certain=True)),
        (BEGIN + r"L[COTEM](?P<number>[45789])\d{13}", _landsat),
        (BEGIN + r"m_\d{7}_[ns][ew]_\d", _always("naip")),
        (BEGIN + r"S1[A-D]_(?:IW|EW|SM)_GRD", _always("sentinel-1-grd")),
        (BEGIN + r"M[OY]D09", _always("modis-land")),
        (r"AnalyticMS(?:_SR)?_8b|SuperDove", _always("planetscope-superdove")),
        (BEGIN + r"HLS(?![a-z])", _always("hls-l30", "hls-s30")),
        (r"landsat[-_ ]?(?P<number>[45789])(?!\d)", _landsat),
        (BEGIN + r"L(?P<number>[45789])(?!\d)", _landsat),
        (r"sentinel[-_ ]?2|" + BEGIN + r"S2(?!\d)", _always(*SENTINEL_2)),
        (r"sentinel[-_ ]?1(?!\d)|" + BEGIN + r"S1(?!\d)", _always("sentinel-1-grd")),
        (BEGIN + r"NAIP(?![a-z])", _always("naip")),
    )
)
"""Patterns and their meaning, the most specific first."""


@dataclass(frozen=True)
class Evidence:
    """Evidence from a group of rasters: a path, stored bands, data type, descriptions, pixel size, alpha band."""

    path: str
    count: int
    dtype: str
    descriptions: tuple[str | None, ...]
    gsd_m: float | None
    alpha: int | None = None


@dataclass(frozen=True)
class SensorGuess:
    """A sensor (a name of the tables, or a mapping as in a catalogue) and the bands in stored order; None skips one.

    `certain` is true if the name of a product states the sensor. `checks` are remarks by key of the entry; `question`
    is what only the user can decide.
    """

    sensor: str | Mapping[str, Any]
    bands: tuple[str | None, ...]
    certain: bool = False
    checks: Mapping[str, str] = field(default_factory=dict)
    question: str | None = None


def guess_sensor(evidence: Evidence) -> SensorGuess:
    """The likely sensor and its bands in stored order, without an alpha band."""
    if evidence.alpha is None or not is_alpha(evidence.descriptions[evidence.alpha - 1]):
        return _guess(evidence)
    at = evidence.alpha - 1
    others = (*evidence.descriptions[:at], *evidence.descriptions[at + 1 :])
    guess = _guess(replace(evidence, count=len(others), descriptions=others, alpha=None))
    return replace(guess, bands=(*guess.bands[:at], None, *guess.bands[at:]))


def _guess(evidence: Evidence) -> SensorGuess:
    hinted, certain = hinted_sensors(evidence.path)
    if len(hinted) > 1 and hinted[0].startswith("landsat"):  # Collection 2: SR_B2, ..., in unsigned 16 bit
        surface = any((text or "").upper().startswith("SR_B") for text in evidence.descriptions)
        hinted = (*hinted[1:], hinted[0]) if surface or evidence.dtype == "uint16" else hinted[:1]
    if hinted[:1] == ("sentinel-1-grd",) and evidence.dtype == "uint8":  # radar has more than 8 bits
        hinted = ()
    fits = _fits(evidence, hinted)
    if not fits and not certain and (named := _fits(evidence, ())):  # band names count more than file names
        fits, hinted = named, ()
    if fits:
        order = list(hinted or PREFERRED)
        fits.sort(key=lambda fit: _rank(fit, order, hinted=bool(hinted)))
        return _described(fits, hinted, certain, evidence.dtype)
    return _counted(evidence, hinted, certain) or _colour(evidence) or _spectral(evidence) or _unknown(evidence)


def kept_band(one: Sensor, band: Band | None) -> str | None:
    """The band's name; None for a panchromatic band, and for a band in another unit than the sensor's."""
    if band is None or band.common_name == "pan" or one.scaling(band).unit != one.unit:
        return None
    return band.name


@dataclass(frozen=True)
class _Fit:
    sensor: Sensor
    bands: tuple[Band | None, ...]
    distance_um: float
    gsd_differs: bool
    type_differs: bool


def _fits(evidence: Evidence, hinted: tuple[str, ...]) -> list[_Fit]:
    """The fits of the descriptions to the hinted sensors (partial fits count), else complete fits to any sensor."""
    names = hinted or sensor_names()
    return [fit for name in names if (fit := _fit(sensor(name), evidence, partly=bool(hinted)))]


def _fit(one: Sensor, evidence: Evidence, *, partly: bool) -> _Fit | None:
    """The fit of band descriptions to a sensor; None if they do not name its bands."""
    bands: list[Band | None] = []
    distance_um = 0.0
    for description in evidence.descriptions:
        band, away_um = _band(one, description)
        bands.append(None if band in bands else band)
        distance_um += away_um
    named = sum(band is not None for band in bands)
    if named < (max(2, evidence.count / 2) if partly else max(2, evidence.count)):
        return None
    finest = min((band.gsd_m for band in bands if band and band.gsd_m), default=None)
    differs = bool(evidence.gsd_m and finest and not 0.8 < evidence.gsd_m / finest < 1.25)
    signed = any(value < 0 for value in one.nodata)  # only a sensor with negative fill values has a signed type
    types = {"int16": True, "uint16": False}
    return _Fit(one, tuple(bands), round(distance_um, 3), differs, types.get(evidence.dtype, signed) != signed)


def _band(one: Sensor, description: str | None) -> tuple[Band | None, float]:
    """The band that a description names by name, number or wavelength, and the error of the wavelength (um)."""
    text = (description or "").strip()
    wavelength = re.search(r"(?:^|[_ ])(\d{3,4})\s*(?:nm)?$", text)
    if wavelength:
        length_um = int(wavelength[1]) / 1000
        near = [band for band in one.bands if abs(band.wavelength_um - length_um) <= band.fwhm_um / 2]
        best = min(near, key=lambda band: abs(band.wavelength_um - length_um), default=None)
        return best, abs(best.wavelength_um - length_um) if best else 0.0
    number = re.match(r"band[ _]?(\d+A?)\b", text, re.IGNORECASE)
    radar = RADAR_BAND.fullmatch(text)
    for token in filter(None, (text, f"B{number[1]}" if number else "", radar[1] if radar else "")):
        with contextlib.suppress(CatalogError):
            return one.band(token), 0.0
    return None, 0.0


def _rank(fit: _Fit, order: Sequence[str], *, hinted: bool) -> tuple[float, ...]:
    place = order.index(fit.sensor.name) if fit.sensor.name in order else len(order)
    named = -sum(band is not None for band in fit.bands)
    if hinted:
        return named, fit.distance_um, place
    return fit.gsd_differs, fit.distance_um, fit.type_differs, place


def _described(fits: Sequence[_Fit], hinted: tuple[str, ...], certain: bool, dtype: str) -> SensorGuess:
    best = fits[0]
    bands = tuple(kept_band(best.sensor, band) for band in best.bands)
    if hinted:
        rank = _rank(best, hinted, hinted=True)[:-1]
        others = [fit.sensor.name for fit in fits[1:] if _rank(fit, hinted, hinted=True)[:-1] == rank]
        checks = {} if certain else {"sensor": _alternatives("the names of the files and of the bands", others)}
        return SensorGuess(best.sensor.name, bands, certain, checks)
    equal = [fit for fit in fits[1:] if (fit.gsd_differs, fit.distance_um) == (best.gsd_differs, best.distance_um)]
    others = [fit.sensor.name for fit in equal]
    by_type = not best.type_differs and any(fit.type_differs for fit in equal)
    reason = _alternatives(f"the names of the bands{f' and the type {dtype}' if by_type else ''}", others)
    question = None
    if best.gsd_differs or any(_family(name) != _family(best.sensor.name) for name in others):
        question = f"which sensor is it? {best.sensor.name} is written, because of {reason}"
    return SensorGuess(best.sensor.name, bands, False, {"sensor": reason}, question)


def _counted(evidence: Evidence, hinted: tuple[str, ...], certain: bool) -> SensorGuess | None:
    """A guess from the number of bands, in their common order of stacking."""
    plausible = evidence.dtype != "uint8" and (evidence.gsd_m is None or round(evidence.gsd_m) in (10, 20, 60))
    unhinted = {13: ("sentinel-2-l1c", "sentinel-2-l1c-n0400"), 12: ("sentinel-2-l2a", "sentinel-2-l2a-n0400")}
    names = hinted or (unhinted.get(evidence.count, ()) if plausible else ())
    for name in names:
        known = sensor(name)
        stacks = [bands for start, bands in USUAL_STACKS if name.startswith(start)]
        for stack in (tuple(band.name for band in known.bands), *stacks):
            if len(stack) == evidence.count:
                reason = "the name of the files and the number of bands" if hinted else "the number of bands"
                others = [other for other in names if other != name]
                checks = {"bands": "the files do not name their bands; this is the common order"}
                checks |= {} if certain else {"sensor": _alternatives(reason, others)}
                bands = tuple(kept_band(known, known.band(token)) for token in stack)
                return SensorGuess(name, bands, certain, checks)
    return None


def _colour(evidence: Evidence) -> SensorGuess | None:
    """Red, green and blue of a camera, or of a picture for display."""
    if evidence.dtype != "uint8" or (evidence.count, evidence.alpha) not in ((3, None), (4, 4)):
        return None
    bands = [
        {"name": name, "common_name": name, "wavelength_um": centre, "fwhm_um": width}
        for name, (centre, width) in COLOUR_UM.items()
    ]
    reason = "taken as 8 bit red, green, blue; wavelengths are typical of cameras, not measured"
    order = (*COLOUR_UM, *(None for _ in range(evidence.count - 3)))
    return SensorGuess({"name": "colour", "bands": bands}, order, False, {"sensor": reason})


def _spectral(evidence: Evidence) -> SensorGuess | None:
    """A sensor whose descriptions state the wavelengths of all bands, and nothing else in nanometres or micrometres."""
    stated = [list(WAVELENGTH.finditer(text or "")) for text in evidence.descriptions]
    others = any(OTHER_FIGURES.search(text or "") for text in evidence.descriptions)
    if evidence.count < FEWEST_BANDS or others or any(len(matches) != 1 for matches in stated):
        return None
    centre_C = np.array([round(float(one["length"]) / (1000 if one["nm"] else 1), 6) for (one,) in stated])
    low_um, high_um = OPTICAL_UM
    if len(set(centre_C.tolist())) < len(centre_C) or centre_C.min() < low_um or centre_C.max() > high_um:
        return None
    away_CC = np.abs(centre_C[:, None] - centre_C)
    np.fill_diagonal(away_CC, np.inf)
    width_C = np.minimum(away_CC.min(axis=1), WIDEST_UM)
    names = _names(evidence)
    bands = [
        {"name": name, "wavelength_um": centre, "fwhm_um": round(width, 6)}
        for name, centre, width in zip(names, centre_C.tolist(), width_C.tolist(), strict=True)
    ]
    reason = (
        "wavelengths are those that the files state; they do not state widths: each is taken as the distance to the "
        f"next band, at most {WIDEST_UM:g} um"
    )
    return SensorGuess({"name": "spectrometer", "bands": bands}, names, False, {"sensor": reason})


def _unknown(evidence: Evidence) -> SensorGuess:
    """A sensor with placeholders that the user has to fill in."""
    names = _names(evidence)
    bands = [{"name": name, "wavelength_um": 1, "fwhm_um": 1} for name in names]
    bands_of = f"{evidence.count} band{'s' * (evidence.count > 1)} of {evidence.dtype}"
    stacks = [start for start, stack in USUAL_STACKS if len(stack) == evidence.count]
    known = [name for name in PREFERRED if evidence.dtype != "uint8" and name.startswith(tuple(stacks))]
    like = f" (as many as {' or '.join(known)} often has in a file)" if known else ""
    question = (
        f"which sensor is it? {bands_of} without known names{like}; "
        "write a sensor's name, or the wavelength and width of each band in um (the values there are placeholders)"
    )
    return SensorGuess({"name": FILL_IN, "bands": bands}, names, False, {}, question)


def _names(evidence: Evidence) -> tuple[str, ...]:
    """The descriptions as different names of bands, else numbers."""
    plain = [_plain(text) for text in evidence.descriptions]
    names: list[str] = []
    for number, name in enumerate(plain, start=1):
        unique = name if name and plain.count(name) == 1 else f"band{number}"
        while unique in names or (unique in plain and unique != name):
            unique += "_"
        names.append(unique)
    return tuple(names)


def _alternatives(reason: str, others: Sequence[str]) -> str:
    also = f", which would also fit {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}" if others else ""
    late = any(name.endswith("-n0400") for name in others)
    return f"{reason}{also}{' (n0400: processing baseline 04.00 and later)' if late else ''}"


def _family(name: str) -> str:
    return "-".join(name.split("-")[:2])


def _plain(text: str | None) -> str:
    """A description as the name of a band."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text or "").strip("_")[:40]
