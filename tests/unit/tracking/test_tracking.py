"""Runs, data sets, artifacts and models, written to a sqlite store and read back through MLflow's own client."""

import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from geomae.commands.run import RunFolder
from geomae.errors import ConfigError, ModelError
from geomae.tracking import DatasetRecord, Tracker, as_params, download, resolve_uri, start_run, ui
from geomae.tracking.store import database_path, make_database, without_password

RECORD = DatasetRecord(
    name="hls",
    digest="0123456789abcdef0123456789abcdef-and-more",
    source="/data/catalog.yaml",
    entry={"path": "images/*.tif"},
    bands=("blue", "nir08"),
    profile={"tiles": 12},
)


@pytest.fixture(scope="module", autouse=True)
def environment():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory, told):
    """One run that was logged, finished, and then resumed and finished again."""
    folder = tmp_path_factory.mktemp("a store")  # the blank is on purpose
    uri = resolve_uri(f"sqlite:///{folder}/mlflow.db")
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text('{"width": 192}')
    (folder / "picture.png").write_bytes(b"picture")

    params = as_params({"masking": {"ratio": 0.75}, "steps": 3, "long": "x" * 7000, **{f"p{i}": i for i in range(150)}})
    tracker = start_run(
        uri, "trial", "first", tags={"sensor": "hls"}, params=params, datasets=[RECORD], warn=told.append
    )
    for step in range(1500):
        tracker.log_metrics({"loss": 1 / (step + 1), "rmse/B8A @0": step}, step)
    tracker.log_metrics({"nan": math.nan, "inf": math.inf}, 7)
    tracker.log_artifact(folder / "picture.png", "pictures")
    tracker.log_artifact(folder / "absent.png")
    tracker.log_artifacts(model, "model")
    tracker.register_model("land-cover", "model")
    tracker.register_model("nothing", "no-such-folder")
    tracker.finish()

    with start_run(uri, "trial", "ignored", run_id=tracker.run_id, params={"steps": "4", "new": "1"}) as again:
        again.log_datasets([RECORD])
        again.log_metrics({"loss": 0.0}, 1500)
    with pytest.raises(RuntimeError), start_run(uri, "trial", "fails", warn=told.append) as failed:
        raise RuntimeError("stop here")

    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri, uri)
    return SimpleNamespace(
        uri=uri, folder=folder, id=tracker.run_id, again=again.run_id, failed=failed.run_id, client=client,
        stored=client.get_run(tracker.run_id),
    )  # fmt: skip


def test_parameters_are_flat_cut_and_kept_on_resume(run):
    params = run.stored.data.params
    assert params["masking.ratio"] == "0.75"
    assert params["steps"] == "3", "a resumed run keeps what it has"
    assert params["new"] == "1"
    assert len(params["long"]) == 6000
    assert params["p149"] == "149", "more than MLflow takes at once"


def test_tags_name_and_status(run):
    assert run.stored.data.tags["sensor"] == "hls"
    assert run.stored.info.run_name == "first"
    assert run.stored.info.status == "FINISHED"
    assert run.client.get_run(run.failed).info.status == "FAILED"


def test_metrics_keep_their_steps(run):
    history = run.client.get_metric_history(run.id, "loss")
    assert [metric.step for metric in sorted(history, key=lambda one: one.step)] == list(range(1501))
    assert math.isnan(run.stored.data.metrics["nan"])
    assert run.stored.data.metrics["inf"] > 1e300
    assert run.stored.data.metrics["rmse/B8A _0"] == 1499


def test_resume_goes_on_with_the_same_run(run):
    assert run.again == run.id
    experiment = run.client.get_experiment_by_name("trial")
    assert len(run.client.search_runs([experiment.experiment_id])) == 2  # this one and the one that failed


def test_data_set_inputs_have_digest_source_and_bands(run):
    (logged,) = run.stored.inputs.dataset_inputs
    assert logged.dataset.digest == RECORD.digest[:36]
    assert json.loads(logged.dataset.source) == {"uri": "/data/catalog.yaml", "entry": {"path": "images/*.tif"}}
    assert [column["name"] for column in json.loads(logged.dataset.schema)["mlflow_colspec"]] == ["blue", "nir08"]
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


def test_artifacts_lie_beside_the_database(run):
    assert {file.path for file in run.client.list_artifacts(run.id)} == {"model", "pictures"}
    assert (run.folder / "mlruns" / run.id / "artifacts/pictures/picture.png").read_bytes() == b"picture"


def test_what_cannot_be_logged_is_told_once_and_costs_nothing_else(run, told):
    assert len(told) == 1
    assert "absent.png" in told[0]
    assert "\n" not in told[0]
    assert run.client.search_registered_models("name = 'nothing'") == []


def test_a_model_is_found_by_run_and_by_version(run):
    for reference in (f"mlflow:{run.id}", "models:/land-cover/1"):
        assert (download(reference, run.uri) / "config.json").read_text() == '{"width": 192}'


@pytest.mark.parametrize(
    ("reference", "what"),
    [("mlflow:" + "0" * 32, "not found"), ("models:/water/1", "not found"), ("model.pth", "write mlflow:RUN_ID")],
)
def test_a_wrong_reference_is_named(run, reference, what):
    with pytest.raises(ModelError, match=what) as caught:
        download(reference, run.uri)
    assert reference in str(caught.value)


