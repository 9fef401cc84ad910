"""Read STAC items from files of several kinds, as one record per item.

STAC (https://stacspec.org) describes imagery in JSON. An item is one scene: it has an `id`, `properties` (date,
platform, cloud cover, ...) and `assets`, each a file under a key, with its address in `href`. Four kinds of files hold
items:

- `.json`: one item (GeoJSON `Feature`), or an ItemCollection (`FeatureCollection`), the result of a search;
- `.json` again: a static catalogue (`Catalog`, `Collection`), whose links `child` and `item` lead to files with items;
- `.ndjson`: one item per line;
- `.parquet`: stac-geoparquet, one item per row; properties are columns, assets a nested column, the geometry is WKB.

pystac is not used, since its reader follows links to any folder and host. Here, links must stay in the catalogue's
folder, and links to other machines are refused.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

from geomae.catalog.catalog import Catalog
from geomae.catalog.paths import find_files, is_url, local_path, no_file_error
from geomae.catalog.patterns import escape_pattern
from geomae.errors import CatalogError
from geomae.files import confine

LINE_SUFFIXES = (".ndjson", ".jsonl", ".ndgeojson", ".geojsonl")
TABLE_SUFFIXES = (".parquet", ".geoparquet")
CATALOGUES = ("Catalog", "Collection")  # values of `type`
ROWS = 1024  # items of a table that are in memory at once
SINGLE_ITEMS = "*.json"  # glob of the files of a folder that hold one item each
MARK = b'"stac_version"'  # in the first bytes of a JSON file of STAC
MARKED_BYTES = 65536
# Columns of stac-geoparquet that are not properties; all others are.
BESIDE = frozenset(
    ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets", "collection")
)


@dataclass(frozen=True)
class Item:
    """One scene: its `assets` by key, each with an `href`, which may be relative to `folder`.

    `where` names the item in messages by its id and file.
    """

    id: str
    collection: str | None
    properties: Mapping[str, Any]
    assets: Mapping[str, Mapping[str, Any]]
    folder: Path
    where: str


def read_items(catalog: Catalog, dataset: str) -> Iterator[Item]:
    """Iterate over the items of the entry's `stac.items`, in the order of the files and of the items in each.

    Raises CatalogError, with the place of the key, the file and the remedy, for patterns without files, for files that
    are damaged or hold no items, and for links that leave the catalogue's folder.
    """
    stac = catalog.entry(dataset).stac
    assert stac is not None
    place = catalog.place(dataset, "stac", "items")
    if is_url(stac.items):
        raise CatalogError(
            f"{place}: {stac.items!r} is not a local file, and results of a search change; save the items in a file: "
            "geomae catalog init --stac URL --collection NAME"
        )
    files = find_files(catalog, dataset, stac.items, "stac", "items")
    if not files:
        raise no_file_error(catalog, dataset, stac.items, "stac", "items")

    def confined(path: Path, linked_from: str) -> Path:
        return confine(path, catalog.folder, outside=catalog.entry(dataset).outside, where=f"{place}: {linked_from}")

    for file in files:
        path = Path(file)
        name = os.path.relpath(path, catalog.folder)
        with catalog.at(dataset, "stac", "items"):
            count = 0
            for document, source, folder in _documents(path, name, confined):
                yield item_record(document, source, folder)
                count += 1
            if count == 0:
                raise CatalogError(f"{name}: holds no items; search again, or name another file")


def find_items(root: Path) -> tuple[list[tuple[str, list[Item]]], list[str]]:
    """Find the files of items below `root`: the path or glob of each group from there, and the items of the group.

    JSON files that hold one item each are one group per folder. A static catalogue is the group of its topmost file,
    which stands for all files in its folder and below. Files without items are left out; the second result says what
    is wrong with those that are STAC's and cannot be used, as a catalogue with a link to a file that is not there.
    """
    groups: list[tuple[str, list[Item]]] = []
    problems: list[str] = []
    alone: dict[Path, list[Item]] = {}
    catalogues: list[Path] = []
    for path in sorted(_may_hold_items(root), key=lambda one: (len(one.parts), not one.match("catalog.json"), one)):
        if any(path.is_relative_to(folder) for folder in catalogues):
            continue
        name, confined, kind = path.relative_to(root).as_posix(), partial(_below, root), None
        try:
            if path.suffix.lower() == ".json":
                document = _json(path, name)
                kind, documents = _kind(document), _within(document, path, name, confined)
            else:
                documents = _documents(path, name, confined)
            found = [item_record(*one) for one in documents]
        except CatalogError as error:
            if path.suffix.lower() not in TABLE_SUFFIXES:  # most tables are something else
                problems.append(str(error))
            continue
        if kind in CATALOGUES and found:
            catalogues.append(path.parent)
        if kind == "Feature":
            alone.setdefault(path.parent, []).extend(found)
        elif found:
            groups.append((escape_pattern(name), found))
    for folder, items in alone.items():
        below = "" if folder == root else f"{escape_pattern(folder.relative_to(root).as_posix())}/"
        groups.append((f"{below}{SINGLE_ITEMS}", items))
    return groups, problems


def _may_hold_items(root: Path) -> Iterator[Path]:
    """Iterate over the files that by their first bytes, or their columns, may hold items; hidden ones are left out."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and not name.endswith(".zarr")]
        for path in (Path(folder) / name for name in files if not name.startswith(".")):
            suffix = path.suffix.lower()
            if suffix in TABLE_SUFFIXES:
                yield path
            elif suffix == ".json" or suffix in LINE_SUFFIXES:
                with contextlib.suppress(OSError), path.open("rb") as file:
                    if MARK in file.read(MARKED_BYTES):
                        yield path


