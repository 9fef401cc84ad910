"""A search of a STAC API is frozen in a file: pages, order, signatures, and what a server may do wrong."""

import http.server
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from stac_documents import serving

from geomae.catalog import open_catalog, resolve_stac
from geomae.commands.catalog_init import run_search
from geomae.commands.options import CommonOptions
from geomae.discovery import Search, search_items, stac_search
from geomae.errors import CatalogError, StorageError

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
]
ASSETS = {
    "B04": {"href": "https://acc.blob.core.windows.net/box/S2A_MSIL2A_20210607T103021_N0500/B04.tif?sig=SECRET&se=1"},
    "B08": {"href": "https://acc.blob.core.windows.net/box/S2A_MSIL2A_20210607T103021_N0500/B08.tif?sig=SECRET&se=1"},
    "SCL": {"href": "https://acc.blob.core.windows.net/box/SCL.tif", "roles": ["data"]},
    "preview": {"href": "https://h.org/p.png", "roles": ["thumbnail"]},
}


def item(number: int) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"i{number}",
        "collection": "sentinel-2-l2a",
        "geometry": None,
        "properties": {"datetime": "2021-06-07T10:30:00Z", "platform": "Sentinel-2A", "eo:cloud_cover": number},
        "links": [
            {"rel": "self", "href": f"https://h.org/i{number}?X-Amz-Signature=SECRET"},
            {"rel": "next", "href": "x"},
        ],
        "assets": ASSETS,
    }


PAGES = [[item(3), item(1)], [item(2)], [item(0)]]


