"""The study of the masking recipe: every variant is trained once, scored alike, and found again in MLflow."""

import csv
import json

import pytest
from helpers import SMALL, called, mlflow_client, write_catalog, write_scenes

from pipelines import ablate_masking

pytestmark = pytest.mark.usefixtures("little_encoder")
STUDY = """\
base: tiny
common: [%s]
factors:
  mask ratio: [masking.ratio=0.5]
  decoder kind: [decoder.kind=cross]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory, tracking_uri):
    folder = tmp_path_factory.mktemp("study")
    write_scenes(folder / "scenes", scenes=12, side=32)
    text = write_catalog(folder).read_text() + "    split: {random: {train: 0.5, test: 0.5}, seed: 0}\n"
    (folder / "data_catalog.yaml").write_text(text)
    common = ", ".join(f"'{change}'" for change in (*SMALL, "steps=2", "save_every=2"))
    (folder / "study.yaml").write_text(STUDY % common)
    asked = ("--dataset", "tiny@train", "--eval", "tiny@test", "--config", "study.yaml", "--seeds", "0,1")
    asked += ("--tracking-uri", tracking_uri, "--out", "out")
    first = called(*asked, cwd=folder, program=ablate_masking.main)
    assert first.returncode == 0, first.stderr
    return folder, first, called(*asked, cwd=folder, program=ablate_masking.main)


def test_table(done):
    folder, _, _ = done
    with (folder / "out" / "ablation.csv").open(newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    baselines = [f"baseline:{name}" for name in ("mean", "nearest", "idw-patch")]
    assert list(rows) == ["default", "masking.ratio=0.5", "decoder.kind=cross", *baselines]
    assert (rows["default"]["unit"], rows["default"]["metric"]) == ("reflectance", "rmse")
    for name in ("masking.ratio=0.5", "decoder.kind=cross"):
        row = {key: float(value) for key, value in rows[name].items() if key in ("value", "difference", "low", "high")}
        assert row["difference"] == pytest.approx(row["value"] - float(rows["default"]["value"]))
        assert row["low"] <= row["difference"] <= row["high"]
        singles = [float(value) for value in rows[name]["seed_values"].split()]
        assert row["value"] == pytest.approx(sum(singles) / 2, rel=1e-5)
        assert singles[0] != singles[1]


def test_errors_agree_with_those_of_the_training(done):
    """The default was validated under the same masks by its own training, in another precision at most."""
    folder, _, _ = done
    summary = json.loads((folder / "out" / "runs" / "default-seed0" / "summary.json").read_text())["metrics"]
    with (folder / "out" / "ablation.csv").open(newline="") as file:
        default = next(csv.DictReader(file))
    own = float(default["seed_values"].split()[0])
    assert own == pytest.approx(summary["rmse/model/tiny@test/mean"], rel=0.02)


def test_runs_are_children_of_the_study(done, tracking_uri):
    folder, _, _ = done
    client = mlflow_client(tracking_uri)
    summary = json.loads((folder / "out" / "summary.json").read_text())
    children = [json.loads(path.read_text())["run_id"] for path in (folder / "out" / "runs").glob("*/summary.json")]
    assert len(children) == 6
    parents = {client.get_run(child).data.tags["mlflow.parentRunId"] for child in children}
    assert len(parents) == 1
    assert (folder / "out" / "ablation.png").stat().st_size > 10_000
    assert "rmse/tiny@test/default" in summary["metrics"]


def test_a_second_call_trains_nothing_again(done):
    _, first, second = done
    assert second.returncode == 0, second.stderr
    assert "default-seed0" in first.stdout.split()
    assert "default-seed0" not in second.stdout.split()


@pytest.mark.parametrize(
    ("change", "message"),
    [("factors={sampling: [masking.kind=blok]}", "masking.kind"), ("factors={}", "factors"), ("sede=1", "unknown key")],
)
def test_a_wrong_study_is_refused_before_anything_is_trained(change, message, done):
    folder, _, _ = done
    asked = ("--dataset", "tiny@train", "--eval", "tiny@test", "--config", "study.yaml", "--set", change, "--out", "no")
    wrong = called(*asked, cwd=folder, program=ablate_masking.main)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")
    assert message in wrong.stderr
    assert not (folder / "no").exists()