def test_a_store_that_is_absent_is_not_made(tmp_path):
    with pytest.raises(ModelError, match="there is no tracking store"):
        download("mlflow:1", f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_the_store_has_lost_is_begun_anew(run):
    with start_run(run.uri, "other", "anew", run_id="0" * 32) as tracker:
        pass
    assert run.client.get_run(tracker.run_id).data.tags["geomae.continues"] == "0" * 32


def test_no_tracker_does_nothing(tmp_path):
    with Tracker(None) as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
        tracker.log_artifact(tmp_path / "absent")
        tracker.register_model("name")
        assert tracker.wait_run_id(10) is None


def test_store_is_given_or_from_the_environment_or_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri("sqlite:///sub/x.db?timeout=3") == f"sqlite:///{tmp_path}/sub/x.db?timeout=3"
    assert resolve_uri("sqlite:////abs/x.db") == "sqlite:////abs/x.db"
    (tmp_path / "a?b").mkdir()
    monkeypatch.chdir(tmp_path / "a?b")
    with pytest.raises(ConfigError, match=r"a\?b/mlflow\.db: .* question mark; start .* --tracking-uri"):
        resolve_uri(None)
    assert resolve_uri("sqlite:////abs/x.db?timeout=3") == "sqlite:////abs/x.db?timeout=3"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert resolve_uri(None) == "http://server:5000"
    assert resolve_uri("sqlite:////abs/x.db") == "sqlite:////abs/x.db"


def test_flatten():
    assert as_params({"a": {"b": 1, "c": {}}, "d": [1, "é"], "e": None}) == {
        "a.b": "1",
        "a.c": "{}",
        "d": '[1, "é"]',
        "e": "null",
    }


def test_passwords_are_not_shown():
    assert without_password("GET https://me:secret@host/x failed") == "GET https://host/x failed"
    assert without_password("postgresql://me:p@ss@host/db") == "postgresql://host/db"
    assert without_password("sqlite:////me@work/x.db") == "sqlite:////me@work/x.db"


def test_passwords_are_not_kept_and_come_back_from_the_environment(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.remember_tracking("https://me:secret@host/x", "r1")
    assert "secret" not in (tmp_path / "tracking.json").read_text()
    assert folder.tracked("https://me:other@host/x") == folder.tracked("https://host/x") == "r1"
    assert folder.tracked("https://me:secret@elsewhere/x") is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(folder.tracked_uri()) == "https://host/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host/x")
    assert resolve_uri(folder.tracked_uri()) == "https://me:secret@host/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@elsewhere/x")
    assert resolve_uri(folder.tracked_uri()) == "https://host/x"


def test_ui_refuses_a_taken_port_and_a_server():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="choose another --port"):
        ui("sqlite:////tmp/x.db", "127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match=r"http://host:1 .*browser"):
        ui("http://me:secret@host:1", "127.0.0.1", 1)


@pytest.mark.slow
def test_ui_serves_the_store_and_stops_on_ctrl_c(run):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = f"import sys; from geomae.tracking import ui; sys.exit(ui({run.uri!r}, '127.0.0.1', {port}))"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                assert urllib.request.urlopen(address, timeout=5).status == 200
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the interface never answered")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        with pytest.raises(OSError):
            urllib.request.urlopen(address, timeout=1)
    finally:
        process.kill()
        process.wait()


SLOW_TO_END = """
import signal, subprocess, sys
import geomae.tracking.store as tracking_store
inner = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: time.sleep(1) or exit()); "
inner += "print('up', flush=True); time.sleep(60)"
start = subprocess.Popen
tracking_store.subprocess.Popen = lambda command, **options: start([sys.executable, "-c", inner], **options)
sys.exit(tracking_store.ui("sqlite:////tmp/x.db", "127.0.0.1", PORT))
"""


def test_ui_that_is_stopped_twice_ends_in_order():
    with socket.create_server(("127.0.0.1", 0)) as free:
        code = SLOW_TO_END.replace("PORT", str(free.getsockname()[1]))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)
    try:
        assert "up" in process.stdout.readline()
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert len(said.splitlines()) == 1, said
        assert "choose `Model training`" in said
    finally:
        process.kill()
        process.wait()


def test_artifacts_are_found_from_any_folder(run):
    assert Path(run.client.get_experiment_by_name("trial").artifact_location.removeprefix("file://")).is_absolute()


def test_a_store_is_never_left_half_made(tmp_path):
    """Its tables are made beside it: an end of the process in between leaves no file that later runs cannot open."""

    def end(uri):
        Path(uri.removeprefix("sqlite:///")).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_database(tmp_path / "mlflow.db", end)
    assert list(tmp_path.iterdir()) == []
    make_database(tmp_path / "mlflow.db", lambda uri: Path(uri.removeprefix("sqlite:///")).write_text("whole"))
    make_database(tmp_path / "mlflow.db", lambda uri: Path(uri.removeprefix("sqlite:///")).write_text("later"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_store_is_made_where_no_file_can_have_two_names(code, tmp_path, monkeypatch):
    def link(*names):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    for content in ("whole", "later"):
        make_database(tmp_path / "mlflow.db", lambda uri, text=content: database_path(uri).write_text(text))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]
