"""Make a Source from a catalogue entry with `stac`: an item becomes a scene, its assets the files of the bands.

Scale and offset are the entry's, else those that the items state, else those of the sensor's table. Some archives state
an offset that is already applied to the pixels, so a warning reports stated values that differ from the entry or the
table.

C bands
"""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from geomae.catalog.attributes import Value
from geomae.catalog.catalog import BandFile, Catalog, Scene, Source
from geomae.catalog.links import asset_paths
from geomae.catalog.scene_sources import DIGITAL_NUMBER, Stated, entry_figures, scaling, source_from_scenes
from geomae.catalog.stac_assets import AssetFinder, StoredBand, stated_grids
from geomae.catalog.stac_items import Item, read_items
from geomae.catalog.stored_bands import DescribeBands, StoredBands, check_distinct, find_band
from geomae.catalog.times import TIME
from geomae.errors import CatalogError
from geomae.sensors import Band, Sensor

KEYS = ("scale", "offset")
logger = logging.getLogger(__name__)


def resolve_stac(catalog: Catalog, dataset: str, describe_bands: DescribeBands) -> Source:
    """Make the Source of an entry with `stac`. Files need not exist: the audit counts and names missing ones.

    Raises CatalogError, with the place in the catalogue, the item, its file and the remedy, for items without a band,
    for repeated ids, for items that state different scalings, and as `read_items` does.
    """
    sensor = catalog.sensor(dataset)
    assert sensor is not None
    bands, finder = _wanted(catalog, dataset, sensor)
    layer = _mask_layer(catalog, dataset)
    path_of = asset_paths(catalog, dataset)
    said = _Figures(bands)
    named: list[_Named] = []
    for item in read_items(catalog, dataset):
        with catalog.at(dataset, "stac"):
            stored_C = finder.find(item, bands)
            mask = finder.layer(item, layer) if layer is not None else None
        said.add(item, stored_C)
        paths_C = [path_of(item, one.href) for one in stored_C]
        scene = Scene(
            id=item.id,
            stem=item.id,
            bands=tuple(BandFile(path, one.number) for path, one in zip(paths_C, stored_C, strict=True)),
            mask=BandFile(path_of(item, mask.href), mask.number) if mask else None,
            attributes=_attributes(item),
            stated_grids=stated_grids(list(zip(paths_C, stored_C, strict=True))),
        )
        named.append(_Named(scene, item.collection, item.where))
    stated = said.agreed(catalog, dataset, sensor)
    stored = StoredBands(bands, tuple(range(1, len(bands) + 1)), (), None)
    scenes = _with_equal_columns(_by_id(catalog, dataset, named))
    return source_from_scenes(catalog, dataset, sensor, stored, scenes, describe_bands, stated)


class _Figures:
    """The distinct scales and offsets that items state for each band, each with the first item that states it."""

    def __init__(self, bands: Sequence[Band]) -> None:
        """Begin without any stated values."""
        self.bands = tuple(bands)
        self.figures: dict[str, list[dict[float | None, str]]] = {key: [{} for _ in bands] for key in KEYS}
        self.nodata: dict[float, None] = {}

    def add(self, item: Item, stored_C: Sequence[StoredBand]) -> None:
        """Record the values that one item states for each band."""
        for position, one in enumerate(stored_C):
            self.figures["scale"][position].setdefault(one.scale, item.where)
            self.figures["offset"][position].setdefault(one.offset, item.where)
            if one.nodata is not None:
                self.nodata[one.nodata] = None

    def agreed(self, catalog: Catalog, dataset: str, sensor: Sensor) -> Stated:
        """The scaling to use. Warns where stated values differ from the entry, or else from the sensor's table.

        Raises CatalogError where items state different values and the entry gives none.
        """
        nothing = (None,) * len(self.bands)
        if catalog.entry(dataset).unit == DIGITAL_NUMBER:
            return Stated(nothing, nothing, tuple(self.nodata))
        _, *usual = scaling(catalog, dataset, sensor, self.bands)
        scale_C, offset_C = (
            self._agreed(catalog, dataset, sensor, key, usual_C) for key, usual_C in zip(KEYS, usual, strict=True)
        )
        return Stated(scale_C, offset_C, tuple(self.nodata))

    def _agreed(
        self, catalog: Catalog, dataset: str, sensor: Sensor, key: str, usual_C: Sequence[float]
    ) -> tuple[float | None, ...]:
        """The stated value of each band, None to use `usual_C`, which are the entry's values, else the sensor's."""
        own_C = entry_figures(catalog, dataset, sensor, self.bands, key)
        counts_C: list[float | None] = []
        overruled: list[str] = []
        unusual: list[str] = []
        for band, own, usual, stated in zip(self.bands, own_C, usual_C, self.figures[key], strict=True):
            # Items without a value have the usual one; a value that differs from it only by rounding equals it.
            said = {usual if one is None or _equal(one, usual) else one: where for one, where in stated.items()}
            other = next((one for one in said if one != usual), None)
            if other is not None:
                (overruled if own is not None else unusual).append(f"{other:g} for {band.name} instead of {usual:g}")
            if own is None and len(said) > 1:
                (one, first), (two, second) = list(said.items())[:2]
                raise CatalogError(
                    f"{catalog.place(dataset, 'stac')}: the {key} of {band.name} is {one:g} by {first} and {two:g} by "
                    f"{second}; make them two data sets, or state `{key}` for all"
                )
            counts_C.append(other)
        place = catalog.place(dataset, key)
        if overruled:
            logger.warning("%s: is used, but the items state another %s: %s", place, key, _listed(overruled))
        if unusual:
            remedy = f"state `{key}` if the pixels are as the table says, for example if an archive already applied it"
            what = f"the {key} that items state is used, and differs from that of sensor {sensor.name}"
            logger.warning("%s: %s: %s; %s", place, what, _listed(unusual), remedy)
        return tuple(counts_C)


