"""A STAC search whose result is saved: its items in a file, in a fixed order, without signatures that expire.

Answers of an API are slow and change from day to day. So the API is asked once, and the data set reads the file.
"""

import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geomae.catalog.links import without_signature
from geomae.catalog.paths import is_loopback
from geomae.errors import CatalogError

TIMEOUT_S = 60.0  # without any data from the server
PAGE = 100  # items of an answer
LONGEST_REASON = 200  # characters of a server's error message
SIGNS = {"<=": "lte", ">=": "gte", "!=": "neq", "<": "lt", ">": "gt", "=": "eq"}  # of the query extension
CONDITION = re.compile(rf"\s*([^<>=!\s]+)\s*({'|'.join(SIGNS)})\s*(.+?)\s*")
KEPT_LINKS = ("self", "collection", "license")  # links to the origin of an item
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """A search: a collection, west, south, east and north in degrees, a time or a period (`A/B`; `..` is an open end),
    and conditions on properties such as `eo:cloud_cover<20`.
    """

    url: str
    collection: str
    bbox: tuple[float, float, float, float] | None = None
    datetime: str | None = None
    query: tuple[str, ...] = ()


def search_items(
    search: Search, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[dict[str, Any]]:
    """The items that an API finds, sorted by id, without signatures; `progress` is called with (items so far, total).

    Raises CatalogError, with the address, the progress and the reason, if the API cannot be reached, fails on a page,
    repeats a page, or finds nothing.
    """
    if not search.url.startswith("https://") and not is_loopback(f"{search.url}/"):
        raise CatalogError(f"--stac {search.url}: is not an https:// address; give the root of a STAC API")
    items: dict[str, dict[str, Any]] = {}
    total = 0
    try:
        for page in _pages(search):
            new = {str(one["id"]): _kept(one) for one in page["features"]}
            if new.keys() <= items.keys():
                raise ValueError("it gives the same page again")
            items |= new
            total = page.get("numberMatched") or page.get("context", {}).get("matched") or 0
            progress(len(items), max(total, len(items)))
    except Exception as error:  # pystac-client raises errors of many classes, also Exception itself
        done = f"after {len(items)} items" if items else "before the first item"
        reason = " ".join(str(error).split()) or type(error).__name__
        text = re.sub(r"<[^>]*>", " ", reason)[:LONGEST_REASON].strip()
        raise CatalogError(
            f"--stac {search.url}: the search failed {done} ({text}); nothing is written; try again, or search for less"
        ) from error
    if not items:
        raise CatalogError(f"--stac {search.url}: finds no item of {search.collection!r}; loosen the conditions")
    if total > len(items):
        logger.warning("%s: reports %d matching items, but returned %d", search.url, total, len(items))
    return [items[item_id] for item_id in sorted(items)]


def collection_text(items: Sequence[Mapping[str, Any]]) -> str:
    """Items as an ItemCollection with one item per line, so that two searches can be compared line by line."""
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, sort_keys=True) for one in items)
    return f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n'


def _pages(search: Search) -> Iterator[dict[str, Any]]:
    from pystac_client import Client
    from pystac_client.warnings import PystacClientWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", PystacClientWarning)  # as for a condition that the server would ignore
        client = Client.open(search.url, timeout=TIMEOUT_S)
        methods = {link.extra_fields.get("method", "GET") for link in client.get_links("search")}
        found = client.search(
            method="POST" if "POST" in methods else "GET",
            collections=[search.collection],
            bbox=search.bbox,
            datetime=search.datetime,
            query=_conditions(search.query) or None,
            limit=PAGE,
        )
        yield from found.pages_as_dicts()


def _conditions(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Conditions in the form of the query extension of the API; numbers are converted from text."""
    conditions: dict[str, dict[str, Any]] = {}
    for text in texts:
        match = CONDITION.fullmatch(text)
        if match is None:
            raise ValueError(f"--query {text!r} is not a condition; write one as in eo:cloud_cover<20")
        name, sign, value = match.groups()
        try:
            known: Any = float(value) if "." in value else int(value)
        except ValueError:
            known = value.strip("\"'")
        conditions.setdefault(name, {})[SIGNS[sign]] = known
    return conditions


def _kept(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item without signatures and without the links of a single answer."""
    links = [
        {**link, "href": without_signature(str(link["href"]))}
        for link in item.get("links") or ()
        if link.get("rel") in KEPT_LINKS
    ]
    assets = {key: {**asset, "href": without_signature(str(asset["href"]))} for key, asset in item["assets"].items()}
    return {**item, "links": links, "assets": assets}
