"""Identify the stored bands of files as bands of a sensor: by `bands`, descriptions in the file, or the sensor."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from geomae.catalog.band_order import StoredOrder, described_band, is_alpha
from geomae.catalog.catalog import Catalog, Scene, Source
from geomae.errors import CatalogError, RasterError
from geomae.sensors import Band, Sensor

DescribeBands = Callable[[str], tuple[str | None, ...]]  # path -> description of each stored band


@dataclass(frozen=True)
class StoredBands:
    """The bands to read, each with its number in the file (from 1) or, with one file per band, its token.

    `order` lists all stored bands of a file; None with one file per band.
    """

    bands: tuple[Band, ...]
    numbers: tuple[int, ...]
    tokens: tuple[str, ...]
    order: StoredOrder | None

    @property
    def count(self) -> int | None:
        """Number of bands in each file; None with one file per band."""
        return None if self.order is None else len(self.order.names)


def bands_by_token(catalog: Catalog, dataset: str, sensor: Sensor) -> StoredBands:
    """The bands of a data set with one file per band; a token is the sensor's own name unless `bands` gives another."""
    entry = catalog.entry(dataset)
    if isinstance(entry.bands, dict):
        bands = [find_band(catalog, dataset, sensor, token, "bands", token) for token in entry.bands]
        tokens = tuple(entry.bands.values())
    else:
        names = entry.bands or [band.name for band in sensor.bands]
        bands = [find_band(catalog, dataset, sensor, str(name), "bands", index) for index, name in enumerate(names)]
        tokens = tuple(band.name for band in bands)
    check_distinct(catalog, dataset, bands)
    if len(set(tokens)) < len(tokens):
        raise CatalogError(f"{catalog.place(dataset, 'bands')}: two bands have one token; give each its own")
    return StoredBands(tuple(bands), (1,) * len(bands), tokens, None)


def bands_by_number(
    catalog: Catalog, dataset: str, sensor: Sensor, paths: Iterable[str], describe_bands: DescribeBands
) -> StoredBands:
    """The bands of files that each hold all bands: by `bands`, else by the descriptions in the first readable file,
    else all of the sensor's.
    """
    listed = catalog.entry(dataset).bands
    if isinstance(listed, tuple):
        stored: Sequence[Band | None] = [
            find_band(catalog, dataset, sensor, token, "bands", index) if token is not None else None
            for index, token in enumerate(listed)
        ]
    else:
        stored = _described(catalog, dataset, sensor, *first_described(paths, describe_bands))
    kept = [(band, number) for number, band in enumerate(stored, start=1) if band is not None]
    bands = tuple(band for band, _ in kept)
    check_distinct(catalog, dataset, bands)
    names = tuple(band.name if band else None for band in stored)
    order = StoredOrder(sensor, names, stated=listed is not None)
    return StoredBands(bands, tuple(number for _, number in kept), (), order)


def check_distinct(catalog: Catalog, dataset: str, bands: Iterable[Band]) -> None:
    """Raise CatalogError where a band is listed twice."""
    names: set[str] = set()
    for band in bands:
        if band.name in names:
            place = catalog.place(dataset, "bands")
            raise CatalogError(f"{place}: band {band.name} is there twice; keep one, and write null for the other")
        names.add(band.name)


def find_band(catalog: Catalog, dataset: str, sensor: Sensor, token: str, *keys: str | int) -> Band:
    """The sensor's band called `token`. Raises CatalogError, at the line of `keys`, with the nearest known name."""
    with catalog.at(dataset, *keys):
        return sensor.band(token)


def first_described(paths: Iterable[str], describe_bands: DescribeBands) -> tuple[str, tuple[str | None, ...]]:
    """The first readable file of `paths`, and the descriptions of its bands; the audit reports unreadable files.

    Raises the RasterError of the first file where none can be read.
    """
    first: RasterError | None = None
    for path in paths:
        try:
            return path, describe_bands(path)
        except RasterError as error:
            first = first or error
    assert first is not None  # there is at least one file
    raise first


def in_own_order(source: Source, numbers: Mapping[str, Sequence[int]]) -> Source:
    """The source with other band numbers for some scenes, whose files store the bands in another order.

    `numbers` are by id of the scene, in the order of the source's stored bands.
    """
    if not numbers:
        return source

    def moved(scene: Scene) -> Scene:
        own = numbers.get(scene.id)
        if own is None:
            return scene
        bands = tuple(replace(band, index=own[band.index - 1]) for band in scene.bands)
        mask = scene.mask
        if mask is not None and mask.path in scene.files:
            mask = replace(mask, index=own[mask.index - 1])
        return replace(scene, bands=bands, mask=mask)

    return replace(source, scenes=tuple(map(moved, source.scenes)))


def _described(
    catalog: Catalog, dataset: str, sensor: Sensor, path: str, descriptions: Sequence[str | None]
) -> Sequence[Band | None]:
    """Bands by the descriptions in a file or, where these name no band of the sensor, in the sensor's order.

    An alpha band is skipped. Raises CatalogError where bands cannot be identified.
    """
    place = catalog.place(dataset)
    data = [at for at, description in enumerate(descriptions) if not is_alpha(description)]
    known = {at: described_band(sensor, descriptions[at]) for at in data}
    if not any(known.values()):
        if len(data) != len(sensor.bands):
            raise CatalogError(
                f"{place}: {path} holds {len(data)} bands without names, and sensor {sensor.name} has "
                f"{len(sensor.bands)}; add `bands` in stored order"
            )
        known = dict(zip(data, sensor.bands, strict=True))
    for at, band in known.items():
        if band is None:
            described = f"band {at + 1} of {path} is described as {descriptions[at]!r}"
            raise CatalogError(
                f"{place}: {described}, which sensor {sensor.name} does not have; "
                "add `bands` in stored order, null for a band to be skipped"
            )
    return [known.get(at) for at in range(len(descriptions))]
