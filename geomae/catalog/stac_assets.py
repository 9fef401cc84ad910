"""Find the asset of a STAC item that holds a band, the number of the band in its file, and the scaling of its values.

An asset may list the bands of its file, in stored order. STAC 1.0 has two lists: `eo:bands` with names, and
`raster:bands` with scale, offset and nodata. STAC 1.1 has one, `bands`, with `name`, `eo:common_name`, `raster:scale`,
`raster:offset` and `nodata`; fields that are equal for all bands may be fields of the asset. The grid of the file is
given by `proj:code` (or `proj:epsg`, `proj:wkt2`) and `proj:shape`, in the asset or in the item's properties.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geomae.catalog.catalog import StatedGrid
from geomae.catalog.stac_items import Item
from geomae.errors import CatalogError, nearest
from geomae.sensors import Band, Sensor

NO_DATA_ROLES = frozenset(("thumbnail", "overview", "visual", "metadata"))  # pictures and texts, not data
FIELDS = {  # of one stored band, by what STAC 1.1, 1.0's eo:bands and 1.0's raster:bands call them
    "name": ("name",),
    "common_name": ("eo:common_name", "common_name"),
    "scale": ("raster:scale", "scale"),
    "offset": ("raster:offset", "offset"),
    "nodata": ("nodata",),
}
BandFields = dict[str, Any]  # one band under the keys of `FIELDS`, None for missing fields
NUMBERS = ("nan", "inf", "-inf")  # written as text, since JSON has no such numbers


@dataclass(frozen=True)
class StoredBand:
    """A band in the file of an asset; `number` counts from 1. Fields that the item does not give are None."""

    key: str
    href: str
    number: int
    scale: float | None
    offset: float | None
    nodata: float | None
    crs: str | None
    shape: tuple[int, int] | None


class AssetFinder:
    """Finds bands in the assets of items; `chosen` is the catalogue's `stac.assets`, band to key of the asset."""

    def __init__(self, sensor: Sensor, chosen: Mapping[str, str]) -> None:
        """`known` caches the band of the sensor for each name, since items repeat the same few names."""
        self.sensor = sensor
        self.chosen = chosen
        self.known: dict[str, str | None] = {}

    def find(self, item: Item, bands: Sequence[Band]) -> list[StoredBand]:
        """Find each band in an item. Raises CatalogError, which names item, file and band, where one is missing."""
        listed = {key: listed_bands(asset) for key, asset in item.assets.items()}
        return [self._find(item, listed, band) for band in bands]

    def layer(self, item: Item, name: str) -> StoredBand:
        """Find the layer of a mask: an asset by its key, or a band by its name in the item."""
        if name in item.assets:
            return _stored(item, name, listed_bands(item.assets[name]), 0)
        for key, asset in item.assets.items():
            listed = listed_bands(asset)
            names = [band["name"] for band in listed]
            if name in names:
                return _stored(item, key, listed, names.index(name))
        raise CatalogError(f"{item.where}: has no asset and no band {name!r}; {nearest(name, item.assets)}")

    def _find(self, item: Item, listed: Mapping[str, list[BandFields]], band: Band) -> StoredBand:
        key = self.chosen.get(band.name)
        if key is not None:
            return self._within(item, key, listed, band)
        held: dict[str, int] = {}  # position of the band in the assets that hold it
        for one, asset in item.assets.items():
            position = self._position(listed[one], band)
            if position is not None and NO_DATA_ROLES.isdisjoint(asset.get("roles") or ()):
                held[one] = position
        if not held:  # items whose assets list no bands, or none of this sensor
            keys = [one for one in item.assets if self._means(one) == band.name]
            held = dict.fromkeys((one for one in keys if len(listed[one]) <= 1), 0)
        key = self._only(item, band, held, [one for one in held if len(listed[one]) <= 1])
        return _stored(item, key, listed[key], held[key])

    def _within(self, item: Item, key: str, listed: Mapping[str, list[BandFields]], band: Band) -> StoredBand:
        """Find a band in the asset that the catalogue chose for it."""
        if key not in item.assets:
            raise CatalogError(f"{item.where}: has no asset {key!r} for band {band.name}; {nearest(key, item.assets)}")
        position = self._position(listed[key], band)
        alone = len(listed[key]) <= 1 and list(self.chosen.values()).count(key) == 1
        if position is None and not alone:
            names = ", ".join(str(one["name"] or one["common_name"]) for one in listed[key]) or "no bands by name"
            raise CatalogError(
                f"{item.where}: its asset {key!r} lists {names}, and {band.name} is none of them; correct "
                "`stac.assets`, or list the bands of the asset in the item"
            )
        return _stored(item, key, listed[key], position or 0)

    def _position(self, listed: Sequence[BandFields], band: Band) -> int | None:
        """Index of a band in the list of an asset, by name, else by common name; None where it is not listed."""
        for field in ("name", "common_name"):
            names = [self._means(one[field]) for one in listed]
            if band.name in names:
                return names.index(band.name)
        return None

    def _only(self, item: Item, band: Band, held: Mapping[str, int], alone: Sequence[str]) -> str:
        """Choose among the assets that hold a band: the one whose key names the band, else one without other bands."""
        if not held:
            there = ", ".join(item.assets) or "none"
            raise CatalogError(
                f"{item.where}: no asset holds band {band.name}; its assets are {there}; say which with `stac.assets`, "
                "or list the bands to read under `bands`"
            )
        by_key = [key for key in held if self._means(key) == band.name]
        keys = next(keys for keys in (by_key, list(alone), list(held)) if keys)
        if len(keys) > 1:
            raise CatalogError(
                f"{item.where}: assets {' and '.join(keys)} hold band {band.name}; say which under `stac.assets`, "
                f"as in {{{band.name}: {keys[0]}}}"
            )
        return keys[0]

    def _means(self, name: Any) -> str | None:
        """The sensor's band for a name or common name, None where there is none."""
        if not isinstance(name, str):
            return None
        if name not in self.known:
            try:
                self.known[name] = self.sensor.band(name).name
            except CatalogError:
                self.known[name] = None
        return self.known[name]


