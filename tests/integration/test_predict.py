"""`geomae predict` by a saved probe: the map, its accuracy and areas, reference points, and what is refused."""

import csv
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from helpers import mlflow_client, write_catalog
from rasterio.transform import xy

from geomae.commands import predict_report, probe
from geomae.commands.options import CommonOptions
from geomae.commands.predict import PredictOptions, run
from geomae.errors import GeomaeError
from geomae.models.architecture import Architecture
from geomae.models.finetuned import load_finetuned
from geomae.models.folder import Model, TrainedHead, save_model
from geomae.models.head_record import HeadRecord
from geomae.models.heads import build_head
from geomae.models.mae import MaskedAutoencoder
from geomae.prediction.folders import open_predictor
from geomae.prediction.shares import estimated_shares
from geomae.rasters import write_cog
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from geomae.tiles.radiometry import Radiometry

CATALOG = """\
version: 1
datasets:
  fields:
    path: scenes/*.tif
    sensor: naip
    bands: [red, green, blue, nir]
    unit: reflectance
    scale: 0.0001
    offset: 0
    tile: {size: 16}
    label: {raster: 'labels/{stem}.tif', classes: {7: water, 40: crop}, min_purity: 0.9}
    table: {path: scenes.csv, key: scene}
    split: {column: split}
    group: {column: site}
  rgb:
    path: scenes/*.tif
    sensor: naip
    bands: [red, green, blue, null]
    unit: reflectance
    scale: 0.0001
    offset: 0
    tile: {size: 16}
    table: {path: scenes.csv, key: scene}
    split: {column: split}
  counts:
    path: scenes/*.tif
    sensor: naip
    bands: [red, green, blue, nir]
    unit: digital_number
    tile: {size: 16}
"""
TRAINED, TESTED, SIDE = 10, 2, 64
PIXEL_HA = 25 / 1e4  # 5 m


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes of bright crops beside dark water, a catalogue of them, and a probe that tells them apart."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    rows = [["scene", "site", "split"]]
    for scene in range(TRAINED + TESTED):
        shore = 16 * int(rng.integers(1, 4))
        water_HW = np.broadcast_to(np.arange(SIDE) < shore, (SIDE, SIDE))
        pixels = np.where(water_HW, 300, 2000) + rng.integers(0, 200, (4, SIDE, SIDE))
        place = {"crs": "EPSG:32632", "transform": (5.0, 0.0, 4e5 + 1000 * scene, 0.0, -5.0, 5e6)}
        write_cog(folder / "scenes" / f"s{scene}.tif", pixels.astype(np.uint16), **place)
        write_cog(folder / "labels" / f"s{scene}.tif", np.where(water_HW, 7, 40)[None].astype(np.uint8), **place)
        rows.append([f"s{scene}", f"site{scene}", "train" if scene < TRAINED else "test"])
    with (folder / "scenes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    catalog = write_catalog(folder, CATALOG)
    request = probe.ProbeOptions(
        common(catalog, folder / "probe"), train="fields@train", tests=("fields@test",),
        encoders=("baseline:statistics",), baselines=False,
    )  # fmt: skip
    assert probe.run(request) == 0
    return folder


def common(catalog, out):
    return CommonOptions(
        catalog, out, device="cpu", precision="32", quiet=True, tracking_uri=f"sqlite:///{catalog.parent}/mlflow.db"
    )


def wish(folder, out, **changes):
    """A request to map the test scenes, but for what is wished otherwise."""
    usual = PredictOptions(
        common(folder / "data_catalog.yaml", out), folder / "probe/probes/baseline-statistics", ("fields@test",)
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def mapped(folder, tmp_path_factory):
    """The maps of the test scenes, with reference points on every fourth cell of the labels."""
    out = tmp_path_factory.mktemp("runs") / "map"
    rows = [["x", "y", "crs", "reference"]]
    for scene in range(TRAINED, TRAINED + TESTED):
        with rasterio.open(folder / "labels" / f"s{scene}.tif") as source:
            codes = source.read(1)
            for row, col in np.ndindex(16, 16):
                x, y = xy(source.transform, 4 * row + 1, 4 * col + 1)
                rows.append([x, y, "EPSG:32632", {7: "water", 40: "crop"}[int(codes[4 * row + 1, 4 * col + 1])]])
    with (folder / "reference.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert run(wish(folder, out, sample=folder / "reference.csv", probabilities=True)) == 0
    return out


def finetuned(folder, task, **changes):
    """A model folder with a head of random weights, which says that it was pretrained, fine-tuned and adapted."""
    bands = tuple(map(sensor("naip").band, ("red", "green", "blue", "nir")))
    known = SensorRecord("naip:reflectance", "reflectance", 5.0, bands, (0.1,) * 4, (0.08,) * 4)
    shape = Architecture(bands=4, patch=8, width=16, depth=1, heads=2, decoder=None)
    classes = () if task == "regression" else ("crop", "water")
    head = {
        "kind": "linear", "task": task, "classes": classes, "codes": (40, 7)[: len(classes)], "tile": 16,
        "bands": [band.name for band in bands], "sensor": known.name, "gsd_m": 5.0, "unit": "" if classes else "t/ha",
        "layer": 1, "class_shares": (0.5, 0.5)[: len(classes)], "colours": ("#ffbb22", "#0064c8")[: len(classes)],
    }  # fmt: skip
    pretrained = {"command": "pretrain", "mlflow_run": "r1", "dataset": ["fields@all"]}
    taught = {"task": task, "method": "full"}
    tuned = {"command": "finetune", "mlflow_run": "r2", "dataset": ["fields@train"], "finetuned": taught}
    moved = {"command": "adapt", "mlflow_run": "r3", "dataset": ["far"], "adapted": {"method": "lora", "target": "far"}}
    provenance = moved | {"from": tuned | {"from": pretrained}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(MaskedAutoencoder(shape), (known,), provenance)
        if task != "none":
            record = HeadRecord.model_validate(head | changes)
            model.head = TrainedHead(record, build_head(shape, record), {"fields": {"learned": ["s0:0:0"]}})
    save_model(model, folder)
    return folder


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_map_has_the_codes_names_and_place_of_the_labels(folder, mapped):
    for scene in range(TRAINED, TRAINED + TESTED):
        with (
            rasterio.open(mapped / f"map_s{scene}.tif") as made,
            rasterio.open(folder / f"labels/s{scene}.tif") as true,
        ):
            assert made.nodata == 255 and made.crs == true.crs and made.bounds == true.bounds
            assert made.res == (80, 80)  # a pixel of the map for each tile of 16 pixels of 5 m
            assert np.array_equal(made.read(1), true.read(1)[8::16, 8::16])
            assert made.colormap(1)[7][:3] == (0, 100, 200) and "water" in (mapped / f"map_s{scene}.qml").read_text()
        with rasterio.open(mapped / f"probabilities_s{scene}.tif") as shares:
            assert np.abs(shares.read().astype(int).sum(0) - 100).max() <= 1
            assert shares.descriptions == ("probability of crop, %", "probability of water, %")


def test_accuracy_and_areas_are_those_of_the_labels(folder, mapped):
    overall = [row for row in table(mapped / "accuracy.csv") if row["metric"] == "accuracy" and row["class"] == "all"]
    assert {row["dataset"] for row in overall} >= {"fields@test"} and {float(row["value"]) for row in overall} == {1.0}
    areas = {(row["scene"], row["class"]): row for row in table(mapped / "area.csv")}
    water = 0.0
    for scene in range(TRAINED, TRAINED + TESTED):
        with rasterio.open(folder / f"labels/s{scene}.tif") as true:
            pixels = int((true.read(1) == 7).sum())
        assert math.isclose(float(areas[f"s{scene}", "water"]["map_hectares"]), pixels * PIXEL_HA, rel_tol=2e-3)
        water += float(areas[f"s{scene}", "water"]["map_hectares"])
    every = areas["all", "water"]
    # All points agree with the map: the estimate is what the map counts, and its error cannot be estimated.
    assert float(every["hectares"]) == pytest.approx(water)
    assert (every["low"], every["high"]) == ("", "")
    assert every["note"] == f"not estimable: no variation among {every['n']} points" and every["n"] == every["n_map"]
    assert int(every["n"]) + int(areas["all", "crop"]["n"]) == TESTED * 256
    matrix = {row["map_class"]: row for row in table(mapped / "error_matrix.csv")}
    assert (matrix["water"]["points_water"], matrix["water"]["points_crop"]) == (every["n"], "0")
    assert float(matrix["water"]["area_water"]) == pytest.approx(float(matrix["water"]["map_share"]))
    assert float(matrix["all"]["area_water"]) * sum(
        float(areas["all", name]["hectares"]) for name in ("water", "crop")
    ) == pytest.approx(water)
    page = (mapped / "report.html").read_text(encoding="utf-8")
    assert "Accuracy from reference points" in page and "error_matrix.csv: rows are classes of the map" in page


def test_the_report_and_the_summary_tell_the_same(mapped):
    summary = json.loads((mapped / "summary.json").read_text())
    assert summary["command"] == "predict" and summary["metrics"]["maps"] == TESTED
    page = (mapped / "report.html").read_text(encoding="utf-8")
    assert "rows are classified correctly: without errors to fit, calibration is uncertain. High confidence is" in page
    assert "A pixel of the map is 16 x 16 pixels of the scene (80 m)" in page
    assert "the model saw windows of 16 pixels (80 m) that do not overlap." in page
    assert "overall accuracy 1.000 over 32 tiles" in page and "fewer than the 10 that an interval takes" in page


def test_tiles_that_were_learned_from_are_told_apart_and_few_of_many_maps_are_drawn(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_report, "MOST_MAPS", 1)
    assert run(wish(folder, tmp_path / "out", datasets=("fields[site=site0]", "fields[site=site10]"))) == 0
    tiles = {row["dataset"]: row["n_tiles"] for row in table(tmp_path / "out/accuracy.csv") if row["metric"] == "ece"}
    assert tiles == {"fields[site=site10]": "16", "fields[site=site0] (learned from)": "16"}
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "1 of 2 maps are shown: 1 where the confidence is lowest" in page
    assert page.count("<figcaption>fields: s") == 1
    assert "area.csv has every scene; all together" in page
    rows = table(tmp_path / "out/maps.csv")
    assert [float(row["level"]) for row in rows] == sorted(float(row["level"]) for row in rows)
    assert len(list((tmp_path / "out").glob("map_*.png"))) == 1
    assert all(f'<a href="{row["map"]}">{row["map"]}</a>' in page for row in rows)
    for row in rows:
        with rasterio.open(tmp_path / "out" / row["map"]) as made:
            assert math.isclose(
                float(row["share"]), (made.read(1) == {"water": 7, "crop": 40}[row["most_frequent"]]).mean()
            )
    assert "a map has at most 4 x 4 cells of 16 pixels" in page


@pytest.mark.parametrize(
    ("wished", "parts"),
    [
        ({"sample": "nowhere.csv"}, ["--sample", "nowhere.csv", "no such file"]),
        ({"sample": "unnamed.csv"}, ["no column `reference`", "did you mean 'refernce'"]),
        ({"sample": "foreign.csv"}, ["'marsh'", "the map has no such class", "biased without these points"]),
        ({"priors": "shares.csv"}, ["shares.csv", "sum to 0.7"]),
        ({"priors": "estimat"}, ["--priors estimat", "neither none nor estimate nor a file"]),
        ({"datasets": ("counts",)}, ["digital_number", "reflectance", "`scale`"]),
        ({"model": "probe"}, ["holds no model and no probe", "did you mean"]),
        ({"model": "headless"}, ["has no head", "geomae finetune --model"]),
        (
            {"model": "elsewhere"},
            ["baseline:statistics: is not the encoder that", "`geomae probe`"],
        ),
        ({"datasets": ("rgb",)}, ["rgb: has no band like nir", "(it has red, green, blue)", "`bands:`"]),
        ({"model": "numbers", "priors": "estimate"}, ["--priors estimate", "the model predicts numbers"]),
        ({"model": "numbers", "sample": "foreign.csv"}, ["foreign.csv", "the model predicts numbers"]),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(folder, tmp_path, wished, parts):
    (folder / "unnamed.csv").write_text("x,y,crs,refernce\n1,1,EPSG:32632,crop\n")
    (folder / "foreign.csv").write_text("x,y,crs,reference\n1,1,EPSG:32632,marsh\n")
    (folder / "shares.csv").write_text("class,share\ncrop,0.4\nwater,0.3\n")
    for name, task in {"headless": "none", "numbers": "regression"}.items():
        if not (folder / name).exists():
            finetuned(folder / name, task)
    shutil.copytree(folder / "probe/probes/baseline-statistics", folder / "elsewhere", dirs_exist_ok=True)
    told = json.loads((folder / "elsewhere/probe.json").read_text())
    (folder / "elsewhere/probe.json").write_text(json.dumps(told | {"encoder_digest": "0" * 64}))
    for key in ("sample", "model"):
        wished |= {key: folder / wished[key]} if key in wished else {}
    if "priors" in wished and wished["priors"].endswith(".csv"):
        wished["priors"] = str(folder / wished["priors"])
    with pytest.raises(GeomaeError) as refused:
        run(wish(folder, tmp_path / "out", **wished))
    assert all(part in str(refused.value) for part in parts), str(refused.value)
    assert not (tmp_path / "out").exists()


def test_reference_points_that_are_not_on_the_map(folder, mapped, tmp_path):
    far, learned = tmp_path / "far.csv", tmp_path / "learned.csv"
    far.write_text("x,y,crs,reference\n500000,5000000,EPSG:32632,crop\n")
    learned.write_text("x,y,crs,reference\n400010,4999990,EPSG:32632,water\n")  # in the first scene of the training
    with pytest.raises(GeomaeError, match="outside the map"):
        run(wish(folder, tmp_path / "a", sample=far))
    with pytest.raises(GeomaeError, match=r"1 of 1 points lie on ground that the model learned from.*train without"):
        run(wish(folder, tmp_path / "b", sample=learned, datasets=("fields[site=site0]",)))
    assert not list(tmp_path.glob("[ab]"))  # refused before anything is mapped


def test_points_on_ground_that_the_model_learned_from_are_left_out_and_counted(folder, tmp_path, capsys):
    """A sample of the whole map always has some; without them, its estimates are those of the other points alone."""
    rows = [
        f"{4e5 + 1000 * scene + 5 * col + 2},{5e6 - 5 * row - 2},EPSG:32632,{'crop' if (row + col) % 3 else 'water'}"
        for scene in (0, TRAINED)
        for row, col in ((8, 3), (9, 40), (30, 60), (50, 5), (60, 61))
    ]
    of_both = ("fields[site=site0]", "fields[site=site10]")
    for name, chosen, datasets in (("whole", rows, of_both), ("rest", rows[5:], of_both)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y,crs,reference", *chosen]))
        wanted = wish(folder, tmp_path / name, sample=tmp_path / f"{name}.csv", datasets=datasets)
        assert run(replace(wanted, common=replace(wanted.common, quiet=False))) == 0
    whole, rest = (table(tmp_path / name / "area.csv") for name in ("whole", "rest"))
    assert whole == rest
    told = " ".join(capsys.readouterr().err.split())
    assert "5 of 10 points lie on ground that the model learned from (" in told
    assert "50.0% of the map, and are left out" in told
    page = (tmp_path / "whole/report.html").read_text(encoding="utf-8")
    assert page.count("50.0% of the map, and are left out") == 1
    assert "left out" not in (tmp_path / "rest/report.html").read_text(encoding="utf-8")


def test_points_that_are_no_random_sample_of_the_map_are_told_of(folder, tmp_path, capsys):
    x, y = 4e5 + 1000 * TRAINED + 20, 5e6 - 20
    points = [f"{x + one % 5},{y - one // 5},EPSG:32632,water" for one in range(30)]
    for stratum in ("", ",water"):
        rows = ["x,y,crs,reference" + ",stratum" * bool(stratum), *(one + stratum for one in points)]
        (tmp_path / "points.csv").write_text("\n".join(rows))
        wanted = wish(folder, tmp_path / f"out{stratum}", sample=tmp_path / "points.csv")
        assert run(replace(wanted, common=replace(wanted.common, quiet=False))) == 0
        told = " ".join(capsys.readouterr().err.split())
        assert "the points are clustered: 30 points lie in 1 pixels of the map" in told
        by_chance = "water has 100% of the points and"
        assert (by_chance in told) is not bool(stratum)  # points of each stratum may be as many as one likes
        page = (tmp_path / f"out{stratum}/report.html").read_text(encoding="utf-8")
        assert page.count("the points are clustered") == 1
        assert "Remarks on the points limit what these estimates hold for" in page


def test_strata_that_the_map_lacks_and_another_map_in_the_folder(folder, mapped, tmp_path):
    strange = tmp_path / "strange.csv"
    for stratum, said in (("s3", "no scene that was mapped"), ("marsh", "'marsh'.*the map has no such class")):
        other = "s10" if stratum == "s3" else "crop"
        rows = [f"{4e5 + 1000 * TRAINED + 10},{5e6 - 10},EPSG:32632,crop,{one}" for one in (other, stratum)]
        strange.write_text("\n".join(["x,y,crs,reference,stratum", *rows]))
        with pytest.raises(GeomaeError, match=said):
            run(wish(folder, tmp_path / "a", sample=strange))
    with pytest.raises(GeomaeError, match=r"holds the results of another request, which differs in .*priors"):
        run(wish(folder, mapped, priors="estimate"))


def test_numbers_are_mapped_in_their_unit_and_the_report_says_what_they_rest_on(folder, tmp_path):
    """By a model of windows of one tile, so that each pixel of the map is what the model says of that tile."""
    model = finetuned(folder / "biomass", "regression", mean=40.0, std=25.0, gsd_m=2.0)
    assert run(wish(folder, tmp_path / "out", model=model)) == 0
    tuned = load_finetuned(model)
    with rasterio.open(tmp_path / "out/map_s10.tif") as made, rasterio.open(folder / "scenes/s10.tif") as scene:
        assert made.dtypes == ("float32",) and math.isnan(made.nodata) and made.units == ("t/ha",)
        values = made.read(1)
        pixels = torch.from_numpy(scene.read().astype(np.float32) / 10_000)
    tiles = pixels.unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).flatten(0, 1)
    assert values.ravel() == pytest.approx(tuned.logits(tiles)[:, 0].numpy(), rel=1e-5)
    assert not (tmp_path / "out/confidence_s10.tif").exists()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert "its pixels are 5 m, and the model learned from 2 m; `gsd_m: 2`" in summary["inputs"]["remarks"][0]
    assert "32 labels are not numbers, and are not scored" in summary["inputs"]["remarks"][1]
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    for number, step in enumerate(
        ("pretrained without labels on fields@all (run r1)",
         "fine-tuned (regression, full) with labels of fields@train (run r2)",
         "adapted (lora) to far without labels (run r3)", "Predicted here: fields@test"), start=1,
    ):  # fmt: skip
        assert f"{number}. {step}." in page
    tags = mlflow_client(f"sqlite:///{folder}/mlflow.db").get_run(summary["run_id"]).data.tags
    runs = {name: tags[f"geomae.{name}_run"] for name in ("pretrain", "finetune", "adapt", "model")}
    assert runs == {"pretrain": "r1", "finetune": "r2", "adapt": "r3", "model": "r3"}


def test_shares_of_a_file_correct_the_map(folder, tmp_path):
    """Where nothing can be water, nothing is."""
    (tmp_path / "shares.csv").write_text("class,share\ncrop,1\nwater,0\n")
    assert (
        run(wish(folder, tmp_path / "out", priors=str(tmp_path / "shares.csv"), datasets=("fields[site=site10]",))) == 0
    )
    with rasterio.open(tmp_path / "out/map_s10.tif") as made:
        assert (made.read(1) == 40).all()
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "crop 100.0% (in training 50.0%); water 0.0% (in training 50.0%)" in page and "Do not trust" not in page


@pytest.mark.parametrize(
    ("confusion", "said"),
    [
        ([[20, 1], [2, 30]], None),
        ([[10, 10], [15, 15]], "the confusion matrix is nearly singular"),
        ((), "no validation tile of crop, water"),
    ],
)
def test_shares_of_a_fine_tuned_model_are_judged_by_its_held_out_tiles(folder, tmp_path, confusion, said):
    model = open_predictor(finetuned(tmp_path / "model", "classification", confusion=confusion), torch.device("cpu"))
    rng = np.random.default_rng(0)
    share_NK = rng.dirichlet([0.3, 0.3], 200)
    record = replace(model.record, steps=model.record.steps[:2])
    reasons = [estimated_shares(one, share_NK, np.arange(200), [f"g{i}" for i in range(200)], 0).estimate.reasons
               for one in (record, model.record)]  # fmt: skip
    assert len(reasons[0]) == (said is not None) and (said or "") in " ".join(reasons[0])
    assert "adapted after its probabilities were calibrated" in reasons[1][-1]


def test_a_radiometry_comes_before_a_fine_tuned_model(folder, tmp_path):
    """Digital numbers through a known gain give the map of the reflectance; a probe has its own radiometry."""
    model = finetuned(tmp_path / "model", "segmentation")
    bands = tuple(map(sensor("naip").band, ("red", "green", "blue", "nir")))
    imagery = SensorRecord("naip:reflectance", "reflectance", 5.0, bands, (0.1,) * 4, (0.08,) * 4)
    taken, empty = tuple(band.name for band in bands), np.zeros((4, 0))
    gain = Radiometry("quantiles", "fields", "counts", taken, imagery, 1e-4 * np.eye(4), np.zeros(4), empty, empty)
    gain.save(tmp_path / "radiometry")
    through = {"model": model, "radiometry": tmp_path / "radiometry"}
    assert run(wish(folder, tmp_path / "direct", model=model)) == 0
    assert run(wish(folder, tmp_path / "mapped", datasets=("counts",), **through)) == 0
    for scene in range(TRAINED, TRAINED + TESTED):
        codes = [rasterio.open(tmp_path / name / f"map_s{scene}.tif").read(1) for name in ("direct", "mapped")]
        assert (codes[0] == codes[1]).mean() > 0.999  # but for roundings
    replace(gain, weight_DC=2e-4 * np.eye(4)).save(tmp_path / "radiometry")
    with pytest.raises(GeomaeError, match="radiometry_digest"):
        run(wish(folder, tmp_path / "mapped", datasets=("counts",), **through))
    with pytest.raises(GeomaeError, match="a probe is saved with its own"):
        run(wish(folder, tmp_path / "probe", radiometry=tmp_path / "radiometry"))


def test_scenes_smaller_than_a_window_are_counted(folder, tmp_path, capsys):
    model = finetuned(tmp_path / "wide", "segmentation", tile=96)
    wished = wish(folder, tmp_path / "out", model=model)
    assert run(replace(wished, common=replace(wished.common, dry_run=True, quiet=False))) == 0
    assert "2 of 2 scenes are smaller than a window of 96 pixels" in "".join(capsys.readouterr())


def test_what_is_said_of_tiles_is_not_said_of_reference_points(folder, mapped, tmp_path):
    """With reference points alone, the page explained intervals over groups of tiles, which there were none of."""
    record = open_predictor(folder / "probe/probes/baseline-statistics", torch.device("cpu")).record
    only = predict_report.Results(record, [], [], None, None, None, None, [])
    assert list(predict_report._accuracy_sections(only, tmp_path)) == []
    page = (mapped / "report.html").read_text(encoding="utf-8")
    of_points = page.rindex("Accuracy from reference points")
    assert page.index("measured on the selected tiles only") < of_points < page.index("by the normal approximation")