def _below(root: Path, path: Path, linked_from: str) -> Path:
    return confine(path, root, outside=False, where=linked_from)


Document = tuple[Any, str, Path]  # the JSON of an item, its place for messages, and the folder of relative hrefs


def _documents(path: Path, name: str, confined: Callable[[Path, str], Path]) -> Iterator[Document]:
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        yield from _rows(path, name)
    elif suffix in LINE_SUFFIXES:
        yield from _lines(path, name)
    else:
        yield from _within(_json(path, name), path, name, confined)


def _within(document: Any, path: Path, name: str, confined: Callable[[Path, str], Path]) -> Iterator[Document]:
    """Iterate over the items of a JSON document that was read from `path`."""
    kind = _kind(document)
    if kind in CATALOGUES:
        yield from _linked(path, name, document, confined)
    elif kind == "FeatureCollection":
        features = document.get("features")
        for number, feature in enumerate(features if isinstance(features, list) else (), start=1):
            yield feature, f"{name}, feature {number}", path.parent
    elif kind == "Feature":
        yield document, name, path.parent
    else:
        kinds = "an Item, an ItemCollection, a Catalog or a Collection"
        raise CatalogError(f"{name}: is none of STAC's kinds, by its `type` {kind!r}; name {kinds}")


def _kind(document: Any) -> str | None:
    return document.get("type") if isinstance(document, dict) else None


def _lines(path: Path, name: str) -> Iterator[Document]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                source = f"{name}, line {number}"
                yield _parsed(line, source), source, path.parent


def _linked(
    path: Path, name: str, document: dict[str, Any], confined: Callable[[Path, str], Path]
) -> Iterator[Document]:
    """Iterate over the items of a static catalogue, in the order of its links; a file that is linked twice, once."""
    waiting, seen = [(path, name, document)], {path.resolve()}
    while waiting:
        path, name, document = waiting.pop()
        if document.get("type") == "Feature":
            yield document, name, path.parent
            continue
        found = []
        for link in document.get("links") or ():
            if not isinstance(link, dict) or link.get("rel") not in ("child", "item"):
                continue
            href = str(link.get("href"))
            if is_url(href):
                raise CatalogError(f"{name}: links to {href}, which is not on this machine; download it and its links")
            target = confined(Path(local_path(path.parent, href)), name)
            if target not in seen:
                seen.add(target)
                below = os.path.normpath(Path(name).parent / href)
                if not target.is_file():
                    raise CatalogError(
                        f"{name}: links to {href}, which is not there; fetch the file, or remove the link"
                    )
                one = _json(target, below)
                if not isinstance(one, dict):
                    raise CatalogError(f"{below}: is no STAC catalogue and no item; correct the link in {name}")
                found.append((target, below, one))
        waiting += reversed(found)


def _rows(path: Path, name: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        columns = [column for column in table.schema_arrow.names if column not in ("geometry", "bbox", "links")]
        if not {"id", "assets"} <= set(columns):
            raise CatalogError(f"{name}: has no columns `id` and `assets`; write it with stac-geoparquet or rustac")
        number = 0
        for batch in table.iter_batches(ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                document = {key: row[key] for key in ("id", "collection", "assets") if key in row}
                properties = {key: value for key, value in row.items() if key not in BESIDE}
                whole = {"type": "Feature", **document, "properties": properties}
                yield _without_nulls(whole), f"{name}, row {number}", path.parent
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{name}: cannot be read as Parquet ({_line(error)}); write it again") from error


def _without_nulls(value: Any) -> Any:
    """Convert a value of a table to JSON: drop nulls, which stand for missing keys, and write times as text."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value.tzinfo else f"{value.isoformat()}Z"
    return value.isoformat() if isinstance(value, date) else value


def _json(path: Path, name: str) -> Any:
    try:
        return _parsed(path.read_bytes(), name)
    except OSError as error:
        raise CatalogError(f"{name}: cannot be read ({error.strerror}); check the path and the permissions") from error


def _parsed(text: bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{name}: is no JSON ({_line(error)}); fetch it again") from error


def item_record(document: Any, source: str, folder: Path) -> Item:
    """Make the record of an item. Raises CatalogError where `document` is not a valid item."""
    if not isinstance(document, dict) or document.get("type") != "Feature":
        raise CatalogError(f"{source}: is no STAC item (GeoJSON Feature); remove it")
    item_id, assets, properties = (document.get(key) for key in ("id", "assets", "properties"))
    if not isinstance(item_id, str) or not item_id:
        raise CatalogError(f"{source}: the item has no `id`; give it one")
    where = f"item {item_id!r} ({source})"
    if not isinstance(assets, dict) or not isinstance(properties, dict):
        raise CatalogError(f"{where}: has no `assets` and `properties`; it is GeoJSON, but no STAC item")
    for key, asset in assets.items():
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
            raise CatalogError(f"{where}: its asset {key!r} has no `href`; remove the asset")
    collection = document.get("collection")
    return Item(item_id, collection if isinstance(collection, str) else None, properties, assets, folder, where)


def _line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
