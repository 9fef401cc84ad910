"""`geomae pretrain` from a catalogue to a model, and what it leaves in the folder and in MLflow."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    CATALOG,
    SMALL,
    contents,
    history,
    losses,
    mlflow_client,
    options,
    refuses,
    state,
    write_catalog,
    write_scenes,
)

import geomae as library
from geomae.catalog import open_catalog
from geomae.commands.pretrain import PretrainOptions, run
from geomae.config import shipped
from geomae.errors import StorageError
from geomae.models.architecture import PRESETS, Size
from geomae.rasters import write_cog

ROOT = Path(__file__).parents[2]

TWO = (
    CATALOG
    + """\
    split: {random: {train: 0.75, test: 0.25}, seed: 0}
  other:
    path: other/*.tif
    sensor: sentinel-2-l2a
    bands: [B02, B03, B04, B08, B11]
    nodata: 0
    scale: 0.0001
    offset: 0
    tile: {size: 32, stride: 16}
"""
)
EVALUATED = ("tiny@train-held-out", "other@train-held-out", "tiny@test")
BANDS = {"tiny": ("red", "green", "blue", "nir"), "other": ("B02", "B03", "B04", "B08", "B11")}


@pytest.fixture(scope="module")
def trained(geomae, tmp_path_factory, tracking_uri):
    """A run of the real command on two data sets of different sensors, from another folder, on data that stay as is."""
    data, work = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("work")
    write_scenes(data / "scenes")
    write_scenes(data / "other", scenes=2, bands=5, seed=1)
    gap = np.zeros((5, 64, 64), np.uint16)
    gap[:, 20:] = 1500 + np.random.default_rng(2).integers(0, 900, (5, 44, 64))
    write_cog(data / "other" / "gap.tif", gap)
    catalog = write_catalog(data, TWO)
    before = contents(data)
    folders = [data, data / "scenes", data / "other"]
    for folder in folders:
        folder.chmod(0o555)
    done = geomae(
        "pretrain", "--catalog", catalog, "--dataset", "tiny", "--dataset", "other", "--eval", "tiny@test",
        *options(*SMALL, "steps=12", "save_every=4", "eval_every=4", "picture_every=8", "keep=1", "target=patch-band"),
        "--tracking-uri", tracking_uri, "--experiment", "first", "--run-name", "both", "--register", "tiny-model",
        "--seed", "5", "--out", "results/first", cwd=work,
    )  # fmt: skip
    for folder in folders:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert contents(data) == before
    assert [path.name for path in work.iterdir()] == ["results"]
    return work / "results" / "first", done, catalog


@pytest.fixture(scope="module")
def summary(trained):
    return json.loads((trained[0] / "summary.json").read_text())


def test_files(trained):
    folder, _, _ = trained
    assert {path.name for path in (folder / "model").iterdir()} == {"config.json", "model.safetensors"}
    assert (folder / "checkpoints" / "step-00000012").is_dir()
    assert len(list((folder / "checkpoints").iterdir())) <= 2  # the newest and the best
    pictures = {path.name for path in (folder / "pictures").glob("*.png")}
    held = {name.replace("@", "_") for name in EVALUATED}
    assert pictures == {"loss.png", "effective_rank.png"} | {
        f"{one}-step-{step:08d}.png" for one in held for step in (8, 12)
    }
    assert {path.name for path in (folder / "statistics").iterdir()} == {"tiny_train.json", "other_train.json"}
    assert set(json.loads((folder / "audit.json").read_text())) == {"tiny", "other"}
    assert not list(folder.rglob(".unfinished-*"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".pth", ".ckpt", ".pkl")]


def test_what_is_said(trained, summary):
    _, done, _ = trained
    assert "\r" not in done.stderr
    assert "12 steps of 8 of " in done.stderr
    assert "warning" not in done.stderr
    for name in EVALUATED:
        assert f"{name}: " in done.stdout
    figure = summary["metrics"]["rmse/model/tiny@test/red"]
    assert f"{figure:.4g}" in done.stdout, "people and the summary are told different figures"


def test_report(trained, summary):
    """It begins with what is said on the terminal, and tells the command that follows."""
    folder, done, _ = trained
    text = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    lead = text[text.index('<p class="lead">') :].partition("</p>")[0]
    said = [line for line in done.stdout.splitlines() if line.startswith("RMSE on hidden pixels of ")]
    assert len(said) == 3
    assert all(line in lead for line in said)
    worse = [line for line in said if "higher than that of" in line]
    assert worse
    longer = "Train longer (--set steps=48, four times as many, takes "
    assert all(longer in line for line in worse)
    ranks = [row["train/effective_rank"] for row in history(folder) if "train/effective_rank" in row]
    assert f"an effective rank of {ranks[-1]:.3g} at the end ({ranks[0]:.3g} at the first logged step)" in lead
    assert f'data-key="{summary["metrics"]["rmse/model/tiny@test/mean"]!r}"' in text
    assert f"geomae embed-pca --dataset tiny@train --encoder {folder}/model" in text
    assert text.count("<img ") == 2 + 3  # losses, rank, and a panel of each data set


def test_summary(trained, summary):
    folder, _, catalog = trained
    assert summary["command"] == "pretrain"
    assert summary["out"] == str(folder)
    assert summary["inputs"]["catalog"] == str(catalog)
    assert summary["inputs"]["dataset"] == ["tiny@train", "other@train"]
    assert summary["inputs"]["eval"] == ["tiny@test"]
    assert summary["inputs"]["config"]["batch"] == 8
    wanted = {"run/tiles_per_s", "run/data_wait_share", "run/seconds", "run/steps"}
    for name in EVALUATED:
        baselines = [f"baseline:{kind}" for kind in ("mean", "nearest", "idw-patch")]
        wanted |= {f"loss/{name}", *(f"ratio/{baseline}/{name}" for baseline in baselines)}
        columns = (*BANDS[name.partition("@")[0]], "mean")
        for who in ("model", *baselines):
            wanted |= {f"rmse/{who}/{name}/{band}" for band in columns}
    assert set(summary["metrics"]) == wanted
    for name, value in summary["metrics"].items():
        assert np.isfinite(value), name
        assert value > 0 or name == "run/data_wait_share", name
    assert summary["metrics"]["run/steps"] == 12
    assert summary["metrics"]["rmse/model/tiny@test/red"] < 0.5  # reflectance


def test_history(trained):
    folder, _, _ = trained
    assert list(losses(folder)) == list(range(1, 13))
    assert [row["step"] for row in history(folder) if "loss/tiny@test" in row] == [4, 8, 12]


def test_the_model_reconstructs_both_sensors(trained):
    folder, _, catalog = trained
    model = library.load_model(folder / "model")
    assert {record.name for record in model.sensors} == {"naip:reflectance", "sentinel-2-l2a"}
    for record in model.sensors:
        pixels = torch.rand(2, len(record.bands), 32, 32) * 0.3
        pixels[0, :, :4] = torch.nan
        predicted, loss = model.for_sensor(record.name).reconstruct(pixels)
        assert predicted.shape == pixels.shape
        assert torch.isfinite(predicted).all()
        assert torch.isfinite(loss)
    fewer = model.for_sensor("sentinel-2-l2a", ("B11", "B03"))
    assert fewer.reconstruct(torch.rand(1, 2, 32, 32))[0].shape == (1, 2, 32, 32)
    assert model.provenance["seed"] == 5
    assert model.provenance["data_digest"] == json.loads((folder / "run.json").read_text())["data"]
    assert model.provenance["catalogue_digest"] == open_catalog(catalog).digest(list(BANDS))


def test_the_run_in_mlflow(trained, summary, tracking_uri):
    folder, _, catalog = trained
    client = mlflow_client(tracking_uri)
    found = client.get_run(summary["run_id"])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "both"
    assert client.get_experiment(found.info.experiment_id).name == "first"
    params = found.data.params
    wanted = {"batch": "8", "steps": "12", "decoder.width": "16", "target": "patch-band", "masking.ratio": "0.75"}
    assert wanted.items() <= params.items()
    assert params["seed"] == "5"
    tags = found.data.tags
    assert tags["geomae.sensors"] == "naip:reflectance, sentinel-2-l2a"
    assert tags["geomae.model_size"] == "tiny"
    assert tags["geomae.out"] == str(folder)
    assert tags["geomae.catalogue_digest"] == open_catalog(catalog).digest(list(BANDS))
    inputs = {(one.dataset.name, one.tags[0].value) for one in found.inputs.dataset_inputs}
    assert inputs == {(f"{name}@train", "training") for name in BANDS} | {(name, "validation") for name in EVALUATED}
    assert all(0 < len(one.dataset.digest) <= 36 for one in found.inputs.dataset_inputs)
    curve = client.get_metric_history(found.info.run_id, "train/loss")
    assert len(curve) == 12
    assert {metric.step: metric.value for metric in curve} == pytest.approx(losses(folder))
    for name in ("train/rate", "train/gradient_norm", "train/tiles_per_s", "train/data_wait_share"):
        assert {metric.step for metric in client.get_metric_history(found.info.run_id, name)} == set(range(1, 13))
    # MLflow refuses @ in the name of a metric.
    assert {m.step for m in client.get_metric_history(found.info.run_id, "rmse/model/tiny_test/nir")} == {4, 8, 12}
    names = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert names >= {"model", "pictures", "statistics", "run.json", "audit.json", "summary.json"}
    pictures = {Path(one.path).name for one in client.list_artifacts(found.info.run_id, "pictures")}
    assert pictures == {path.name for path in (folder / "pictures").iterdir()}
    stored = Path(client.download_artifacts(found.info.run_id, "model"))
    assert (stored / "model.safetensors").read_bytes() == (folder / "model" / "model.safetensors").read_bytes()
    (version,) = client.search_model_versions("name='tiny-model'")
    assert version.run_id == found.info.run_id


def test_a_finished_run_is_left_alone(trained, tmp_path, monkeypatch, capsys):
    folder, _, catalog = trained
    before = contents(folder)
    monkeypatch.chdir(tmp_path)
    assert run(PretrainOptions(resume=folder)) == 0
    assert capsys.readouterr().err == f"{folder}: this run is finished; its model is in {folder / 'model'}\n"
    refuses(StorageError, ["already holds a run of another"], catalog=catalog, datasets=("tiny",), out=folder)
    assert contents(folder) == before
    assert not list(tmp_path.iterdir())


@pytest.fixture
def short(tiny_catalog, tracking_uri, tmp_path):
    """Train for a few steps in this process; gives the folder."""

    def train(name, *changes, seed=0, **wishes):
        settings = (*SMALL, "steps=4", "save_every=4", *changes)
        common = {"catalog": tiny_catalog, "tracking_uri": tracking_uri, "precision": "32", "quiet": True}
        assert (
            run(PretrainOptions(**common | {"changes": settings, "seed": seed, "out": tmp_path / name} | wishes)) == 0
        )
        return tmp_path / name

    return train


def test_the_seed_decides_and_how_tiles_are_read_does_not(short, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", Size(width=48, depth=4, heads=3))
    first = state(short("first"))
    assert state(short("again")) == first
    assert state(short("in-the-step", "data.readers=0")) == first
    by_cache = ("data.readers=3", "data.memory_mb=0", f"data.cache={tmp_path / 'cache'}")
    assert state(short("many-readers", *by_cache)) == first
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 4  # a square each scene
    assert state(short("other-seed", seed=1)) != first


@pytest.mark.parametrize(
    ("embedding", "target"), [("stacked", "patch"), ("spectral", "none"), ("spectral", "patch-band")]
)
def test_it_learns(short, embedding, target):
    learning = ("steps=30", "optimizer.base_rate=0.03", "data.flips=false")
    found = list(losses(short("run", f"embedding={embedding}", f"target={target}", *learning)).values())
    assert np.mean(found[-5:]) < 0.9 * np.mean(found[:5])


def test_a_dry_run_writes_nothing(tiny_catalog, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(PretrainOptions(catalog=tiny_catalog, config="tiny", changes=("steps=7",), dry_run=True)) == 0
    told = capsys.readouterr().out
    assert str(tiny_catalog) in told
    assert "train on tiny@train: 58 tiles of naip:reflectance in reflectance (red, green, blue, nir)" in told
    assert "validate on tiny@train-held-out: 6 tiles" in told
    assert "7 steps of " in told
    assert "masking.ratio: 0.75" in told
    assert not list(tmp_path.iterdir())


def test_the_current_folder_is_the_default(tiny_catalog, tmp_path, monkeypatch):
    """Without --catalog, --out and --tracking-uri everything is in the current folder."""
    shutil.copytree(tiny_catalog.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert run(PretrainOptions(changes=(*SMALL, "steps=1"), quiet=True)) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("pretrain-")
    assert (folder / "summary.json").is_file()
    assert (tmp_path / "mlflow.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"data_catalog.yaml", "scenes", "runs", "mlflow.db", "mlruns"}


@pytest.mark.parametrize("name", shipped("pretrain"))
def test_every_shipped_configuration_fits_any_data_set(name, tmp_path, monkeypatch):
    write_scenes(tmp_path / "scenes")
    write_catalog(tmp_path, CATALOG.replace("size: 16", "size: 64"))
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert run(PretrainOptions(config=name, dry_run=True, quiet=True)) == 0
    assert (
        run(PretrainOptions(config=str(ROOT / "configs" / "pretrain" / f"{name}.yaml"), dry_run=True, quiet=True)) == 0
    )
    assert contents(tmp_path) == before
