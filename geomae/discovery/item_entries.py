"""Data sets of STAC items in a new catalogue: which items are one data set, and its entry."""

import glob
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from geomae.catalog.links import SIGNED_HOSTS
from geomae.catalog.paths import is_url
from geomae.catalog.stac_assets import NO_DATA_ROLES, AssetFinder, listed_bands
from geomae.catalog.stac_items import SINGLE_ITEMS, Item
from geomae.discovery.entries import ALL_TRAIN, FRACTIONS, USUAL_TILE, Entry, mask_lines, sensor_of
from geomae.discovery.grouping import folder_pattern
from geomae.discovery.sensor_guess import Evidence, guess_sensor, kept_band
from geomae.discovery.sensor_lines import sensor_lines
from geomae.discovery.yaml_lines import comment, entry_line, flow
from geomae.errors import CatalogError
from geomae.sensors import Band

RASTERS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg")
Group = tuple[str, list[Item]]  # the path or glob of files of items, relative to the root, and the items


def join_folders(root: Path, groups: Sequence[Group]) -> list[Group]:
    """Join groups of single items in several folders (`a/1/*.json`, `a/2/*.json`) to one (`a/*/*.json`).

    Archives and `pystac` write each item into a folder. Joined are those of the same collections, or without a
    collection those with the same keys of assets, at the same depth, if no id is repeated and a glob matches their
    files and no other.
    """
    alike: dict[Hashable, list[Group]] = defaultdict(list)
    for pattern, items in groups:
        single = pattern.rpartition("/")[2] == SINGLE_ITEMS
        alike[_kind(items) if single else pattern].append((pattern, items))
    return [joined for group in alike.values() for joined in _joined(root, group)]


def _kind(items: Sequence[Item]) -> Hashable:
    collections = frozenset(one.collection for one in items)
    assets = frozenset(key for one in items for key in one.assets) if collections == {None} else frozenset()
    return len(items[0].folder.parts), collections, assets


def _joined(root: Path, groups: list[Group]) -> list[Group]:
    items = [one for _, group in groups for one in group]
    if len(groups) == 1 or len({(one.collection, one.id) for one in items}) < len(items):
        return groups
    below = {one.folder.relative_to(root).as_posix() for one in items}
    pattern = folder_pattern(["" if one == "." else one for one in below]) + SINGLE_ITEMS
    matched = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207  # as the catalogue will find them
    return [(pattern, items)] if len(matched) == len(items) else groups


def stac_entry(items: Sequence[Item], file: str, *, outside: bool = False) -> Entry:
    """The entry that reads `items` from `file`, a path or glob relative to the catalogue.

    Raises CatalogError if the bands have no names, or the items share none.
    """
    first = items[0]
    names = [name for asset in first.assets.values() if _is_raster(asset) for name in _band_names(first, asset)]
    if not names:
        raise CatalogError(f"{first.where}: its assets {', '.join(first.assets) or '(none)'} have no bands with names")
    addresses = [str(asset["href"]) for asset in first.assets.values() if _is_raster(asset)]
    path = "/".join([str(first.properties.get("platform", "")), *addresses[:1], first.collection or "", first.id])
    guess = guess_sensor(Evidence(path, len(names), "uint16", tuple(names), None))
    known = sensor_of(guess)
    finder = AssetFinder(known, {})
    having = {
        band.name: sum(_has(finder, one, band) for one in items) for band in known.bands if kept_band(known, band)
    }
    bands = [name for name, count in having.items() if count == len(items)]
    if not bands:
        shared = f"no band of {known.name} is in all of its {len(items)} items"
        raise CatalogError(f"{file}: {shared}; write the entry by hand, with `stac.assets`")
    links = [str(asset["href"]) for one in items for asset in one.assets.values()]
    signers = [
        signer
        for signer, hosts in SIGNED_HOSTS.items()
        if any(hosts.fullmatch(urlsplit(link).netloc) for link in links if is_url(link))
    ]
    source: dict[str, Any] = {"items": file} | ({"sign": signers[0]} if signers else {})
    lines = [entry_line("stac", source)]
    if outside:
        lines.append(entry_line("outside", True, "the files lie outside of the catalogue's folder"))
    if any(is_url(link) for link in links):
        lines.append(entry_line("remote", True, "the assets are read over the network"))
    lines += sensor_lines(guess)
    rare = ", ".join(f"{name} in {count}" for name, count in having.items() if 0 < count < len(items))
    others = f"; check: of {len(items)} items, others are only in some, and are left out: {rare}" if rare else ""
    lines.append(entry_line("bands", bands, f"the bands that every item has{others}"))
    lines.append(comment("scale, offset and nodata are taken from the items, if stated; to set others: scale, offset"))
    lines.append(entry_line("tile", {"size": USUAL_TILE}, "pixels of the finest band"))
    lines += mask_lines([key for key in first.assets if all(key in one.assets for one in items)])
    if "eo:cloud_cover" in first.properties:
        lines.append(comment('properties of the items are attributes, as in where: "`eo:cloud_cover` < 20"'))
    how = {"block_km": 2, "fractions": FRACTIONS}
    lines.append(comment(f"{ALL_TRAIN} split: {flow(how)}"))
    return Entry(tuple(lines), len(items), known.name, tuple(bands), USUAL_TILE, guess.question)


def _is_raster(asset: Mapping[str, Any]) -> bool:
    """Whether an asset holds measurements, judged by its role and type."""
    suffix = PurePosixPath(urlsplit(str(asset["href"])).path).suffix.lower()
    return NO_DATA_ROLES.isdisjoint(asset.get("roles") or ()) and suffix in RASTERS


def _band_names(item: Item, asset: Mapping[str, Any]) -> list[str]:
    """The names of the bands of an asset; its key if it names none."""
    key = next(key for key, one in item.assets.items() if one is asset)
    return [str(band["name"] or band["common_name"] or key) for band in listed_bands(asset)] or [key]


def _has(finder: AssetFinder, item: Item, band: Band) -> bool:
    try:
        finder.find(item, [band])
    except CatalogError:
        return False
    return True
