"""Bands: the record of a band, the matching of bands between sensors, and spectral groups."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from geomae.errors import ConfigError, GeomaeError, nearest

COMMON_NAMES = (
    *("pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge", "rededge071", "rededge075"),
    *("rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12"),
)
"""The common names of the STAC `eo` extension, version 2.0, by increasing centre wavelength after `pan`."""

LONGEST_OPTICAL_UM = 100.0  # well above thermal infrared, well below radar
ROUNDING_UM = 1e-9  # tolerance for the rounding of floating point in differences of wavelengths
COARSE = 3.0  # atmospheric bands coarser than this factor times the finest gsd are in no group (Sentinel-2's of 60 m)
ATMOSPHERE = ("coastal", "nir09", "cirrus")
RED_EDGE_UM, SWIR_UM, THERMAL_UM = 0.69, 1.0, 3.0  # where these regions begin; Cong et al. 2022 (SatMAE) group likewise
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Band:
    """The spectral band that one layer of a raster holds.

    `name` is the sensor's own (`B8A`), `common_name` that of the STAC `eo` extension (`nir08`), or None. The band is
    centred on `wavelength_um` and `fwhm_um` wide (full width at half maximum), both in micrometres. `gsd_m` is the
    ground sample distance in metres, None where unknown. `polarisation` (`VV`, `VH`, `HH`, `HV`) is for radar.
    """

    name: str
    common_name: str | None
    wavelength_um: float
    fwhm_um: float
    gsd_m: float | None
    polarisation: str | None = None

    @property
    def measures(self) -> tuple[float, float, str | None]:
        """What the band measures, by whatever name: wavelength, width and polarisation."""
        return self.wavelength_um, self.fwhm_um, self.polarisation

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; `from_dict` reads it back unchanged."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "a stored band") -> "Band":
        """Read and check a band; only `name`, `wavelength_um` and `fwhm_um` are required.

        Raises GeomaeError, whose message begins with `where`, for an unknown or missing key and an impossible value.
        """
        known = [one.name for one in fields(cls)]
        for key in values:
            if key not in known:
                raise GeomaeError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")
        name = _text(values, "name", where)
        if name is None:
            raise GeomaeError(f"{where}: a band has no `name`; add one")
        where = f"{where}: band {name!r}"
        common_name = _text(values, "common_name", where)
        if common_name is not None and common_name not in COMMON_NAMES:
            raise GeomaeError(f"{where}: unknown common name {common_name!r}; {nearest(common_name, COMMON_NAMES)}")
        polarisation = _polarisation(values, where)
        wavelength_um = positive(values, "wavelength_um", where)
        if wavelength_um >= LONGEST_OPTICAL_UM and polarisation is None:
            remedy = f"write {wavelength_um / 1000:g} if it is in nanometres, or add `polarisation` if it is radar"
            raise GeomaeError(f"{where}: wavelength_um {wavelength_um:g} is no optical wavelength; {remedy}")
        gsd_m = None if values.get("gsd_m") is None else positive(values, "gsd_m", where)
        return cls(name, common_name, wavelength_um, positive(values, "fwhm_um", where), gsd_m, polarisation)


def plain_name(token: str) -> str:
    """Normalise a band name for comparison: lower case, no leading zeros, no prefix of the product.

    `B02`, `b2`, `SR_B2` (Landsat Collection 2) and `sur_refl_b02` (MODIS) are all `b2`.
    """
    text = re.sub(r"^(sr|st|sur_refl)_(?=b\d)", "", token.strip().lower())
    return re.sub(r"^b0+(?=\d)", "b", text)


def number(values: Mapping[str, Any], key: str, where: str) -> float:
    """Read a finite number at `key`. Raises GeomaeError, whose message begins with `where`, where there is none."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        state = f"is missing `{key}`" if value is None else f"`{key}` is {value!r}"
        raise GeomaeError(f"{where}: {state}; give a finite number")
    return float(value)


def positive(values: Mapping[str, Any], key: str, where: str) -> float:
    """Read a number above zero at `key`. Raises GeomaeError, whose message begins with `where`, where there is none."""
    value = number(values, key, where)
    if value <= 0:
        raise GeomaeError(f"{where}: `{key}` is {value:g}; give a number above 0")
    return value


def match_bands(wanted: Sequence[Band], offered: Sequence[Band], same_sensor: bool) -> tuple[int | None, ...]:
    """For each wanted band, the index of the matching offered band, or None.

    Within a sensor (`same_sensor`), bands match by name; `B2` and `B02` are the same name. Across sensors, they match
    by wavelength. A candidate has the same polarisation (None for optical bands), and its centre is at most half the
    narrower of the two widths away. Of the candidates, the one with the nearest centre is taken; ties are broken by the
    nearer width, then by order. So Landsat 8 B5 (0.865 um, 0.028 wide) matches Sentinel-2 B8A (0.865 um) and not B08
    (0.833 um). Wanted bands are matched independently, so two of them may match the same offered band.
    """
    return tuple(_named(band, offered) if same_sensor else _nearest(band, offered) for band in wanted)


