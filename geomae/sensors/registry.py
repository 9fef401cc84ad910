"""Sensors: their bands and the scaling of stored values, from the published `tables/` or from a catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geomae.errors import CatalogError, GeomaeError, nearest
from geomae.files import read_yaml
from geomae.sensors.band import Band, number, plain_name

SENSOR_KEYS = ("title", "unit", "scale", "offset", "nodata", "source", "bands")
SCALING_KEYS = ("unit", "scale", "offset")
UNITS = {
    "reflectance": "dimensionless, 1 is all of the incoming light",
    "radiance": "W / (m2 sr um)",
    "brightness_temperature": "kelvin; surface temperature too",
    "digital_number": "as stored, without a physical unit",
    "backscatter": "dimensionless, linear power",
    "decibel": "10 log10 of the backscatter",
}
"""The units that a sensor or a catalogue entry may have, with their meaning."""

TABLES = Path(__file__).parent / "tables"

SHORT_NAMES = {
    **{f"s{number}": f"sentinel-{number}" for number in (1, 2)},
    **{f"l{number}": f"landsat-{number}" for number in (4, 5, 7, 8, 9)},
    "mod09": "modis",
    "ps": "planetscope",
}
"""Common short names of sensors and the part of the full name that they stand for; used in messages only."""


@dataclass(frozen=True)
class Scaling:
    """The scaling of stored values to physical ones in `unit`: physical = stored x scale + offset."""

    unit: str
    scale: float
    offset: float


@dataclass(frozen=True)
class Sensor:
    """The bands of a sensor's product, in the product's order, and the scaling of their stored values.

    `unit`, `scale` and `offset` apply to all bands that are not in `overrides` (by `Band.name`). `nodata` lists the
    stored values that mark a pixel as not measured. `source` names the documents from which the figures are taken.
    """

    name: str
    title: str
    unit: str
    scale: float
    offset: float
    nodata: tuple[float, ...]
    bands: tuple[Band, ...]
    source: str
    overrides: Mapping[str, Scaling] = field(default_factory=dict)

    def band(self, token: str) -> Band:
        """Find a band by the sensor's own name, else by its common name; case and leading zeros do not matter.

        Raises CatalogError where no band or more than one matches `token`.
        """
        wanted = plain_name(token)
        by_name = [band for band in self.bands if plain_name(band.name) == wanted]
        matches = by_name or [band for band in self.bands if band.common_name == wanted]
        # `B6` of ETM+ is stored twice, as B6_VCID_1 and B6_VCID_2
        matches = matches or [band for band in self.bands if plain_name(band.name).startswith(f"{wanted}_")]
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = " or ".join(band.name for band in matches)
            raise CatalogError(f"band {token!r} of sensor {self.name} is ambiguous; write {choices}")
        names = dict.fromkeys(one for band in self.bands for one in (band.name, band.common_name) if one)
        raise CatalogError(f"sensor {self.name} has no band {token!r}; {nearest(token, names)}")

    def scaling(self, band: Band) -> Scaling:
        """The scaling of the stored values of `band` in this sensor's product."""
        return self.overrides.get(band.name, Scaling(self.unit, self.scale, self.offset))


def inline_sensor(name: str, values: Mapping[str, Any] | Sequence[Any]) -> Sensor:
    """Read a sensor that is defined in a catalogue entry.

    `values` has `bands`, a list of mappings with `name`, `wavelength_um`, `fwhm_um` and optionally `common_name`,
    `gsd_m`, `polarisation`, and `unit`, `scale`, `offset` of this band. Optional further keys are `title`, `unit`
    (default `digital_number`), `scale` (1), `offset` (0), `nodata` (a value or a list) and `source`. A bare list is
    read as `bands`.

    Raises CatalogError, which names the sensor, for a key that is unknown (with the nearest known one) or missing, for
    an impossible value, and for two bands with the same name.
    """
    where = f"sensor {name!r}"
    if isinstance(values, Mapping):
        table = values
    elif isinstance(values, Sequence) and not isinstance(values, str):
        table = {"bands": values}
    else:
        raise CatalogError(f"{where}: is {values!r}; write a mapping with `bands`, or the name of a known sensor")
    try:
        return _sensor(name, table, where)
    except CatalogError:
        raise
    except GeomaeError as error:
        raise CatalogError(str(error)) from error


def sensor(name: str) -> Sensor:
    """Return the published sensor `name`.

    Raises CatalogError for an unknown name. A name that fits several sensors (`sentinel-2`, `landsat-8`) is refused,
    because these differ in bands or scaling; the message lists them.
    """
    sensors = _sensors()
    if name in sensors:
        return sensors[name]
    choices = _meant(name, sensors)
    if len(choices) > 1:
        remedy = f"choose one of these, which differ in bands or scaling: {', '.join(choices)}"
    else:
        remedy = f"did you mean {choices[0]!r}?" if choices else nearest(name, sensors)
    raise CatalogError(f"unknown sensor {name!r}; {remedy}")


