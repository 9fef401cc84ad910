"""A tracking store that refuses or hangs changes nothing but one line of warning."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import SMALL, losses, options, state


@pytest.fixture(scope="module")
def runs(geomae, tiny_catalog, tracking_uri, tmp_path_factory):
    """The same training with a good store, with one that refuses, and with one that accepts and never answers."""
    folder = tmp_path_factory.mktemp("down")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        stores = {
            "good": tracking_uri,
            "refusing": "http://127.0.0.1:9",
            "hanging": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }

        def train(name):
            return geomae(
                "pretrain", "--catalog", tiny_catalog, *options(*SMALL, "steps=6", "save_every=3", "eval_every=3"),
                "--tracking-uri", stores[name], "--out", name, "--register", "tiny", "--quiet", cwd=folder,
                MLFLOW_HTTP_REQUEST_TIMEOUT="3",
            )  # fmt: skip

        with ThreadPoolExecutor(2) as pool:
            done = dict(zip(stores, pool.map(train, stores), strict=True))
    return folder, done


def test_with_a_good_store_nothing_is_said(runs):
    _, done = runs
    assert (done["good"].returncode, done["good"].stderr) == (0, "")


@pytest.mark.parametrize("name", ["refusing", "hanging"])
def test_one_warning_and_the_same_results(runs, name):
    folder, done = runs
    assert done[name].returncode == 0, done[name].stderr
    (line,) = done[name].stderr.splitlines()
    assert line.startswith("warning: ")
    assert "127.0.0.1" in line
    assert "its own files are complete" in line
    assert state(folder / name) == state(folder / "good")
    assert losses(folder / name) == losses(folder / "good")


@pytest.mark.parametrize("name", ["refusing", "hanging"])
def test_the_files_are_complete(runs, name):
    folder, _ = runs
    good, down = ({str(path.relative_to(folder / one)) for path in (folder / one).rglob("*")} for one in ("good", name))
    assert good - down == {"tracking.json"}
    assert down <= good
    summaries = [json.loads((folder / one / "summary.json").read_text()) for one in ("good", name)]
    assert set(summaries[0]["metrics"]) == set(summaries[1]["metrics"])
    assert summaries[0]["run_id"] is not None
    assert summaries[1]["run_id"] is None
