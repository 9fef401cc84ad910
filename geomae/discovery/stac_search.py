"""A search of a STAC API, frozen: its items in a file, in a fixed order, without what expires.

What an API answers is slow to get and changes from day to day, so it is asked once and the data set reads the file.
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

TIMEOUT_S = 60.0  # without a byte from the server
PAGE = 100  # items of an answer
LONGEST_REASON = 200  # characters of what a server says
SIGNS = {"<=": "lte", ">=": "gte", "!=": "neq", "<": "lt", ">": "gt", "=": "eq"}  # of the query extension
CONDITION = re.compile(rf"\s*([^<>=!\s]+)\s*({'|'.join(SIGNS)})\s*(.+?)\s*")
KEPT_LINKS = ("self", "collection", "license")  # links that say where an item comes from
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What is asked for: a collection, west, south, east and north in degrees, a time or a period (`A/B`, `..` is
    open), and conditions on properties such as `eo:cloud_cover<20`.
    """

    url: str
    collection: str
    bbox: tuple[float, float, float, float] | None = None
    datetime: str | None = None
    query: tuple[str, ...] = ()


def search_items(
    search: Search, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[dict[str, Any]]:
    """The items that an API finds, by id, without signatures; `progress` hears how many are there, of how many.

    Raises CatalogError, with the address, how far it came and the reason, where the API cannot be asked, fails on some
    page, gives pages again, or finds nothing.
    """
    if not search.url.startswith("https://") and not is_loopback(f"{search.url}/"):
        raise CatalogError(f"--stac {search.url}: is no https:// address; name the root of a STAC API")
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
    except Exception as error:  # pystac-client raises whatever servers cause, and Exception itself
        done = f"after {len(items)} items" if items else "at once"
        reason = " ".join(str(error).split()) or type(error).__name__
        text = re.sub(r"<[^>]*>", " ", reason)[:LONGEST_REASON].strip()
        raise CatalogError(
            f"--stac {search.url}: the search fails {done} ({text}); nothing is written; try again, or ask for less"
        ) from error
    if not items:
        raise CatalogError(f"--stac {search.url}: finds no item of {search.collection!r}; loosen the conditions")
    if total > len(items):
        logger.warning("%s: says that %d items match, and gave %d", search.url, total, len(items))
    return [items[item_id] for item_id in sorted(items)]


def collection_text(items: Sequence[Mapping[str, Any]]) -> str:
    """Items as an ItemCollection, one item a line: two searches can be compared line by line."""
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, sort_keys=True) for one in items)
    return f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n'


def _pages(search: Search) -> Iterator[dict[str, Any]]:
    from pystac_client import Client
    from pystac_client.warnings import PystacClientWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", PystacClientWarning)  # as of a condition that the server would overlook
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
    """Conditions as the query extension of the API specification has them; numbers are numbers and not text."""
    conditions: dict[str, dict[str, Any]] = {}
    for text in texts:
        match = CONDITION.fullmatch(text)
        if match is None:
            raise ValueError(f"--query {text!r} is no condition; write one as in eo:cloud_cover<20")
        name, sign, value = match.groups()
        try:
            known: Any = float(value) if "." in value else int(value)
        except ValueError:
            known = value.strip("\"'")
        conditions.setdefault(name, {})[SIGNS[sign]] = known
    return conditions


def _kept(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item without signatures and without the links of one answer."""
    links = [
        {**link, "href": without_signature(str(link["href"]))}
        for link in item.get("links") or ()
        if link.get("rel") in KEPT_LINKS
    ]
    assets = {key: {**asset, "href": without_signature(str(asset["href"]))} for key, asset in item["assets"].items()}
    return {**item, "links": links, "assets": assets}
