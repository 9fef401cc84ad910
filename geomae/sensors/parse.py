"""From a mapping, as YAML gives it, to a Sensor: the one reader of published tables and of inline sensors."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from geomae.errors import CatalogError, GeomaeError, nearest
from geomae.sensors.band import Band, number, plain_name
from geomae.sensors.sensor import UNITS, Scaling, Sensor

SENSOR_KEYS = ("title", "unit", "scale", "offset", "nodata", "source", "bands")
SCALING_KEYS = ("unit", "scale", "offset")


def inline_sensor(name: str, values: Mapping[str, Any] | Sequence[Any]) -> Sensor:
    """Read a sensor that is written out in a catalogue entry.

    `values` has `bands`, a list of mappings with `name`, `wavelength_um`, `fwhm_um` and optionally `common_name`,
    `gsd_m`, `polarisation` and a `unit`, `scale`, `offset` of the band's own; beside it optionally `title`, `unit`
    (default `digital_number`), `scale` (1), `offset` (0), `nodata` (a value or a list) and `source`. A bare list stands
    for `bands`.

    Raises CatalogError, which names the sensor, for a key that is unknown (with the nearest known one) or missing,
    for a value that cannot be, and for two bands of one name.
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
            raise CatalogError(f"{where}: band {band.name!r} is there twice; rename or remove one of the two")
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
    # Before Band.from_dict, so that a misspelt `scael` meets the scaling's keys too.
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
