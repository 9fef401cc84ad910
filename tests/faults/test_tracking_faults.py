"""Stores that refuse, hang, are locked or cannot be written: one line is told, and the work never waits."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from geomae.tracking import start_run
from geomae.tracking.tracker import Background, BackgroundJob


@pytest.fixture(autouse=True)
def environment():
    """A time-out that tests can wait for, and nothing left in the environment."""
    before = dict(os.environ)
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "2"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def refusing():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    return f"http://me:secret@127.0.0.1:{port}"


@pytest.fixture
def hanging():
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def track(uri, folder, told):
    """Log like a training does; the seconds of each half: while it runs, and at its end."""
    begin = time.monotonic()
    tracker = start_run(uri, "faults", "run", params={"steps": "3"}, warn=told.append)
    for step in range(2000):
        tracker.log_metrics({"loss": 1.0, "rate": 0.1}, step)
    (folder / "picture.png").write_bytes(b"picture")
    tracker.log_artifact(folder / "picture.png")
    tracker.register_model("name")
    running = time.monotonic() - begin
    tracker.finish()
    tracker.log_metrics({"loss": 1.0}, 1)  # after the end, nothing happens
    tracker.finish()
    return running, time.monotonic() - begin - running, tracker


@pytest.mark.parametrize("fault", ["refusing", "hanging"])
def test_a_server_that_does_not_answer(fault, request, tmp_path):
    told = []
    running, ending, tracker = track(request.getfixturevalue(fault), tmp_path, told)
    assert running < 2.5, "logging waited for the server"
    assert ending < 30  # MLflow's import, and then 10 s
    assert len(told) == 1, told
    assert "127.0.0.1" in told[0]
    assert "secret" not in told[0]
    assert tracker.run_id is None


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way of the database's folder")
    told = []
    running, ending, _ = track(f"sqlite:///{tmp_path}/file/mlflow.db", tmp_path, told)
    assert running < 2.5
    assert ending < 30
    assert len(told) == 1, told


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write to every folder")
def test_a_folder_without_permission(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    told = []
    track(f"sqlite:///{folder}/mlflow.db", tmp_path, told)
    assert len(told) == 1
    assert "unable to open" in told[0]


def test_a_database_that_another_process_keeps_locked(tmp_path, monkeypatch):
    monkeypatch.setattr("geomae.tracking.store.LOCKED_S", 1.0)
    told = []
    other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        _, ending, _ = track(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, told)
    finally:
        other.close()
    assert ending < 30
    assert len(told) == 1
    assert "locked" in told[0]


def run_script(code):
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "600"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_process_ends_while_the_server_hangs(hanging):
    code = f"""
import time
from geomae.tracking import start_run
tracker = start_run({hanging!r}, "faults", "run", warn=print)
tracker.log_metrics({{"loss": 1.0}}, 0)
while not tracker._store._client:
    time.sleep(0.1)
time.sleep(0.5)
print("worked", flush=True)
"""
    assert run_script(code) == ["worked"]


def test_a_disk_that_is_full(tmp_path):
    code = f"""
import resource
from geomae.tracking import start_run
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with start_run("sqlite:///{tmp_path}/mlflow.db", "faults", "run", warn=print) as tracker:
    tracker.log_metrics({{"loss": 1.0}}, 0)
print("worked", flush=True)
"""
    told, worked = run_script(code)
    assert worked == "worked"
    assert "failed" in told


def test_a_job_that_fails_for_a_while_is_tried_again_in_order(monkeypatch):
    monkeypatch.setattr("geomae.tracking.tracker.PAUSES_S", (0.01,))
    heard, done, reached = [], [], threading.Event()
    work = Background("test", heard.append, is_permanent=lambda error: isinstance(error, KeyError))

    def flaky():
        if len(heard) < 3:
            raise OSError("not now")
        done.append("flaky")

    def wrong():
        raise KeyError("never")

    for run in (flaky, wrong, lambda: done.append("next"), reached.set):
        assert work.put(BackgroundJob(run))
    assert reached.wait(10)
    assert work.finish(BackgroundJob(lambda: done.append("last")), 10)
    assert [type(error) for error in heard] == [OSError, OSError, OSError, KeyError]
    assert done == ["flaky", "next", "last"]


def test_nothing_follows_an_essential_job_that_cannot_succeed():
    done = []
    work = Background("test", lambda error: None, is_permanent=lambda error: True)
    work.put(BackgroundJob({}.popitem, essential=True))
    work.put(BackgroundJob(lambda: done.append("next")))
    assert not work.finish(BackgroundJob(lambda: done.append("last")), 10)
    assert done == []


def test_a_full_queue_never_blocks():
    gate = threading.Event()
    work = Background("test", lambda error: None, lambda error: True, capacity=2)
    taken = [work.put(BackgroundJob(gate.wait)) for _ in range(6)]
    assert taken.count(False) >= 3
    gate.set()
    assert work.finish(BackgroundJob(lambda: None), 10)


def test_whoever_finishes_does_not_wait_for_a_hanging_job_longer_than_its_patience():
    gate = threading.Event()
    work = Background("test", lambda error: None, lambda error: True)
    work.put(BackgroundJob(gate.wait, patience_s=0.2))
    begin = time.monotonic()
    assert not work.finish(BackgroundJob(lambda: None), 60)
    assert time.monotonic() - begin < 5
    gate.set()
