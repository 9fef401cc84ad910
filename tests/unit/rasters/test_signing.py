"""Signed links: a signature is asked for when a file is opened, kept while it lasts, and shown to nobody."""

import functools
import http.server
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stac_documents import RangeHandler, serving

from geomae.errors import RasterError
from geomae.rasters import opening, signing, write_cog
from geomae.rasters.environment import environment
from geomae.rasters.opening import borrowed, header

ADDRESS = "planetary-computer+https://acc.blob.core.windows.net/box/a/b.tif"


class Tokens(http.server.BaseHTTPRequestHandler):
    """Gives tokens that are numbered and last for `minutes`."""

    asked: list[str]
    minutes = 60

    def do_GET(self) -> None:
        """A token, or an error for a container that nobody knows."""
        self.asked.append(self.path)
        end = datetime.now(UTC) + timedelta(minutes=self.minutes)
        value = {"token": f"se=1&sig=T{len(self.asked)}", "msft:expiry": end.isoformat().replace("+00:00", "Z")}
        text = json.dumps(value).encode()
        self.send_response(200 if "/box" in self.path else 404)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def tokens(monkeypatch):
    monkeypatch.setattr(Tokens, "asked", [], raising=False)
    monkeypatch.setattr(signing, "_TOKENS", {})
    with serving(Tokens) as url:
        monkeypatch.setattr(signing, "TOKENS", f"{url}/token")
        yield Tokens


def test_one_signature_serves_a_container_until_it_ends(tokens, monkeypatch):
    url = "https://acc.blob.core.windows.net/box"
    assert signing.signed(ADDRESS) == f"{url}/a/b.tif?se=1&sig=T1"
    assert signing.signed(ADDRESS.replace("b.tif", "c.tif")) == f"{url}/a/c.tif?se=1&sig=T1"
    assert tokens.asked == ["/token/acc/box"]
    monkeypatch.setattr(tokens, "minutes", 1)  # ends before a file might be read
    monkeypatch.setattr(signing, "_TOKENS", {})
    assert [signing.signed(ADDRESS)[-2:] for _ in range(2)] == ["T2", "T3"]


@pytest.mark.parametrize("path", ["/a+https://b.tif", "https://h.org/a+b.tif", "a.tif", "planetary-computer+a.tif"])
def test_other_addresses_are_as_they_are(path):
    assert signing.signed(path) == path


def test_without_a_signature_the_file_is_named(tokens):
    with pytest.raises(
        RasterError, match=r"planetary-computer\+https://.*/other/b.tif: 127.*gives no signature \(Not Found"
    ):
        signing.signed(ADDRESS.replace("box/a", "other"))


def test_a_file_is_opened_anew_when_its_signature_changes_and_errors_do_not_show_it(tmp_path, monkeypatch):
    write_cog(tmp_path / "b.tif", np.ones((1, 16, 16), np.uint8), crs="EPSG:32633", transform=(1, 0, 0, 0, -1, 0))
    signatures = ["1"]
    with serving(functools.partial(RangeHandler, directory=tmp_path)) as url:

        def signed(path: str) -> str:
            return f"{url}/{Path(path).name}?sig={signatures[-1]}"

        monkeypatch.setattr(opening, "signed", signed)
        assert header(ADDRESS, remote=True).shape == (16, 16)
        opened = []
        for one in ("1", "1", "2"):
            signatures.append(one)
            with environment(remote=True), borrowed(ADDRESS, None, remote=True) as dataset:
                opened.append(dataset.name)
        assert opened == [f"{url}/b.tif?sig={one}" for one in ("1", "1", "2")]
        signatures.append("SECRET")
        with pytest.raises(RasterError) as caught:
            header(ADDRESS.replace("b.tif", "gone.tif"), remote=True)
    assert "SECRET" not in str(caught.value)
    assert str(caught.value).startswith(f"{ADDRESS.replace('b.tif', 'gone.tif')}: cannot be read (")
    with pytest.raises(RasterError, match="add `remote: true`"):
        header(ADDRESS)