@dataclass(frozen=True)
class _Named:
    """A scene with its collection, which distinguishes scenes of the same id, and its place for messages."""

    scene: Scene
    collection: str | None
    where: str


def _wanted(catalog: Catalog, dataset: str, sensor: Sensor) -> tuple[tuple[Band, ...], AssetFinder]:
    """The bands to read (by `bands`, else `stac.assets`, else all of the sensor's), and the finder of their assets."""
    entry = catalog.entry(dataset)
    assets = entry.stac.assets if entry.stac and entry.stac.assets else {}
    chosen = {
        find_band(catalog, dataset, sensor, token, "stac", "assets", token).name: key for token, key in assets.items()
    }
    if isinstance(entry.bands, tuple):
        listed = [(str(token), ("bands", index)) for index, token in enumerate(entry.bands)]
        bands = tuple(find_band(catalog, dataset, sensor, token, *keys) for token, keys in listed)
        unread = chosen.keys() - {band.name for band in bands}
        if unread:
            place = catalog.place(dataset, "stac", "assets")
            raise CatalogError(f"{place}: {min(unread)} is not among `bands`; add it there, or remove it here")
    else:
        bands = tuple(sensor.band(name) for name in chosen) or sensor.bands
    check_distinct(catalog, dataset, bands)
    return bands, AssetFinder(sensor, chosen)


def _mask_layer(catalog: Catalog, dataset: str) -> str | None:
    """The name of the layer of the entry's mask; None where the mask is not a layer of the items."""
    mask = catalog.entry(dataset).mask
    if mask is None or mask.band is None:
        return None
    if isinstance(mask.band, int):
        place = catalog.place(dataset, "mask", "band")
        raise CatalogError(f"{place}: {mask.band} is no asset; write the key of the asset that holds the mask")
    return mask.band


def _attributes(item: Item) -> dict[str, Value]:
    """The properties with single values, and lists of text joined to one text; `time` is the acquisition time."""
    values: dict[str, Value] = {"collection": item.collection} if item.collection else {}
    for key, value in item.properties.items():
        if isinstance(value, (str, int, float)):
            values[key] = value
        elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            values[key] = ", ".join(value)
    acquired = item.properties.get("datetime") or item.properties.get("start_datetime")
    return {TIME: acquired, **values} if isinstance(acquired, str) else values


def _by_id(catalog: Catalog, dataset: str, named: Sequence[_Named]) -> list[Scene]:
    """Scenes sorted by id; repeated ids of different collections become COLLECTION/ID.

    Raises CatalogError for an id that is repeated within a collection.
    """
    times = Counter(one.scene.id for one in named)
    scenes: dict[str, tuple[Scene, str]] = {}
    for one in named:
        scene_id = one.scene.id
        if times[scene_id] > 1 and one.collection is not None:
            scene_id = f"{one.collection}/{scene_id}"
        if scene_id in scenes:
            place = catalog.place(dataset, "stac", "items")
            raise CatalogError(f"{place}: {one.where} is there again as {scenes[scene_id][1]}; keep one of them")
        scenes[scene_id] = replace(one.scene, id=scene_id), one.where
    return [scenes[scene_id][0] for scene_id in sorted(scenes)]


def _with_equal_columns(scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """Give all scenes the same attributes, None for those that a scene lacks."""
    columns: dict[str, Value] = {column: None for scene in scenes for column in scene.attributes}
    return tuple(replace(scene, attributes={**columns, **scene.attributes}) for scene in scenes)


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6)


def _listed(texts: Sequence[str]) -> str:
    more = f" (and so for {len(texts) - 1} more bands)" if len(texts) > 1 else ""
    return f"{texts[0]}{more}"
