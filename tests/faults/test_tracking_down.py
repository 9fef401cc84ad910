"""A tracking store that refuses or hangs changes nothing but one line of warning."""

import json
import socket

import pytest
from helpers import SMALL, losses, options, state
from processes import Forked


@pytest.fixture(scope="module")
def runs(tiny_catalog, tracking_uri, tmp_path_factory):
    """The same training with a good store, with one that refuses, and with one that accepts and never answers."""
    folder = tmp_path_factory.mktemp("down")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        stores = {
            "good": tracking_uri,
            "refusing": "http://127.0.0.1:9",
            "hanging": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }

        started = {name: train(folder, name, uri, tiny_catalog) for name, uri in stores.items()}
        for process in started.values():
            process.wait(300)
    return folder, started


def train(folder, name, uri, catalog):
    return Forked(
        "pretrain", "--catalog", catalog, *options(*SMALL, "steps=6", "save_every=3", "eval_every=3"),
        "--tracking-uri", uri, "--out", name, "--register", "tiny", "--quiet", cwd=folder,
        out=folder / f"{name}.out", err=folder / f"{name}.err", MLFLOW_HTTP_REQUEST_TIMEOUT="3",
    )  # fmt: skip


def said(folder, name):
    return (folder / f"{name}.err").read_text()


def test_with_a_good_store_nothing_is_said(runs):
    folder, done = runs
    assert (done["good"].returncode, said(folder, "good")) == (0, "")


@pytest.mark.parametrize("name", ["refusing", "hanging"])
def test_one_warning_and_the_same_results(runs, name):
    folder, done = runs
    assert done[name].returncode == 0, said(folder, name)
    (line,) = said(folder, name).splitlines()
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
