"""`geomae doctor` finds what keeps the program from working, says the remedy, and leaves with 2 for that alone."""

import contextlib
import json
import shutil
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest

import geomae.tracking.store
from geomae.commands import doctor, doctor_checks
from geomae.rasters import opening

Usage = namedtuple("Usage", "total used free")
TRAINING = doctor_checks.training


@pytest.fixture(autouse=True)
def calm(monkeypatch, tmp_path):
    """A folder of its own, room on every disk, and no training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))
    monkeypatch.setattr(doctor_checks, "_memory", lambda: (2**34, 2**34))
    monkeypatch.setattr(doctor_checks, "training", lambda: iter(()))


def examined(capsys, **options):
    """The exit code, and the findings by check, of those that are not ok."""
    code = doctor.run(options.get("catalog"), options.get("tracking_uri"), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["state"] == "fault") == (code == 2)
    return code, {one["check"]: one for one in found["findings"] if one["state"] != "ok"}


def test_a_sound_machine_leaves_with_0_and_says_what_is_there(capsys):
    code, amiss = examined(capsys)
    assert code == 0 and set(amiss) <= {"catalogue", "processor"}  # none is here; threads of tests may be limited
    assert "catalog init" in amiss["catalogue"]["remedy"]


def test_lines_for_people_end_with_what_a_report_should_hold(capsys):
    assert doctor.run(None, None, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok     versions") and "torch" in lines[0]
    assert "no check failed" in lines[-1] and "--json" in lines[-1]


def test_a_read_only_cache(capsys, monkeypatch):
    monkeypatch.setenv("GEOMAE_CACHE", "/proc/geomae")  # where nobody writes, root included
    code, amiss = examined(capsys)
    assert code == 2 and amiss["cache"]["state"] == "fault"
    assert "cannot be written" in amiss["cache"]["text"] and "GEOMAE_CACHE" in amiss["cache"]["remedy"]


def test_a_full_disk(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, 1000))
    code, amiss = examined(capsys)
    assert code == 2 and amiss["cache"]["state"] == amiss["runs"]["state"] == "fault"
    assert "0.0 GiB are free" in amiss["runs"]["text"] and "free some space" in amiss["runs"]["remedy"]


def test_little_room_is_a_note(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, 2**31))
    code, amiss = examined(capsys)
    assert code == 0 and amiss["runs"]["state"] == "note"


def test_a_locked_store(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(geomae.tracking.store, "LOCKED_S", 0.05)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("CREATE TABLE held (x)")
        other.execute("BEGIN EXCLUSIVE")
        code, amiss = examined(capsys)
    assert code == 2 and "locked" in amiss["tracking"]["text"] and "--tracking-uri" in amiss["tracking"]["remedy"]
    assert examined(capsys)[0] == 0  # released


def test_a_server_that_does_not_answer_is_named_without_its_password(capsys):
    code, amiss = examined(capsys, tracking_uri="http://me:secret@127.0.0.1:9")
    assert code == 2 and "does not answer" in amiss["tracking"]["text"] and "secret" not in json.dumps(amiss)


def test_a_missing_driver(capsys, monkeypatch):
    monkeypatch.setattr(opening, "DRIVERS", (*opening.DRIVERS, "KEA"))
    code, amiss = examined(capsys)
    assert code == 0 and amiss["formats"]["state"] == "note" and "KEA" in amiss["formats"]["text"]
    assert "rasterio" in amiss["formats"]["remedy"]


def test_a_broken_catalogue(capsys):
    Path("data_catalog.yaml").write_text("version: 1\ndatasets:\n  a:\n    pth: x.tif\n")
    code, amiss = examined(capsys)
    assert code == 2 and "data_catalog.yaml:4" in amiss["catalogue"]["text"] and "path" in amiss["catalogue"]["text"]


def test_files_that_are_not_there(capsys, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("version: 1\ndatasets:\n  a:\n    path: nowhere/*.tif\n    sensor: sentinel-2-l2a\n")
    code, amiss = examined(capsys, catalog=other)
    assert code == 2 and "nowhere" in amiss["catalogue"]["text"]


def test_a_check_that_falls_ill_is_a_finding(capsys, monkeypatch):
    def ill():
        raise ZeroDivisionError("of its own")
        yield

    monkeypatch.setattr(doctor_checks, "formats", ill)
    code, amiss = examined(capsys)
    assert code == 2 and amiss["formats"]["text"] == "ZeroDivisionError: of its own"


@pytest.mark.parametrize(("rates", "state"), [({"32": 100.0, "bf16": 40.0}, "note"), ({"32": 9.0, "bf16": 9.5}, "ok")])
def test_the_slower_precision_is_noted(monkeypatch, rates, state):
    monkeypatch.setattr(doctor_checks, "_tiles_per_s", lambda device, precisions: rates)
    monkeypatch.setattr("geomae.runtime.precision.precision_for", lambda device, precision: "bf16")
    monkeypatch.setattr(doctor_checks, "_busy", lambda: False)
    (found,) = TRAINING()
    assert found.state == state and ("--precision 32" in found.remedy) == (state == "note")


def test_steps_are_timed_in_both_precisions(monkeypatch):
    monkeypatch.setattr(doctor_checks, "TIMED_S", 0.0001)
    (found,) = TRAINING()
    assert set(found.facts["tiles_per_s"]) == {"32", "bf16"} and min(found.facts["tiles_per_s"].values()) > 0