def listed_bands(asset: Mapping[str, Any]) -> list[BandFields]:
    """The bands that an asset lists, in stored order, under the keys of `FIELDS`; empty where it lists none."""
    listed = asset.get("bands")
    if isinstance(listed, list):
        rows: list[dict[str, Any]] = [one if isinstance(one, dict) else {} for one in listed]
    else:
        lists = (
            [one if isinstance(one, dict) else {} for one in asset.get(key) or ()]
            for key in ("eo:bands", "raster:bands")
        )
        # Names are taken from the eo extension only, even where `raster:bands` has names too.
        rows = [
            {**figures, "name": names.get("name"), "common_name": names.get("common_name")}
            for names, figures in itertools.zip_longest(*lists, fillvalue={})
        ]
    shared = {key: asset[key] for names in FIELDS.values() for key in names if ":" in key and key in asset}
    if "nodata" in asset:
        shared["nodata"] = asset["nodata"]
    merged = [{**shared, **row} for row in rows or ([shared] if shared else [])]
    return [
        {field: next((row[key] for key in keys if row.get(key) is not None), None) for field, keys in FIELDS.items()}
        for row in merged
    ]


def stated_grids(bands: Sequence[tuple[str, StoredBand]]) -> tuple[StatedGrid, ...]:
    """The grids of files from the item's metadata, from (path, band) pairs; each file once, only known ones."""
    grids = {path: StatedGrid(path, one.crs, one.shape) for path, one in bands if one.crs or one.shape}
    return tuple(grids.values())


def _stored(item: Item, key: str, listed: Sequence[BandFields], position: int) -> StoredBand:
    asset = item.assets[key]
    said = listed[position] if listed else {}
    scale, offset, nodata = (_number(item, key, field, said.get(field)) for field in ("scale", "offset", "nodata"))
    grid = {**item.properties, **asset}
    code, number = grid.get("proj:code"), grid.get("proj:epsg")
    crs = code or (f"EPSG:{number}" if number else None) or grid.get("proj:wkt2")
    match grid.get("proj:shape"):
        case [int(height), int(width)]:
            shape: tuple[int, int] | None = (height, width)
        case _:
            shape = None
    return StoredBand(
        key,
        asset["href"],
        position + 1,
        scale,
        offset,
        nodata,
        crs if isinstance(crs, str) else None,
        shape,
    )


def _number(item: Item, key: str, field: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or value in NUMBERS):
        raise CatalogError(
            f"{item.where}: {field} of asset {key!r} is {value!r}; correct the item: it must be a number"
        )
    return float(value)
