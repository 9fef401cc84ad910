"""Trainings of more terms than pixels: over processes, after a restart, without a decoder, without pairs."""

import html
import json
import shutil
from types import SimpleNamespace

import pytest
from helpers import CATALOG, called, history, options, refuses, state, write_catalog, write_scenes
from processes import forked
from safetensors.torch import load_file

from geomae.commands.pretrain import PretrainOptions, run
from geomae.commands.pretrain_report import COLLAPSED_LOGS, Reporter
from geomae.config import Objective
from geomae.errors import CatalogError, ConfigError
from geomae.files import digest, file_digest
from geomae.models.folder import load_model, save_tensors

TWO = (
    CATALOG.replace("path: scenes/*.tif", "path: '*/*.tif'")
    + """\
  other:
    path: later/*.tif
    sensor: sentinel-2-l2a
    bands: [B02, B03, B04, B08]
    nodata: 0
    scale: 0.0001
    offset: 0
    tile: {size: 32, stride: 16}
"""
)
TINY = ("patch=8", "decoder.width=16", "decoder.depth=1", "decoder.heads=2", "batch=16", "log_every=1", "steps=6")
TERMS = (*TINY, "objective.contrast=0.5", "save_every=3", "eval_every=3")
BOTH = ("--dataset", "tiny", "--dataset", "other")


@pytest.fixture(scope="module")
def two_dates(tmp_path_factory):
    """Two dates of two scenes, of which the later one is a data set of another sensor, too."""
    folder = tmp_path_factory.mktemp("two-dates")
    write_scenes(folder / "scenes", scenes=2)
    write_scenes(folder / "later", scenes=2, seed=1)
    return write_catalog(folder, TWO)


@pytest.fixture(scope="module")
def trained(two_dates, tracking_uri, tmp_path_factory):
    """Folders of the same training on one process and on two, and what the first one said."""
    work, said = tmp_path_factory.mktemp("terms"), []
    for devices in (1, 2):
        done = (called if devices == 1 else forked)(
            "pretrain", "--catalog", two_dates, *BOTH, *options(*TERMS), "--precision", "32", "--devices", devices,
            "--tracking-uri", tracking_uri, "--out", f"on-{devices}", cwd=work,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stderr + done.stdout)
    return work, said[0]


def figures(folder, name):
    return {row["step"]: row[name] for row in history(folder) if name in row}


def test_two_processes_compute_what_one_does(trained):
    work, _ = trained
    for term in ("loss", "pixels", "places", "contrast", "textures"):
        alone, together = (figures(work / f"on-{devices}", f"train/{term}") for devices in (1, 2))
        assert list(alone) == list(range(1, 7)), term
        assert list(together.values()) == pytest.approx(list(alone.values()), rel=1e-5, abs=1e-7), term


def test_it_says_who_has_partners_and_keeps_no_head(trained):
    work, said = trained
    assert "tiny@train: " in said and "tiles share ground with another scene, by overlapping footprints" in said
    model = load_model(work / "on-1" / "model")
    assert model.provenance["objective"] == {"pixels": 1.0, "places": 1.0, "contrast": 0.5, "textures": 1.0}
    weights = load_file(work / "on-1" / "checkpoints" / "step-00000006" / "model.safetensors")
    heads = {name.split(".")[0] for name in weights} - {"kept"}
    assert heads == {"projection", "textures"}  # nor are filters stored, which the seed and the tiles decide


def test_the_report_tells_the_sum_of_all_terms_from_the_term_that_validation_has(trained):
    work, said = trained
    folder = work / "on-1"
    page = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    both, pixels = figures(folder, "train/loss"), figures(folder, "train/pixels")
    shown = f"The training loss that is shown during training, the sum of all terms, ends at {both[6]:.3g}; "
    assert f"loss {both[6]:.4f}" in said
    assert shown in page
    assert f"The term pixels of the training loss ends at {pixels[6]:.3g}; its first logged value was " in page


