"""Addresses of STAC assets: relative to their item, confined like other paths of the catalogue, without signatures.

A signed link has a query string that gives read access to a file for some minutes or hours. It is a secret and expires,
so it is not stored. Where the catalogue names a signing service (`stac.sign`), the address is kept as
`NAME+https://...`, and `rasters` asks NAME for a signature when it opens the file.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from geomae.catalog.catalog import Catalog
from geomae.catalog.paths import checked_url, is_url, local_path
from geomae.catalog.stac_items import Item
from geomae.errors import CatalogError
from geomae.files import confine

# Query parameters of signatures: Azure; Amazon S3 (two versions) and CloudFront; Google.
SIGNATURES = frozenset(("sig", "x-amz-signature", "signature", "x-goog-signature"))
SIGNED_HOSTS = {"planetary-computer": re.compile(r"[a-z0-9]+\.blob\.core\.windows\.net")}  # by signing service


def is_signed(url: str) -> bool:
    """Whether a URL carries a signature."""
    query = urlsplit(url).query
    return bool(query) and any(name.lower() in SIGNATURES for name, _ in parse_qsl(query, keep_blank_values=True))


def without_signature(url: str) -> str:
    """The URL without its query string, if that holds a signature; other URLs unchanged."""
    return url.partition("?")[0] if is_url(url) and is_signed(url) else url


def asset_paths(catalog: Catalog, dataset: str) -> Callable[[Item, str], str]:
    """Return the function from an item and the `href` of an asset to the path or address of its file.

    That function returns an absolute path, which need not exist, or an address that `rasters` can open. It raises
    CatalogError for paths outside the catalogue's folder, for URLs without `remote: true`, and for signed links where
    the catalogue names no signing service.
    """
    entry, place = catalog.entry(dataset), catalog.place(dataset, "stac", "items")
    sign = entry.stac.sign if entry.stac else None
    inside: set[str] = set()  # folders already checked to be inside the catalogue's; many assets share one

    def local(item: Item, href: str) -> str:
        path = os.path.normpath(local_path(item.folder, href))
        folder = os.path.dirname(path)  # noqa: PTH120  # a million assets
        if folder not in inside or os.path.islink(path):  # noqa: PTH114
            confine(Path(path), catalog.folder, outside=entry.outside, where=f"{place}: {item.where}")
            inside.add(folder)
        return path

    def found(item: Item, href: str) -> str:
        if href.startswith("file://") or not is_url(href):
            return local(item, href)
        url = checked_url(catalog, dataset, without_signature(href), "stac", "items")
        if sign is not None and SIGNED_HOSTS[sign].fullmatch(urlsplit(url).netloc):
            return f"{sign}+{url}"
        if url != href:
            raise CatalogError(
                f"{catalog.place(dataset, 'stac')}: {item.where} has signed links, which expire, such as {url}?...; "
                f"name the signing service (`sign: {next(iter(SIGNED_HOSTS))}`), or download the files"
            )
        return url

    return found