def band_groups(
    bands: Sequence[Band], named: Sequence[Sequence[str]] | None, left_out: Sequence[str]
) -> tuple[tuple[str, ...], Groups]:
    """Names of the bands that are in a group, in the order of `bands`, and the groups as indices into these names.

    `named` lists the bands of each group by sensor name or common name; None uses `default_groups`. Raises ConfigError
    where a band is unknown or named twice, or is neither in a group nor in `left_out`.
    """
    dropped = {_find(bands, name, "left_out") for name in left_out}
    if named is None:
        groups = [[i for i in group if i not in dropped] for group in default_groups(bands)]
    else:
        groups = [[_find(bands, name, "groups") for name in group] for group in named]
        _check(bands, groups, dropped)
    groups = [group for group in groups if group]
    kept = sorted(i for group in groups for i in group)
    return tuple(bands[i].name for i in kept), tuple(tuple(kept.index(i) for i in group) for group in groups)


def default_groups(bands: Sequence[Band]) -> list[list[int]]:
    """Group bands into visible and near infrared, red edge, short-wave infrared, thermal and radar; no empty groups.

    With red edge bands, `nir08` is in their group; all other near infrared is in the first. Atmospheric bands that are
    much coarser than the others (Sentinel-2's of 60 m) are in no group.
    """
    finest = min((band.gsd_m for band in bands if band.gsd_m and band.polarisation is None), default=None)
    red_edge = [(band.common_name or "").startswith("rededge") for band in bands]
    regions: dict[str, list[int]] = {name: [] for name in ("visible", "red edge", "swir", "thermal", "radar")}
    for i, band in enumerate(bands):
        coarse = finest is not None and band.gsd_m is not None and band.gsd_m > COARSE * finest
        if coarse and band.common_name in ATMOSPHERE:
            continue
        if band.polarisation is not None or band.wavelength_um >= LONGEST_OPTICAL_UM:
            region = "radar"
        elif band.wavelength_um >= THERMAL_UM:
            region = "thermal"
        elif band.wavelength_um >= SWIR_UM:
            region = "swir"
        elif any(red_edge) and (red_edge[i] or band.common_name == "nir08"):
            region = "red edge"
        else:
            region = "visible"
        regions[region].append(i)
    return [group for group in regions.values() if group]


def _text(values: Mapping[str, Any], key: str, where: str) -> str | None:
    value = values.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise GeomaeError(f"{where}: `{key}` is {value!r}; write it as text")
    return value


def _polarisation(values: Mapping[str, Any], where: str) -> str | None:
    text = _text(values, "polarisation", where)
    if text is None:
        return None
    known = ("VV", "VH", "HH", "HV")
    if text.upper() not in known:
        raise GeomaeError(f"{where}: unknown polarisation {text!r}; {nearest(text, known)}")
    return text.upper()


def _named(wanted: Band, offered: Sequence[Band]) -> int | None:
    name = plain_name(wanted.name)
    return next((index for index, band in enumerate(offered) if plain_name(band.name) == name), None)


def _nearest(wanted: Band, offered: Sequence[Band]) -> int | None:
    candidates = []
    for index, band in enumerate(offered):
        distance_um = abs(band.wavelength_um - wanted.wavelength_um)
        reach_um = min(band.fwhm_um, wanted.fwhm_um) / 2
        if band.polarisation == wanted.polarisation and distance_um <= reach_um + ROUNDING_UM:
            candidates.append((round(distance_um, 9), round(abs(band.fwhm_um - wanted.fwhm_um), 9), index))
    return min(candidates)[-1] if candidates else None


def _find(bands: Sequence[Band], name: str, key: str) -> int:
    """Index of the band with this sensor name, else with this common name. Raises ConfigError where there is none."""
    for i, band in enumerate(bands):
        if plain_name(band.name) == plain_name(name):
            return i
    for i, band in enumerate(bands):
        if band.common_name == name:
            return i
    known = [band.name for band in bands] + [band.common_name for band in bands if band.common_name]
    raise ConfigError(f"{key}: no band {name!r}; {nearest(name, known)}")


def _check(bands: Sequence[Band], groups: Sequence[Sequence[int]], dropped: set[int]) -> None:
    used = [i for group in groups for i in group]
    twice = sorted({bands[i].name for i in used if used.count(i) > 1 or i in dropped})
    if twice:
        raise ConfigError(f"groups: {', '.join(twice)} named twice; put each band into one group or into left_out")
    missing = [bands[i].name for i in range(len(bands)) if i not in used and i not in dropped]
    if missing:
        raise ConfigError(f"groups: {', '.join(missing)} in no group; add them to one, or to left_out")