def test_going_on_after_a_kill_gives_the_same_bytes(trained, two_dates, tracking_uri, tmp_path):
    work, _ = trained
    again = tmp_path / "again"
    shutil.copytree(work / "on-1", again)
    for left in ("model", "checkpoints/step-00000006"):
        shutil.rmtree(again / left)
    (again / "summary.json").unlink()
    done = called("pretrain", "--resume", again, "--tracking-uri", tracking_uri, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert state(again) == state(work / "on-1")


def test_without_pixels_there_is_no_decoder_and_views_are_what_is_scored(two_dates, tracking_uri, tmp_path):
    changes = (*TINY, "objective.pixels=0", "objective.contrast=1", "eval_every=3", "masking.ratio=0.5")
    out = tmp_path / "run"
    request = PretrainOptions(
        catalog=two_dates, datasets=("tiny",), changes=changes, precision="32", out=out, tracking_uri=tracking_uri,
        quiet=True,
    )  # fmt: skip
    assert run(request) == 0
    assert load_model(out / "model").mae.decoder is None
    metrics = json.loads((out / "summary.json").read_text())["metrics"]
    assert metrics["loss/tiny@train-held-out"] > 0
    assert not any(name.startswith(("rmse/", "ratio/")) for name in metrics)
    assert not list((out / "pictures").glob("*step*"))


def test_weights_under_other_names_are_refused_in_one_line(trained, tracking_uri, tmp_path):
    """As a checkpoint of a version that knew no terms has them."""
    work, _ = trained
    old = tmp_path / "old"
    shutil.copytree(work / "on-1", old)
    shutil.rmtree(old / "model")
    (old / "summary.json").unlink()
    newest = max((old / "checkpoints").glob("step-*"))
    weights = load_file(newest / "model.safetensors")
    save_tensors({name.removeprefix("kept."): value for name, value in weights.items()}, newest / "model.safetensors")
    state = json.loads((newest / "state.json").read_text())
    state["files"]["model.safetensors"] = file_digest(newest / "model.safetensors")
    del state["digest"]
    (newest / "state.json").write_text(json.dumps(state | {"digest": digest(state)}))
    done = called("pretrain", "--resume", old, "--tracking-uri", tracking_uri, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {newest}: its weights are not those of the model")
    assert "Traceback" not in done.stderr


def test_a_collapse_is_said_once_when_it_stays():
    said = []
    reporter = SimpleNamespace(_low_ranks=0, screen=SimpleNamespace(say=said.append))
    ranks = [1.7, 1.8, 2.4, *[1.3] * (COLLAPSED_LOGS - 1), 2.1, *[1.2] * (COLLAPSED_LOGS + 3)]
    for number, rank in enumerate(ranks):
        Reporter._warn_of_collapse(reporter, 10 * number, rank)
    assert len(said) == 1
    assert "has collapsed" in said[0] and "effective rank 1.2" in said[0] and "lower optimizer.base_rate" in said[0]


@pytest.mark.parametrize(
    ("weights", "training", "what"),
    [
        ({"pixels": 1}, "train/loss", "mean squared error"),
        ({"pixels": 1, "textures": 1}, "train/pixels", "mean squared error"),
        ({"pixels": 0, "places": 1, "contrast": 1}, "train/contrast", "cross entropy"),
        ({"pixels": 0, "places": 1}, "train/loss", "cross entropy"),
    ],
)
def test_the_curve_of_losses_compares_like_with_like(weights, training, what):
    found = Reporter._curve(SimpleNamespace(data=SimpleNamespace(objective=Objective(**weights))))
    assert found["training"] == training and found["what"].startswith(what)


@pytest.fixture
def one_date(tmp_path):
    write_scenes(tmp_path / "scenes", scenes=2)
    return write_catalog(tmp_path)


def test_nobody_shows_the_ground_twice(one_date, tracking_uri, tmp_path, capsys):
    given = {"catalog": one_date, "precision": "32", "tracking_uri": tracking_uri}
    pairs_alone = (*TINY, "objective.pixels=0", "objective.textures=0")
    wanted = ["objective.places", "places: {column"]
    refuses(CatalogError, wanted, changes=pairs_alone, out=tmp_path / "no", **given)
    assert not (tmp_path / "no").exists()
    assert run(PretrainOptions(changes=(*TINY, "steps=1"), out=tmp_path / "run", **given)) == 0
    said = capsys.readouterr().err
    assert "objective.places is left out of the loss, since no tile is known to share ground with another" in said
    assert "if a column names the site of each scene, write `places: {column: NAME}` in the catalogue" in said
    assert load_model(tmp_path / "run" / "model").provenance["objective"] == {"pixels": 1.0, "textures": 1.0}


BAD = {
    "few tiles": (("batch=8",), ["batch: 8 tiles are too few", "16 or more"]),
    "passes": (("accumulate=2",), ["accumulate", "cannot be split over passes"]),
    "no term": (("objective.pixels=0", "objective.places=0"), ["give one of them a weight"]),
    "convolutional": (("model=cae", "embedding=stacked", "decoder.kind=full"), ["learns by pixels alone"]),
    "scales": (("data.scales=[1.2, 1.5]",), ["scales", "over 1, the tile itself"]),
    "gain": (("views.gain=1.5",), ["gain", "less than 1"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(case, two_dates, tmp_path):
    changes, parts = BAD[case]
    refuses(ConfigError, parts, catalog=two_dates, datasets=("tiny",), changes=changes, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