class Api(http.server.BaseHTTPRequestHandler):
    """Answers as the STAC API specification says: a root with links, and POST or GET /search with links to pages."""

    methods = ("POST",)
    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        """The root, or a page by its number in the query string."""
        path = urlsplit(self.path)
        if path.path == "/search":
            self.page({key: one[0] for key, one in parse_qs(path.query).items()})
            return
        links = [{"rel": one, "href": self.address, "type": "application/json"} for one in ("self", "root")]
        for method in self.methods:
            search = {"rel": "search", "href": f"{self.address}/search", "type": "application/geo+json"}
            links.append(search | {"method": method})
        root = {"type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "api", "conformsTo": CONFORMS}
        self.answer(root | {"links": links})

    def do_POST(self) -> None:
        """A page by its number in the body."""
        self.page(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def page(self, body: dict[str, Any]) -> None:
        """One page, with the link to the next."""
        self.asked.append(body)
        number = int(body.get("token", 0))
        links = []
        if number + 1 < len(PAGES):
            link: dict[str, Any] = {"rel": "next", "href": f"{self.address}/search", "type": "application/geo+json"}
            if self.command == "POST":
                link |= {"method": "POST", "body": body | {"token": str(number + 1)}}
            else:
                link["href"] += f"?token={number + 1}"
            links.append(link)
        self.answer({"type": "FeatureCollection", "features": PAGES[number], "numberMatched": 4, "links": links})

    def answer(self, value: Any, status: int = 200) -> None:
        """JSON."""
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    @property
    def address(self) -> str:
        """The root."""
        host, port = self.server.server_address[:2]
        return f"http://{host}:{port}"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class OnlyGet(Api):
    """An API that knows no POST, which is optional."""

    methods = ("GET",)
    do_POST = None  # type: ignore[assignment]


class FailsInTheMiddle(Api):
    """The second page is an error."""

    def page(self, body: dict[str, Any]) -> None:
        """A page, or the error."""
        if body.get("token") == "1":
            self.answer({"code": "oops", "description": "database\nis gone"}, 502)
        else:
            super().page(body)


class Slow(Api):
    """The second page takes its time."""

    def page(self, body: dict[str, Any]) -> None:
        """A page."""
        if body.get("token") == "1":
            time.sleep(0.2)
        super().page(body)


class Circular(Api):
    """The first page, again and again."""

    def answer(self, value: Any, status: int = 200) -> None:
        """The same page."""
        if "features" in value:
            value["features"] = PAGES[0]
        super().answer(value, status)


class NoJson(Api):
    """A web page."""

    def page(self, body: dict[str, Any]) -> None:
        """HTML."""
        self.send_response(200)
        self.send_header("Content-Length", "13")
        self.end_headers()
        self.wfile.write(b"<html></html>")


@pytest.fixture(autouse=True)
def _asked() -> None:
    Api.asked = []


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("api", [Api, OnlyGet])
def test_a_search_is_frozen_whole_in_one_order_without_signatures(tmp_path, api, capfd):
    out = tmp_path / "data_catalog.yaml"
    with serving(api) as url:
        code = run_search(
            url,
            "sentinel-2-l2a",
            CommonOptions(out=out),
            bbox=(11, 46, 12, 47),
            datetime="2021-06-01/2021-08-31",
            query=("eo:cloud_cover<20", "eo:cloud_cover >= 0.5", "platform = 'Sentinel-2A'"),
        )
    assert code == 0
    assert written(tmp_path) == ["data_catalog.yaml", "sentinel-2-l2a.json"]
    text = (tmp_path / "sentinel-2-l2a.json").read_text()
    assert "SECRET" not in text
    items = json.loads(text)["features"]
    assert [one["id"] for one in items] == ["i0", "i1", "i2", "i3"]
    assert items[0]["links"] == [{"rel": "self", "href": "https://h.org/i0"}]
    assert len(text.splitlines()) == 6
    asked = Api.asked[0]
    assert asked["collections"] == (["sentinel-2-l2a"] if api is Api else "sentinel-2-l2a")
    assert asked["datetime"] == "2021-06-01T00:00:00Z/2021-08-31T23:59:59Z"
    query = asked["query"] if api is Api else json.loads(asked["query"])
    assert query == {"eo:cloud_cover": {"lt": 20, "gte": 0.5}, "platform": {"eq": "Sentinel-2A"}}
    assert (asked["bbox"] if api is Api else [float(one) for one in asked["bbox"].split(",")]) == [11, 46, 12, 47]
    assert "data_catalog.yaml" in capfd.readouterr().out

    catalog = open_catalog(out)
    entry = catalog.entry("sentinel-2-l2a")
    assert (entry.sensor, entry.bands, entry.remote) == ("sentinel-2-l2a-n0400", ("B04", "B08"), True)
    assert "mask: {band: SCL, invalid_values" in out.read_text()
    source = resolve_stac(catalog, "sentinel-2-l2a", lambda path: ())
    assert [scene.id for scene in source.scenes] == ["i0", "i1", "i2", "i3"]
    assert source.scenes[0].files[0].startswith("planetary-computer+https://acc.blob.core.windows.net/box/S2A")


def test_a_slow_page_is_waited_for_but_not_for_ever(monkeypatch):
    with serving(Slow) as url:
        assert len(search_items(Search(url, "s2"))) == 4
        monkeypatch.setattr(stac_search, "TIMEOUT_S", 0.05)
        with pytest.raises(CatalogError, match=r"after 2 items .*timed out.*nothing is written"):
            search_items(Search(url, "s2"))


@pytest.mark.parametrize(
    ("api", "expected"),
    [
        (FailsInTheMiddle, "the search failed after 2 items"),
        (Circular, "the search failed after 2 items (it gives the same page again); nothing is written"),
        (NoJson, "the search failed before the first item"),
    ],
)
def test_a_search_that_fails_writes_nothing(tmp_path, api, expected):
    with serving(api) as url, pytest.raises(CatalogError) as caught:
        run_search(url, "s2", CommonOptions(out=tmp_path / "c.yaml", quiet=True))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"--stac {url}: ")
    assert "\n" not in str(caught.value)
    assert written(tmp_path) == []


def test_what_cannot_be_asked_is_said(tmp_path, monkeypatch):
    with pytest.raises(CatalogError, match=r"--stac http://h\.org: is not an https:// address"):
        search_items(Search("http://h.org", "s2"))
    with serving(Api) as url:
        with pytest.raises(CatalogError, match="the search failed before the first item"):
            search_items(Search(f"{url}/search", "s2"))
        with pytest.raises(CatalogError, match=r"failed before the first item .*yesterday"):
            search_items(Search(url, "s2", datetime="yesterday"))
        with pytest.raises(CatalogError, match=r"before the first item .*--query 'cloudy' is not a condition"):
            search_items(Search(url, "s2", query=("cloudy",)))
        monkeypatch.setattr("test_stac_search.PAGES", [[]])
        with pytest.raises(CatalogError, match="finds no item of 's2'; loosen the conditions"):
            search_items(Search(url, "s2"))
    with pytest.raises(CatalogError, match=r"127\.0\.0\.1:\d+: the search failed before the first item"):
        search_items(Search(url, "s2"))
    (tmp_path / "s2.json").write_text("{}")
    with pytest.raises(StorageError, match=r"s2\.json: exists already and is not overwritten"):
        run_search(url, "s2", CommonOptions(out=tmp_path / "c.yaml", quiet=True))


def test_conditions_that_a_server_would_overlook_are_an_error(monkeypatch):
    monkeypatch.setattr("test_stac_search.CONFORMS", CONFORMS[:2])
    with serving(Api) as url, pytest.raises(CatalogError, match=r"before the first item .*does not conform to QUERY"):
        search_items(Search(url, "s2", query=("eo:cloud_cover<20",)))
