"""`geomae runs` tells what lies below a folder, in whatever state it was left."""

import fcntl
import json
import os

import pytest

from geomae.commands import runs
from geomae.errors import ConfigError


def record(folder, *, age_s=0, summary=None, **asked):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(asked))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps({"command": asked["command"], "metrics": summary}))
    for file in folder.iterdir():
        os.utime(file, (1_700_000_000 - age_s,) * 2)


@pytest.fixture
def folder(tmp_path):
    """Runs in every state, one of them part of a study."""
    root = tmp_path / "runs"
    metrics = {"accuracy/a/linear": 0.5, "balanced_accuracy/a/linear": 0.61234, "balanced_accuracy/a/knn5": 0.5}
    record(root / "done", age_s=50, summary=metrics, command="probe", train="a@train", tests=["a@test"])
    record(root / "study" / "stopped", age_s=40, command="pretrain", dataset=["a@train"], eval=[])
    for step in (10, 20):
        (root / "study" / "stopped" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    record(root / "begun", age_s=30, command="pretrain", dataset=["a"])
    record(root / "asked", age_s=20, command="gap", source="a", target="b")
    record(root / "broken", age_s=10, command="embed")
    (root / "broken" / "run.json").write_text('{"command": "em')
    (root / "check").mkdir()  # commands without parameters leave a summary alone
    summary = {"command": "catalog check", "metrics": {"a/tiles": 4}, "inputs": {"dataset": ["a"]}}
    (root / "check" / "summary.json").write_text(json.dumps(summary))
    (root / "wrong").mkdir()
    (root / "wrong" / "summary.json").write_text(json.dumps(summary | {"error": "a tile is larger"}))
    (root / "notes").mkdir()
    (root / "notes" / "run.json").write_text("[1]")
    return root


def states(folder):
    return {str(one.path.relative_to(folder)): one for one in runs.find_runs(folder)}


def test_every_run_has_its_state(folder):
    found = states(folder)
    assert {name: one.state for name, one in found.items()} == {
        "done": "finished", "study/stopped": "stopped", "begun": "stopped", "asked": "stopped", "broken": "broken",
        "check": "finished", "wrong": "failed", "notes": "broken",
    }  # fmt: skip
    assert found["study/stopped"].remedy.endswith("study/stopped` continues it (2 checkpoints)")
    assert "--resume" in found["study/stopped"].remedy and "starts at step 0" in found["begun"].remedy
    assert "--out" in found["asked"].remedy and found["asked"].data == "source a; target b"
    assert "run.json cannot be read" in found["broken"].remedy
    assert found["wrong"].remedy == "a tile is larger"


def test_a_run_that_a_process_works_on_is_running(folder):
    with (folder / "begun" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert states(folder)["begun"].state == "running"
    assert states(folder)["begun"].state == "stopped"


def test_the_list_is_by_date_with_key_figures(folder, capsys):
    assert runs.run(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[-1] for line in lines if line[:4].isdigit()]
    assert names[:4] == ["done", "study/stopped", "begun", "asked"] and len(names) == 8
    assert "train a@train; tests a@test; balanced_accuracy/a/linear 0.612; balanced_accuracy/a/knn5 0.5" in lines[1]
    assert lines[-1].startswith("8 runs")


def test_none_is_no_error(tmp_path, capsys):
    assert runs.run(tmp_path / "runs") == 0
    assert "no runs below" in capsys.readouterr().out


def test_show_names_the_report_or_what_there_is(folder, capsys):
    (folder / "done" / "report.html").write_text("<html>")
    assert runs.show("done", folder) == 0
    assert str(folder / "done" / "report.html") in capsys.readouterr().out
    assert runs.show(str(folder / "asked"), folder) == 0  # by its own folder, from anywhere
    assert "it has no report; it holds run.json" in capsys.readouterr().out


def test_a_typo_in_show_names_the_nearest(folder):
    with pytest.raises(ConfigError, match="asked"):
        runs.show("askd", folder)
