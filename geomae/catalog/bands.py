"""Which bands a data set reads, where they are stored, and how their values become physical ones."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from geomae.catalog.catalog import Catalog, Source
from geomae.catalog.schema import DatasetEntry
from geomae.errors import CatalogError
from geomae.sensors import Band, Sensor, sensor, sensor_names

DescribeBands = Callable[[str], tuple[str | None, ...]]  # path -> description of each stored band
DIGITAL_NUMBER = "digital_number"
MIXED = "mixed"  # unit of a data set whose bands have different ones


@dataclass(frozen=True)
class StoredBands:
    """Bands that are read: each with its number in the file (from 1) or, with a file per band, its token.

    `count` is how many bands each file holds, None with a file per band.
    """

    bands: tuple[Band, ...]
    numbers: tuple[int, ...]
    tokens: tuple[str, ...]
    count: int | None


def bands_by_token(catalog: Catalog, dataset: str, sensor: Sensor) -> StoredBands:
    """Bands of a data set with one file per band; a token is the sensor's own name unless `bands` maps it."""
    entry = catalog.entry(dataset)
    if isinstance(entry.bands, dict):
        bands = [find_band(catalog, dataset, sensor, token, "bands", token) for token in entry.bands]
        tokens = tuple(entry.bands.values())
    else:
        names = entry.bands or [band.name for band in sensor.bands]
        bands = [find_band(catalog, dataset, sensor, str(name), "bands", index) for index, name in enumerate(names)]
        tokens = tuple(band.name for band in bands)
    _check_distinct(catalog, dataset, bands)
    if len(set(tokens)) < len(tokens):
        raise CatalogError(f"{catalog.place(dataset, 'bands')}: two bands have one token; give each its own")
    return StoredBands(tuple(bands), (1,) * len(bands), tokens, None)


def bands_by_number(
    catalog: Catalog, dataset: str, sensor: Sensor, first_path: str, describe_bands: DescribeBands
) -> StoredBands:
    """Bands of files that hold all of them: `bands`, else the first file's descriptions, else the sensor's."""
    listed = catalog.entry(dataset).bands
    if isinstance(listed, tuple):
        stored: Sequence[Band | None] = [
            find_band(catalog, dataset, sensor, token, "bands", index) if token is not None else None
            for index, token in enumerate(listed)
        ]
    else:
        stored = _described(catalog, dataset, sensor, first_path, describe_bands(first_path))
    kept = [(band, number) for number, band in enumerate(stored, start=1) if band is not None]
    bands = tuple(band for band, _ in kept)
    _check_distinct(catalog, dataset, bands)
    return StoredBands(bands, tuple(number for _, number in kept), (), len(stored))


def find_band(catalog: Catalog, dataset: str, sensor: Sensor, token: str, *keys: str | int) -> Band:
    """The sensor's band called `token`; raises CatalogError at the line of `keys` with the nearest known name."""
    with catalog.at(dataset, *keys):
        return sensor.band(token)


def scaling(
    catalog: Catalog, dataset: str, sensor: Sensor, bands: Sequence[Band]
) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """Unit, scale and offset of each band: the entry's, else the sensor's.

    Digital numbers are taken as they are stored. Raises CatalogError when the entry names another unit than the
    sensor's and does not say the scale.
    """
    entry = catalog.entry(dataset)
    usual = [sensor.scaling(band) for band in bands]
    units = {one.unit for one in usual}
    unit = entry.unit or (units.pop() if len(units) == 1 else MIXED)
    as_stored = entry.unit == DIGITAL_NUMBER
    if entry.unit and not as_stored and entry.scale is None and any(one.unit != entry.unit for one in usual):
        place = catalog.place(dataset, "unit")
        raise CatalogError(f"{place}: {entry.unit} is not the unit of sensor {sensor.name}; add `scale` and `offset`")
    scale_C = [1.0 if as_stored else one.scale for one in usual]
    offset_C = [0.0 if as_stored else one.offset for one in usual]
    return (
        unit,
        _own(catalog, dataset, sensor, bands, "scale", scale_C),
        _own(catalog, dataset, sensor, bands, "offset", offset_C),
    )


def band_units(catalog: Catalog, source: Source) -> tuple[str, ...]:
    """The unit of each band of a data set, also where they have different ones."""
    if source.unit != MIXED:
        return (source.unit,) * len(source.bands)
    known = catalog.sensor(source.name) or (sensor(source.sensor) if source.sensor in sensor_names() else None)
    return tuple(known.scaling(band).unit if known else source.unit for band in source.bands)


def nodata_values(entry: DatasetEntry, sensor: Sensor) -> tuple[float, ...]:
    """The stored values that are no measurement: the entry's and the sensor's; an empty list in the entry is none."""
    if entry.nodata == ():
        return ()
    return tuple(dict.fromkeys((*entry.nodata_values, *sensor.nodata)))


def _own(
    catalog: Catalog, dataset: str, sensor: Sensor, bands: Sequence[Band], key: str, default_C: list[float]
) -> tuple[float, ...]:
    """The entry's numbers at `key` where it gives any, else the default."""
    given: Any = getattr(catalog.entry(dataset), key)
    if given is None:
        return tuple(default_C)
    if not isinstance(given, dict):
        return (float(given),) * len(bands)
    named = {find_band(catalog, dataset, sensor, token, key, token).name: value for token, value in given.items()}
    return tuple(float(named.get(band.name, default)) for band, default in zip(bands, default_C, strict=True))


def _described(
    catalog: Catalog, dataset: str, sensor: Sensor, path: str, descriptions: Sequence[str | None]
) -> Sequence[Band]:
    """Bands by the descriptions in a file; where these name none of the sensor's bands, by the sensor's order."""
    place = catalog.place(dataset)
    known = [_known(sensor, description) for description in descriptions]
    if all(known):
        return [band for band in known if band]
    if any(known):
        number = known.index(None) + 1
        described = f"band {number} of {path} is described as {descriptions[number - 1]!r}"
        raise CatalogError(
            f"{place}: {described}, which sensor {sensor.name} has not; "
            "add `bands` in stored order, null for what is to be skipped"
        )
    if len(descriptions) != len(sensor.bands):
        raise CatalogError(
            f"{place}: {path} holds {len(descriptions)} bands without names, and sensor {sensor.name} has "
            f"{len(sensor.bands)}; add `bands` in stored order"
        )
    return sensor.bands


def _known(sensor: Sensor, description: str | None) -> Band | None:
    try:
        return sensor.band(description) if description else None
    except CatalogError:
        return None


def _check_distinct(catalog: Catalog, dataset: str, bands: Iterable[Band]) -> None:
    names: set[str] = set()
    for band in bands:
        if band.name in names:
            place = catalog.place(dataset, "bands")
            raise CatalogError(f"{place}: band {band.name} is there twice; keep one, and write null for the other")
        names.add(band.name)
