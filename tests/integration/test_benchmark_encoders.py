"""The benchmark of encoders: every labelled set of a catalogue, one table; what was computed is found again."""

import csv
import json

import numpy as np
import pytest
import torch
from helpers import called, contents, write_catalog

from geomae import load_encoder, open_catalog
from geomae.models.architecture import Architecture
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.rasters import write_cog
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from geomae.tiles.batches import TileReader
from geomae.tiles.selection import select_tiles
from pipelines import benchmark_encoders, benchmark_runs
from pipelines.benchmark_tasks import Tiles, Wish, wished_tasks

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
    group: {column: scene_id, folds: site}
  seasons:
    <<: *fields
    split: {column: whole}
    group: {column: site}
    domain: {column: season}
  pixels:
    <<: *fields
    label: {raster: 'labels/{stem}.tif', classes: {1: crop, 2: tree}}
  alone:
    <<: *fields
    split: {column: whole}
  unlabelled:
    path: scenes/*.tif
    sensor: naip
    unit: reflectance
    scale: 0.0001
    offset: 0
    tile: {size: 16}
"""
SCORE = """\
tasks:
  to brown: {train: 'seasons[season=green]', test: 'seasons[season=brown]', folds: 2, measures: [linear]}
  by sites: {train: fields@train, folds: 2, by: fold, measures: [linear-5, knn5]}
"""
TRAINED, TESTED = 6, 10


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """A catalogue of scenes of 2 x 4 fields of two classes, which differ in reflectance, and two models."""
    folder = tmp_path_factory.mktemp("fields")
    rng, rows = np.random.default_rng(0), []
    for scene in range(TRAINED + TESTED):
        kind = rng.permutation(np.arange(8) % 2).reshape(2, 4)
        level = np.array([[900, 700, 400, 3000], [600, 650, 300, 2200]])[kind].transpose(2, 0, 1)
        level = level * rng.uniform(0.6, 1.5, (4, 2, 4))
        pixels = level.repeat(16, 1).repeat(16, 2) + rng.normal(0, 60, (4, 32, 64))
        place = (5.0, 0.0, 400_000.0 + 1000 * scene, 0.0, -5.0, 5_000_000.0)
        for name, values in (("scenes", pixels), ("labels", kind.repeat(16, 0).repeat(16, 1)[None] + 1)):
            whole = values.clip(1).astype(np.uint16)
            write_cog(folder / name / f"s{scene:02d}.tif", whole, crs="EPSG:32632", transform=place)
        for row, col in np.ndindex(2, 4):
            rows.append({
                "scene": f"s{scene:02d}", "row": 16 * row, "col": 16 * col, "label": ("crop", "tree")[kind[row, col]],
                "split": "train" if scene < TRAINED else "test", "whole": "train", "scene_id": f"g{scene:02d}",
                "site": f"site{scene // 2}", "season": ("green", "brown")[scene % 2],
            })  # fmt: skip
    with (folder / "windows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_catalog(folder, CATALOG)
    (folder / "score.yaml").write_text(SCORE)
    for number in range(2):
        save(folder / f"run{number}", seed=number)
    return folder


def save(run, patch=8, seed=0):
    """A small model of NAIP that was never trained."""
    record = SensorRecord("naip", "reflectance", 5.0, sensor("naip").bands, (0.1,) * 4, (0.05,) * 4)
    torch.manual_seed(seed)
    mae = MaskedAutoencoder(Architecture(bands=4, patch=patch, width=24, depth=2, heads=2, decoder=None))
    run.mkdir()
    save_model(Model(mae, (record,), {}), run / "model")


def benchmark(folder, *arguments):
    return called("--catalog", "data_catalog.yaml", *arguments, cwd=folder, program=benchmark_encoders.main)


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(fields):
    asked = ("--encoder", "mine=run0/model,run1/model", "--out", "out")
    first = benchmark(fields, *asked)
    assert first.returncode == 0, first.stderr
    before = contents(fields / "out" / "embeddings") + contents(fields / "out" / "predictions")
    again = benchmark(fields, *asked)
    assert again.returncode == 0, again.stderr
    after = contents(fields / "out" / "embeddings") + contents(fields / "out" / "predictions")
    return fields, first, again, before, after


def test_every_labelled_set_makes_its_tasks(done):
    folder, first, *_ = done
    rows = table(folder / "out" / "benchmark.csv")
    tasks = {(row["task"], row["test"]) for row in rows}
    assert tasks == {
        ("fields", "fields@test"),
        ("pixels", "pixels@test"),
        ("seasons green to brown", "seasons[domain=brown]@train"),
        ("seasons brown to green", "seasons[domain=green]@train"),
    }
    assert "left out: alone: has no train split with labels and a test split" in first.stdout
    assert "in 3 folds by group" in next(line for line in first.stdout.splitlines() if line.startswith("seasons green"))
    mine = [row for row in rows if row["encoder"] == "mine" and row["task"] == "fields"]
    few = ("linear-10", "linear-5", "linear-1")  # no class has fifty tiles
    names = ("linear", "knn5", "knn20", *few)
    plus = {f"{name} minus baseline-random" for name in names}
    assert {row["measure"] for row in mine} == {*names, *plus, "effective_rank"}
    assert {row["measure"] for row in rows if row["task"] == "pixels"} == {
        "segmentation", "segmentation minus baseline-random"
    }  # fmt: skip
    by_seed = [float(row["value"]) for row in mine if row["measure"] == "knn5" and row["seed"] != ""]
    mean = next(row for row in mine if row["measure"] == "knn5" and row["seed"] == "")
    assert len(by_seed) == 2
    assert float(mean["value"]) == pytest.approx(np.mean(by_seed))
    assert float(mean["low"]) <= float(mean["value"]) <= float(mean["high"])
    assert (mean["n"], mean["n_groups"]) == (str(8 * TESTED), str(TESTED))
    untrained = {row["seed"] for row in rows if row["encoder"] == "baseline-random"}
    assert untrained == {"", "0", "1", "2", "3", "4"}


def test_a_second_run_computes_nothing_and_says_the_same(done):
    _, first, again, before, after = done
    assert before == after
    assert again.stdout == first.stdout
    assert "embedding" in first.stderr
    assert "embedding" not in again.stderr


def test_figures(done):
    folder, *_ = done
    assert (folder / "out" / "benchmark.png").stat().st_size > 20_000
    assert not (folder / "out" / "curve.png").exists()
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert "linear/fields@test/fields/mine" in summary["metrics"]


def test_the_effective_rank_is_that_of_the_raw_embeddings(done):
    folder, *_ = done
    (whole,) = select_tiles(open_catalog(folder / "data_catalog.yaml"), ["fields@test"])
    encoder = load_encoder(folder / "run0" / "model", layer=1, pooling="mean-std", imagery=whole.imagery)
    pixels, valid = TileReader(whole.index, 0, [band.name for band in encoder.bands]).many(range(len(whole.index)))
    embedding_TD = encoder.embed(torch.from_numpy(pixels), torch.from_numpy(valid))[0].double().numpy()
    share = np.linalg.eigvalsh(np.cov(embedding_TD.T)).clip(1e-15)
    share /= share.sum()
    rows = table(folder / "out" / "benchmark.csv")
    wanted = {"encoder": "mine", "task": "fields", "measure": "effective_rank", "seed": "0"}
    (row,) = [one for one in rows if all(one[key] == value for key, value in wanted.items())]
    assert float(row["value"]) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=0.02)


def test_what_was_stopped_half_way_goes_on(fields, done, monkeypatch):
    """The work ends after the second encoder; what it had done is not done again, and the table is that of one run."""
    write, written = benchmark_runs.write_predictions, []

    def limited(path, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rest)

    asked = (
        "--encoder",
        "mine=run0/model,run1/model",
        "--task",
        "fields: fields@train -> fields@test",
        "--out",
        "half",
    )
    monkeypatch.setattr(benchmark_runs, "write_predictions", limited)
    assert benchmark(fields, *asked).returncode == 130
    monkeypatch.undo()
    before = [(path, path.stat().st_mtime_ns) for path in written]
    assert benchmark(fields, *asked).returncode == 0
    assert before == [(path, path.stat().st_mtime_ns) for path in written]
    kept = [row for row in table(fields / "out" / "benchmark.csv") if row["task"] == "fields"]
    assert table(fields / "half" / "benchmark.csv") == kept


def test_a_score_is_the_mean_of_its_measures(fields):
    curve = ("--encoder", "mine-1min=run0/model", "--encoder", "mine-2min=run1/model")
    asked = (
        "--score",
        "score.yaml",
        *curve,
        "--encoder",
        "pair=seasons:run0/model,fields:run1/model",
        "--out",
        "score",
    )
    done = benchmark(fields, *asked)
    assert done.returncode == 0, done.stderr
    rows = table(fields / "score" / "benchmark.csv")

    def value(encoder, task, measure):
        found = [
            row for row in rows
            if (row["encoder"], row["task"], row["measure"], row["seed"]) == (encoder, task, measure, "")
        ]  # fmt: skip
        return float(found[0]["value"])

    parts = [("to brown", "linear"), ("by sites", "linear-5"), ("by sites", "knn5")]
    for one in ("mine-1min", "baseline-random"):
        assert value(one, "score", "score") == pytest.approx(np.mean([value(one, *part) for part in parts]))
    assert value("pair", "to brown", "linear") == value("mine-1min", "to brown", "linear")
    assert value("pair", "by sites", "knn5") == value("mine-2min", "by sites", "knn5")
    asked_by_sites = {row["measure"] for row in rows if row["task"] == "by sites" and " minus " not in row["measure"]}
    assert asked_by_sites == {"linear-5", "knn5", "knn20", "effective_rank"}
    assert (fields / "score" / "curve.png").stat().st_size > 10_000
    assert "| pair | " in done.stdout


def test_folds_of_a_score_keep_a_site_on_one_side(fields):
    catalog = open_catalog(fields / "data_catalog.yaml")
    tiles = Tiles(select_tiles(catalog, ["fields"]))
    for by, column in (("fold", "fold"), ("group", "group")):
        (task,) = wished_tasks({"t": Wish(train="fields@train", folds=3, by=by)}, tiles, catalog, 0)
        names = task.probe.train.index.tiles[column].to_numpy()
        for plan in task.probe.plans:
            assert not set(names[plan.train]) & set(names[plan.tests["fields@train"]])
        tested = np.concatenate([plan.tests["fields@train"] for plan in task.probe.plans])
        assert sorted(tested) == list(range(8 * TRAINED))


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (["--task", "fields@train"], ["write 'NAME: TRAIN -> TEST'"]),
        (["--encoder", "mine=feilds:run0/model"], ["no task trains on a data set 'feilds'", "fields"]),
        (["--encoder", "run0/model,run1/model"], ["need a NAME="]),
        (["--score", "touching.yaml"], ["'t'", "fields@test has tiles of test", "train splits alone"]),
        (["--score", "unknown.yaml"], ["measure 'knn7'", "knn"]),
        (["--score", "--task", "a: fields@train -> fields@test"], ["--task"]),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(fields, asked, parts):
    (fields / "touching.yaml").write_text("tasks: {t: {train: fields@train, test: fields@test}}")
    (fields / "unknown.yaml").write_text("tasks: {t: {train: fields@train, folds: 2, measures: [knn7]}}")
    wrong = benchmark(fields, *asked, "--out", "no")
    assert wrong.returncode == 2
    message = wrong.stderr.splitlines()[-1]
    assert message.startswith("error: ")
    for part in parts:
        assert part in message, message
    assert not (fields / "no").exists()


def test_a_dry_run_writes_nothing(fields):
    dry = benchmark(fields, "--encoder", "run0/model", "--dry-run", "--out", "no")
    assert dry.returncode == 0, dry.stderr
    assert "fields: classification, fields@train (48) -> fields@test (80)" in dry.stdout
    assert "encoders: run0, baseline-random" in dry.stdout
    assert not (fields / "no").exists()


def test_an_encoder_that_cannot_take_the_tiles_is_left_out(fields):
    save(fields / "run2", patch=12)
    task = ("--task", "t: fields@train -> fields@test")
    done = benchmark(fields, "--encoder", "run2/model", *task, "--out", "partly")
    assert done.returncode == 0, done.stderr
    assert "run2 is left out of fields: " in done.stdout
    assert "run2" not in {row["encoder"] for row in table(fields / "partly" / "benchmark.csv")}