def sensor_names() -> tuple[str, ...]:
    """Names of all published sensors, in alphabetical order."""
    return tuple(sorted(_sensors()))


def _sensor(name: str, table: Mapping[str, Any], where: str) -> Sensor:
    for key in table:
        if key not in SENSOR_KEYS:
            raise CatalogError(f"{where}: unknown key {key!r}; {nearest(str(key), SENSOR_KEYS)}")
    default = _scaling(table, Scaling("digital_number", 1.0, 0.0), where)
    bands: list[Band] = []
    overrides: dict[str, Scaling] = {}
    for entry in _band_entries(table, where):
        own = {key: entry[key] for key in SCALING_KEYS if key in entry}
        _check_band_keys(entry, where)
        band = Band.from_dict({key: value for key, value in entry.items() if key not in SCALING_KEYS}, where)
        if plain_name(band.name) in {plain_name(other.name) for other in bands}:
            raise CatalogError(f"{where}: band {band.name!r} is listed twice; rename or remove one of the two")
        bands.append(band)
        if own:
            overrides[band.name] = _scaling(own, default, f"{where}: band {band.name!r}")
    return Sensor(
        name=name,
        title=str(table.get("title") or name),
        unit=default.unit,
        scale=default.scale,
        offset=default.offset,
        nodata=_nodata(table, where),
        bands=tuple(bands),
        source=str(table.get("source") or "the catalogue"),
        overrides=overrides,
    )


def _band_entries(table: Mapping[str, Any], where: str) -> Sequence[Mapping[str, Any]]:
    entries = table.get("bands")
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise CatalogError(f"{where}: has no list of `bands`; add one mapping per stored band")
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise CatalogError(f"{where}: band {entry!r} must be a mapping with `name`, `wavelength_um` and `fwhm_um`")
    return entries


def _check_band_keys(entry: Mapping[str, Any], where: str) -> None:
    # Checked before Band.from_dict, so that the keys of the scaling are suggested for a misspelt `scael` too.
    known = [one.name for one in fields(Band)] + list(SCALING_KEYS)
    for key in entry:
        if key not in known:
            raise CatalogError(f"{where}: band {entry.get('name')!r}: unknown key {key!r}; {nearest(str(key), known)}")


def _scaling(values: Mapping[str, Any], default: Scaling, where: str) -> Scaling:
    unit = values.get("unit", default.unit)
    if unit not in UNITS:
        raise CatalogError(f"{where}: unknown unit {unit!r}; {nearest(str(unit), UNITS)}")
    scale = number(values, "scale", where) if "scale" in values else default.scale
    if scale == 0:
        raise CatalogError(f"{where}: `scale` is 0, which makes every pixel equal; give another number")
    offset = number(values, "offset", where) if "offset" in values else default.offset
    return Scaling(unit, scale, offset)


def _nodata(table: Mapping[str, Any], where: str) -> tuple[float, ...]:
    listed = table.get("nodata", ())
    values = listed if isinstance(listed, (list, tuple)) else (listed,)
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        raise CatalogError(f"{where}: `nodata` is {listed!r}; give a number or a list of numbers")
    return tuple(float(value) for value in values)


def _meant(name: str, sensors: Mapping[str, Sensor]) -> list[str]:
    """Names of sensors that contain `name`, ignoring how words are separated."""
    joined = "".join(part for part in name.lower().replace("_", "-").replace(" ", "-").split("-") if part)
    joined = SHORT_NAMES.get(joined, joined).replace("-", "")
    return [known for known in sorted(sensors) if joined and joined in known.replace("-", "")]


@cache
def _sensors() -> Mapping[str, Sensor]:
    """All sensors of all tables, read once per process; records and mapping are read-only."""
    sensors: dict[str, Sensor] = {}
    for path in sorted(TABLES.glob("*.yaml")):
        table = read_yaml(path).values
        for name, entry in table["sensors"].items():
            sensors[name] = inline_sensor(name, _resolved(entry, table["bands"]))
    return MappingProxyType(sensors)


def _resolved(entry: Mapping[str, Any], bands: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Fill the figures of its bands into the entry of a product, and join its sources to one text.

    A table gives the figures of each band once, under `bands`. A product lists the names of its bands in order, and
    under `stored` the scaling of bands that differ from the others.
    """
    stored = entry.get("stored", {})
    return {
        **{key: value for key, value in entry.items() if key not in ("stored", "sources")},
        "bands": [{"name": name, **bands[name], **stored.get(name, {})} for name in entry["bands"]],
        "source": "; ".join(f"{figure}: {document}" for figure, document in entry["sources"].items()),
    }
