"""The recipes of adaptation as people run them, with the smallest settings: their steps, their verdicts, their runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL, called, contents, mlflow_client, refused, write_catalog, write_scenes

from geomae.config import Decoder
from geomae.models.architecture import Architecture
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from pipelines import adapt_region, adapt_season, adapt_sensor, adaptation, map_target, photographs_to_multispectral

pytestmark = pytest.mark.usefixtures("little_encoder")
CATALOG = """\
version: 1
datasets:
  land: &land
    path: scenes/*.tif
    sensor: naip
    bands: [red, green, blue, nir]
    unit: reflectance
    scale: 0.0001
    offset: 0
    table: {path: scenes.csv, key: scene}
    tile: {size: 16}
    label: {column: kind}
    group: {column: site}
    split: {column: part}
    domain: {column: season}
  other:
    <<: *land
    sensor: planetscope-superdove
"""
FEW = ("batch=8", "eval_every=2", "save_every=2", "steps=2")
GREEN, BROWN = "land[season=green]", "land[season=brown]"
TRAINED = [word for setting in SMALL for word in ("--set", setting)] + ["--steps", 2]
ADAPTED = [word for setting in FEW for word in ("--adapt-set", setting)]
DOMAINS = ("--source", GREEN, "--target", BROWN)
BANDS = ("red", "green", "blue", "nir")
PRETRAINED = {"command": "pretrain", "mlflow_run": "r1", "dataset": ["land"]}
PROBED = ("--probe-train", GREEN, "--probe-test", BROWN)


@pytest.fixture(scope="module")
def land(tmp_path_factory) -> Path:
    """Twelve scenes of 3 x 3 tiles; the last six are brown, and of both kinds some are for testing."""
    folder = tmp_path_factory.mktemp("land")
    write_scenes(folder / "scenes", scenes=12, side=48)
    with (folder / "scenes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["scene", "season", "kind", "part", "site"])
        for number in range(12):
            season, kind = ("green", "brown")[number // 6], ("crop", "water")[number % 2]
            writer.writerow([f"s{number}", season, kind, "test" if number % 6 > 3 else "train", f"site{number}"])
    write_catalog(folder, CATALOG)
    return folder


@pytest.fixture(scope="module")
def region(land, tracking_uri):
    """The folder that the recipe left, and what it said."""
    asked = (*DOMAINS, *TRAINED, *ADAPTED, *PROBED, "--tracking-uri", tracking_uri, "--out", "region")
    first = called(*asked, cwd=land, program=adapt_region.main)
    assert first.returncode == 0, first.stderr
    return land / "region", first


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_the_steps_leave_their_reports_and_a_sentence_each(region):
    out, first = region
    said = summary(out)["inputs"]["said"]
    assert [one.partition(":")[0] for one in said] == ["adapt", "gap", "probe"]
    assert json.loads((out / "adapt" / "adaptation.json").read_text(encoding="utf-8"))["verdict"] in said[0]
    assert all(name in said[1] for name in ("before ", "after ", "baseline-statistics "))
    for step, sentence in zip(("adapt", "gap", "probe"), said, strict=True):
        assert (out / step / "report.html").is_file()
        assert sentence.endswith(f"Report: {out / step / 'report.html'}")
        assert sentence in first.stdout


def test_the_sentence_of_the_probe_is_its_table(region):
    out, _ = region
    with (out / "probe" / "probe.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "balanced_accuracy" and row["shots"] == "all"]
    assert {"none", "coral"} <= {row["align"] for row in rows}
    chosen = [row for row in rows if row["chosen"] == "true" and row["method"] == "linear" and row["seed"] == ""]
    for name in ("before", "after"):
        (row,) = [row for row in chosen if row["encoder"] == name and row["class"] == "all"]
        assert f"{name} {float(row['value']):.3f} ({row['align']})" in summary(out)["inputs"]["said"][2]


def test_the_steps_are_children_of_one_run(region, tracking_uri):
    out, _ = region
    client = mlflow_client(tracking_uri)
    parents = {
        client.get_run(summary(out / step)["run_id"]).data.tags["mlflow.parentRunId"]
        for step in ("pretrain", "adapt", "gap", "probe")
    }
    assert parents == {summary(out)["run_id"]}


def test_another_request_is_refused_in_the_same_folder(region, land):
    out, _ = region
    before = contents(out)
    other = called(*DOMAINS, *TRAINED, *ADAPTED, "--out", "region", cwd=land, program=adapt_region.main)
    refused(other, "region", "another request", "probe_train")
    assert [one for one in contents(out) if one not in before] == []


def small_model(folder: Path) -> None:
    """What stands in for a pretraining: a model of a width at which distances between domains take no time."""
    record = SensorRecord(
        "naip:reflectance", "reflectance", 5.0, tuple(map(sensor("naip").band, BANDS)), (0.2,) * 4, (0.1,) * 4
    )
    shape = Architecture(bands=4, patch=8, width=24, depth=2, heads=2, decoder=Decoder(width=16, depth=1, heads=2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(Model(MaskedAutoencoder(shape), (record,), PRETRAINED), folder)


def test_a_target_without_labels_is_mapped(land, tracking_uri, monkeypatch):
    """Pretrained on both, fine-tuned, adapted and mapped; the maps say what they rest on."""
    asked = []

    def pretrained(options):
        asked.append(options.datasets)
        small_model(options.out / "model")
        return 0

    monkeypatch.setattr(adaptation.pretrain, "run", pretrained)
    target = f"{BROWN}@test"
    few = [word for one in ("steps=2", "batch=8", "rates=[0.1]", "readers=0") for word in ("--finetune-set", one)]
    words = ("--source", GREEN, "--target", target, *ADAPTED, *few, "--task", "classification", "--out", "map")
    done = called(*words, "--tracking-uri", tracking_uri, cwd=land, program=map_target.main)
    assert done.returncode == 0, done.stderr
    assert asked == [(f"{GREEN}@all", target)]
    said = summary(land / "map")["inputs"]["said"]
    assert [one.partition(":")[0] for one in said] == ["direct", "adapt", "map"]
    assert "accuracy " in said[2]
    assert sorted(path.name for path in (land / "map" / "map").glob("map_s*.tif")) == ["map_s10.tif", "map_s11.tif"]
    told = summary(land / "map" / "map")
    runs = ["r1", *(summary(land / "map" / name)["run_id"] for name in ("finetune", "adapt"))]
    assert [run in step for run, step in zip(runs, told["inputs"]["lineage"], strict=True)] == [True] * 3
    client = mlflow_client(tracking_uri)
    parents = {client.get_run(run).data.tags["mlflow.parentRunId"] for run in (*runs[1:], told["run_id"])}
    assert parents == {summary(land / "map")["run_id"]}


@pytest.mark.slow
def test_a_season_takes_a_model_that_is_there_and_goes_on(region, land, tracking_uri):
    out, _ = region
    asked = (*DOMAINS, *ADAPTED, "--model", out / "pretrain" / "model", "--tracking-uri", tracking_uri)
    done = [called(*asked, "--out", "season", cwd=land, program=adapt_season.main) for _ in range(2)]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    assert done[0].stdout.splitlines()[-2:] == done[1].stdout.splitlines()[-2:]
    assert not (land / "season" / "pretrain").exists()
    assert [one.partition(":")[0] for one in summary(land / "season")["inputs"]["said"]] == ["adapt", "gap"]


@pytest.mark.slow
def test_a_sensor_is_probed_in_shared_and_in_all_bands(region, land, tracking_uri):
    out, _ = region
    asked = ("--catalog", "data_catalog.yaml", "--source", GREEN, "--target", "other[season=brown]", *ADAPTED)
    asked += ("--model", out / "pretrain" / "model", "--tracking-uri", tracking_uri)
    asked += ("--probe-train", "other[season=brown]", "--probe-test", GREEN, "--out", "sensor")
    done = called(*asked, cwd=land, program=adapt_sensor.main)
    assert done.returncode == 0, done.stderr
    said = summary(land / "sensor")["inputs"]["said"]
    assert [one.partition(":")[0] for one in said] == ["adapt", "gap", "probe-shared-bands", "probe-all-bands"]


def test_photographs_become_a_model_of_the_bands(land, tracking_uri, shared_parity):
    asked = ("--target", "land@train", "--probe-train", "land@train", "--probe-test", "land@test", *ADAPTED)
    asked += ("--weights", shared_parity / "mae_tiny.pth", "--heads", 3, "--decoder-heads", 4, "--norm-eps", 1e-5)
    asked += ("--normalised", "none", "--tracking-uri", tracking_uri, "--out", "photographs")
    done = called(*asked, cwd=land, program=photographs_to_multispectral.main)
    assert done.returncode == 0, done.stderr
    said = summary(land / "photographs")["inputs"]["said"]
    assert [one.partition(":")[0] for one in said] == ["adapt", "probe"]
    assert "baseline-random" in said[1]
    from geomae.models.folder import load_model

    record = load_model(land / "photographs" / "adapt" / "model").record
    assert [band.common_name for band in record.bands] == ["red", "green", "blue", "nir"]
    assert np.all(np.array(record.std_C) < 1)  # of reflectance, not of photographs


@pytest.mark.parametrize(
    ("recipe", "wrong", "part"),
    [
        (adapt_region, ("--adapt-set", "method=lore"), "method"),
        (adapt_region, ("--set", "sede=1"), "unknown key"),
        (adapt_season, ("--probe-train", GREEN), "--probe-test"),
        (adapt_season, ("--source", "lamd"), "'land'"),
        (adapt_sensor, ("--target", "mars"), "mars"),
        (map_target, ("--finetune-set", "sede=1"), "unknown key"),
        (map_target, ("--task", "classify"), "classification"),
        (photographs_to_multispectral, ("--target", "mars"), "mars"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_trained(recipe, wrong, part, land):
    domains = DOMAINS if recipe in (adapt_region, adapt_season, map_target) else ()
    refused(called(*domains, *wrong, "--out", "no", cwd=land, program=recipe.main), part)
    assert not (land / "no").exists()
