"""`geomae finetune` from the catalogue to the model, the table and the report; stopped and gone on with."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_catalog
from processes import forked
from safetensors.numpy import load_file

from geomae.commands.finetune import FinetuneOptions, run
from geomae.commands.options import CommonOptions
from geomae.errors import CatalogError, ConfigError, ModelError
from geomae.models.architecture import Architecture
from geomae.models.finetuned import load_finetuned
from geomae.models.folder import Model, save_model
from geomae.models.head_record import LEARNED_TILES
from geomae.models.mae import MaskedAutoencoder
from geomae.rasters import write_cog
from geomae.runtime import signals
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from geomae.tiles.reader import TileReader

CATALOG = """\
version: 1
datasets:
  fields: &fields
    path: scenes/*.tif
    sensor: naip
    bands: [red, green, blue, nir]
    unit: reflectance
    scale: 0.0001
    offset: 0
    windows: {table: windows.csv, key: scene, row: row, col: col, size: 16}
    label: {column: label}
    split: {column: split}
    group: {column: scene_id}
  noise:
    <<: *fields
    label: {column: noise}
  numbers:
    <<: *fields
    label: {column: level}
  counts:
    <<: *fields
    label: {column: count}
  unlabelled:
    <<: *fields
    label: {column: nothing}
  pixels:
    <<: *fields
    label: {raster: 'labels/{stem}.tif', classes: {1: crop, 2: tree, 3: water}}
"""
KINDS = ("crop", "tree", "water")
TRAINED, TESTED = 6, 11  # scenes, each a group
QUICK = (
    "steps=6", "batch=16", "rates=[0.05, 0.1]", "eval_every=3", "save_every=3", "log_every=1", "readers=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> Path:
    """Scenes of 2 x 2 fields; a field's class decides its reflectance, more or less. The tests have a class more."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    rows = []
    for scene in range(TRAINED + TESTED):
        tested = scene >= TRAINED
        kind_RC = np.array([[0, 1], [2, rng.integers(3)]])
        level_RC = 800 + 700 * kind_RC + rng.integers(-250, 250, (2, 2))
        pixels_HW = level_RC.repeat(16, 0).repeat(16, 1)
        pixels_CHW = (pixels_HW * np.array([1.0, 0.8, 1.2, 1.5])[:, None, None]).astype(np.uint16)
        place = {"crs": "EPSG:32632", "transform": (5.0, 0.0, 400_000.0 + 1000 * scene, 0.0, -5.0, 5_000_000.0)}
        write_cog(folder / "scenes" / f"s{scene}.tif", pixels_CHW, **place)
        write_cog(
            folder / "labels" / f"s{scene}.tif",
            (kind_RC + 1).repeat(16, 0).repeat(16, 1)[None].astype(np.uint8),
            **place,
        )
        for row, col in np.ndindex(2, 2):
            label = "marsh" if tested and scene == TRAINED and row == col == 1 else KINDS[kind_RC[row, col]]
            noise = KINDS[rng.integers(3)] if tested else label
            rows.append([f"s{scene}", 16 * row, 16 * col, label, noise, level_RC[row, col] / 1000, kind_RC[row, col],
                         "test" if tested else "train", f"g{scene}", ""])  # fmt: skip
    names = ("scene", "row", "col", "label", "noise", "level", "count", "split", "scene_id", "nothing")
    with (folder / "windows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    shape = Architecture(bands=4, patch=8, width=24, depth=2, heads=2, decoder=None)
    bands = tuple(sensor("naip").band(name) for name in ("red", "green", "blue", "nir"))
    record = SensorRecord("naip:reflectance", "reflectance", 5.0, bands, (0.15,) * 4, (0.05,) * 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(Model(MaskedAutoencoder(shape), (record,), {"mlflow_run": "r0"}), folder / "encoder" / "model")
    return write_catalog(folder, CATALOG)


def wish(catalog, out, **changes):
    """The options of a run that takes a moment."""
    common = CommonOptions(
        catalog=catalog, out=out, device="cpu", precision="32", quiet=True,
        tracking_uri=f"sqlite:///{catalog.parent}/mlflow.db",
    )  # fmt: skip
    own = {"train": "fields@train", "tests": ("fields@test",), "baselines": False, "changes": QUICK}
    return FinetuneOptions(common=common, **own | {"model": str(catalog.parent / "encoder/model")} | changes)


def table(out):
    with (out / "finetune.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(fields, tmp_path_factory):
    """A run with baselines and few labels."""
    out = tmp_path_factory.mktemp("runs") / "all"
    assert run(wish(fields, out, baselines=True, shots="1,2,50")) == 0
    return out


def test_a_run_leaves_what_it_says(finished):
    left = {path.name for path in finished.iterdir()}
    pictures = {f"finetune_{name}.png" for name in ("scores", "loss", "confusion", "reliability", "examples")}
    assert {"model", "finetune.csv", "summary.json", "report.html"} | pictures <= left
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["inputs"]["classes"] == list(KINDS)
    assert summary["inputs"]["model_run"] == "r0"
    assert len(summary["inputs"]["rates_tried"]) == 2
    assert any("not in --train" in note and "marsh" in note for note in summary["inputs"]["notes"])


def test_all_methods_stand_in_one_table(finished):
    rows = [row for row in table(finished) if row["class"] == "all" and row["metric"] == "balanced_accuracy"]
    assert {row["method"] for row in rows if row["shots"] == "all"} >= {"full", "scratch", "linear", "forest"}
    assert {(row["method"], row["shots"]) for row in rows if row["shots"] != "all"} == {
        (method, shots) for method in ("full", "linear", "forest") for shots in ("1", "2")
    }
    assert {row["encoder"] for row in rows} == {"encoder"}
    assert all(row["low"] and row["high"] for row in rows if row["shots"] == "all")  # eleven groups
    differences = {row["method"] for row in table(finished) if row["metric"] == "difference_to_first"}
    assert differences >= {"scratch", "linear", "forest"}
    assert {row["method"] for row in table(finished) if row["metric"] == "ece"} == {"full", "scratch"}


def test_the_model_knows_what_it_learned_from(finished):
    tuned = load_finetuned(finished / "model")
    assert tuned.record.classes == KINDS
    assert tuned.record.tile == 16
    assert tuned.record.calibration is not None
    assert sum(tuned.record.class_shares) == pytest.approx(1)
    counts_KK = np.array(tuned.record.confusion)
    behind = json.loads((finished / "model" / LEARNED_TILES).read_text())["fields"]
    scenes = [{tile.split(":")[0] for tile in behind[part]} for part in ("learned", "held_out")]
    assert not scenes[0] & scenes[1]  # whole groups are held out
    assert len(behind["learned"]) + len(behind["held_out"]) == 4 * TRAINED
    assert set(behind["grids"]) == scenes[0] | scenes[1]
    assert counts_KK.shape == (3, 3)
    assert counts_KK.sum() == len(behind["held_out"])
    assert tuned.model.provenance["from"] == {"mlflow_run": "r0"}


def weights(out):
    return {name: value.tobytes() for name, value in load_file(out / "model" / "model.safetensors").items()}


def test_labels_of_the_tests_have_no_part_in_the_model(fields, tmp_path):
    """With noise for labels of --eval: the same weights, choices and calibration."""
    for name in ("fields", "noise"):
        assert run(wish(fields, tmp_path / name, train=f"{name}@train", tests=(f"{name}@test",))) == 0
    assert weights(tmp_path / "fields") == weights(tmp_path / "noise")
    one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("fields", "noise"))
    for key in ("calibration", "rate", "rates_tried"):
        assert one["inputs"][key] == other["inputs"][key]
    scores = [{row["value"] for row in table(tmp_path / name)} for name in ("fields", "noise")]
    assert scores[0] != scores[1]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(fields, tmp_path, monkeypatch):
    assert run(wish(fields, tmp_path / "whole")) == 0
    import geomae.training.loop as loop

    usual, steps = loop.one_step, iter(range(100))

    def stopping(trainer, batch, rate, stop):
        if next(steps) == 8:  # in the second training
            stop.signal = signals.signal.SIGTERM
        return usual(trainer, batch, rate, stop)

    monkeypatch.setattr(loop, "one_step", stopping)
    assert run(wish(fields, tmp_path / "stopped")) == 143
    assert not (tmp_path / "stopped" / "summary.json").exists()
    monkeypatch.setattr(loop, "one_step", usual)
    assert run(wish(fields, tmp_path / "stopped")) == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")
    assert (tmp_path / "whole" / "finetune.csv").read_bytes() == (tmp_path / "stopped" / "finetune.csv").read_bytes()


def test_tiles_are_decoded_once_for_both_networks(fields, tmp_path, monkeypatch):
    usual, decoded = TileReader._read, []

    def counted(reader, scene, window):
        if reader._room:  # readers of the probe and of the forest keep nothing
            decoded.append((id(reader.index), scene, window))
        return usual(reader, scene, window)

    monkeypatch.setattr(TileReader, "_read", counted)
    assert run(wish(fields, tmp_path / "both", baselines=True)) == 0
    assert decoded
    assert len(decoded) == len(set(decoded))


@pytest.mark.parametrize(
    ("task", "train", "changes", "main"),
    [
        ("regression", "numbers", (), "r2"),
        ("segmentation", "pixels", (), "mean_iou"),
        ("segmentation", "pixels", ("head=linear", "class_weights=balanced", "rates=[0.1]"), "mean_iou"),
    ],
)
def test_numbers_and_pixels(fields, tmp_path, task, train, changes, main):
    wished = wish(fields, tmp_path / "out", task=task, train=f"{train}@train", tests=(f"{train}@test",))
    wished = replace(wished, baselines=not changes)
    assert run(replace(wished, changes=(*QUICK, *changes))) == 0
    rows = [row for row in table(tmp_path / "out") if row["metric"] == main and row["class"] == "all"]
    assert {row["method"] for row in rows} >= ({"full"} if changes else {"full", "scratch", "linear", "forest"})
    tuned = load_finetuned(tmp_path / "out" / "model")
    assert tuned.record.task == task
    if task == "segmentation":
        assert tuned.record.kind == ("linear" if changes else "conv")
        assert tuned.record.codes == (1, 2, 3)
        uniform = pytest.approx((1 / 3,) * 3)
        assert (tuned.record.class_shares == uniform) == bool(changes)


BAD = [
    ({"train": "unlabelled@train"}, CatalogError, "none of its 24 tiles has a label"),
    ({"train": "counts@train", "tests": ()}, ConfigError, "say --task classification or --task regression"),
    ({"train": "pixels@train", "tests": ()}, ConfigError, "say --task segmentation or --task classification"),
    ({"task": "regression"}, CatalogError, "'crop' is not a number|'tree' is not a number"),
    ({"task": "segmentation"}, CatalogError, "needs labels per pixel"),
    ({"task": "segment"}, ConfigError, "--task segment: .*segmentation"),
    ({"changes": ("head=conv",)}, ConfigError, "conv predicts pixels"),
    ({"tests": ("fields",)}, ConfigError, "24 of its tiles are .* in --train"),
    ({"model": "baseline:rcf"}, ConfigError, "a baseline has no weights to train"),
    ({"model": "galileo:."}, ConfigError, "cannot hold Galileo's groups of bands"),
    ({"model": "torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO"}, ModelError, "resnet18 is no plain vision transformer"),
    ({"model": "timm:test_convnext?pretrained=false"}, ModelError, "is no plain vision transformer"),
    ({"model": "timm:test_vit?pretrained=false&bands=all"}, ConfigError, "takes red, green and blue"),
    ({"shots": "1,x"}, ConfigError, "--shots 1,x: give whole numbers above 0"),
    ({"method": "most"}, ConfigError, "--method most"),
    ({"changes": ("batch=9", "accumulate=2")}, ConfigError, "batch: 9 tiles cannot be shared by 1 devices in 2 passes"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_bad_requests_are_refused_in_one_line(fields, tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message) as caught:
        run(wish(fields, tmp_path / "out", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(fields, tmp_path, capsys):
    wished = wish(fields, tmp_path / "out")
    assert run(replace(wished, common=replace(wished.common, dry_run=True, quiet=False))) == 0
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    assert "classes: crop, tree, water" in said
    assert "of 6 groups" in said


def test_two_processes_learn_what_one_learns(fields, tmp_path):
    """Tiles of a step are shared; the first process measures and writes."""
    alone = wish(fields, tmp_path / "alone")
    assert run(alone) == 0
    changes = [word for change in QUICK for word in ("--set", change)]
    asked = ("--model", alone.model, "--train", alone.train, "--eval", alone.tests[0], "--catalog", fields, *changes)
    done = forked(
        "finetune", *asked, "--no-baselines", "--precision", "32", "--devices", 2, "--out", "both",
        "--tracking-uri", alone.common.tracking_uri, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == 1
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "both"))
    for name, value in one.items():
        parts = slice(None)
        if name.endswith("qkv.bias"):  # keys' biases move no softmax: their gradient is rounding
            parts = np.r_[: len(value) // 3, 2 * len(value) // 3 : len(value)]
        np.testing.assert_allclose(other[name][parts], value[parts], rtol=0, atol=1e-5, err_msg=name)


def test_a_transformer_of_timm_is_read_after_its_last_block(fields, tmp_path, capsys):
    alone = wish(fields, tmp_path / "run", model="timm:vit_tiny_patch16_224?pretrained=false", method="last-blocks")
    assert run(replace(alone, common=replace(alone.common, dry_run=True, quiet=False))) == 0
    blocks = 2 * (12 * 192 * 192 + 13 * 192)  # weights; biases and norms
    assert f"{blocks + 3 * (2 * 192 + 1):,} of " in capsys.readouterr().out  # and a head of three classes
