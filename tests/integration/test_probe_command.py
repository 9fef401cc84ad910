"""`geomae probe` from the catalogue to the table and the report."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import called, mlflow_client, refused, write_catalog
from processes import forked
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from geomae import open_catalog, open_embeddings
from geomae.commands import probe_report
from geomae.commands.options import CommonOptions
from geomae.commands.probe import ProbeOptions, encoder_specs, run
from geomae.errors import BandMismatchError, CatalogError, ConfigError
from geomae.evaluation.alignment_choice import Choice
from geomae.evaluation.forest import predict_forest
from geomae.evaluation.methods import METHODS
from geomae.evaluation.probe_predictions import DRAWS, PredictionKey
from geomae.evaluation.probe_scores import ProbeRow
from geomae.evaluation.probe_task import ProbeSettings, read_probe_task
from geomae.models.architecture import Architecture
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.prediction.folders import open_predictor
from geomae.rasters import write_cog
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import select_tiles, share_bands

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
  validated:
    <<: *fields
    split: {column: split_val}
  seasons:
    <<: *fields
    split: {column: none}
    group: {column: site}
  numbers:
    <<: *fields
    label: {column: level}
  unlabelled:
    <<: *fields
    label: {column: nothing}
  pixels:
    <<: *fields
    label: {raster: 'labels/{stem}.tif', classes: {1: crop, 2: tree, 3: water}}
  twelve:
    <<: *fields
    windows: {table: windows.csv, key: scene, row: row, col: col, size: 12}
  infrared:
    <<: *fields
    bands: [red, green, null, nir]
  thermal:
    <<: *fields
    sensor: [{name: lwir11, wavelength_um: 10.9, fwhm_um: 0.6}]
    bands: [lwir11, null, null, null]
"""
KINDS = ("crop", "tree", "water")
TRAINED, TESTED = 12, 11  # scenes, each a group; the last is tested on alone


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> Path:
    """A catalogue of scenes of 4 x 4 fields; a field's class decides its reflectance, more or less."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    rows = []
    for scene in range(TRAINED + TESTED):
        kind = rng.integers(0, 3, (4, 4))
        level = np.array([[900, 700, 400, 3000], [500, 600, 300, 2200], [600, 500, 500, 400]])[kind]
        level = level.transpose(2, 0, 1) * rng.uniform(0.5, 1.6, (4, 4, 4))
        pixels = level.repeat(16, 1).repeat(16, 2) + rng.normal(0, 60, (4, 64, 64))
        place = (5.0, 0.0, 400_000.0 + 1000 * scene, 0.0, -5.0, 5_000_000.0)
        for name, values in (("scenes", pixels), ("labels", kind.repeat(16, 0).repeat(16, 1)[None] + 1)):
            whole = values.clip(1).astype(np.uint16)
            write_cog(folder / name / f"s{scene:02d}.tif", whole, crs="EPSG:32632", transform=place)
        for row, col in np.ndindex(4, 4):
            rows.append({
                "scene": f"s{scene:02d}", "row": 16 * row, "col": 16 * col, "label": KINDS[kind[row, col]],
                "split": "train" if scene < TRAINED else "test", "scene_id": f"g{scene:02d}", "nothing": "",
                "split_val": "val" if scene in (1, 5) else "train" if scene < TRAINED else "test", "none": "train",
                "site": f"site{scene % TRAINED}", "season": "green" if scene < TRAINED else "brown",
                "level": round(float(level[3, row, col]) / 1e4, 5), "last": str(scene == TRAINED + TESTED - 1),
                "odd": "x" if scene else "", "wet": str(kind[row, col] == 2),
            })  # fmt: skip
    with (folder / "windows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return write_catalog(folder, CATALOG)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small model that was never trained, and says which run made it."""
    folder = tmp_path_factory.mktemp("model") / "hardly" / "model"
    bands = tuple(sensor("sentinel-2-l2a").band(name) for name in ("B02", "B04", "B8A"))
    record = SensorRecord("s2", "reflectance", 10.0, bands, (0.1, 0.1, 0.2), (0.05, 0.05, 0.1))
    torch.manual_seed(0)
    mae = MaskedAutoencoder(Architecture(bands=3, patch=8, width=24, depth=2, heads=2, decoder=None))
    folder.parent.mkdir()
    save_model(Model(mae, (record,), {"mlflow_run": "made-by-this"}), folder)
    return folder


@pytest.fixture
def request_for(fields, tracking_uri, tmp_path):
    """A request to probe statistics on `fields`, but for what is wished otherwise."""

    def build(catalog: Path = fields, **wishes) -> ProbeOptions:
        common = CommonOptions(
            catalog, tmp_path / "out", device="cpu", precision="32", tracking_uri=tracking_uri, quiet=True
        )
        usual = {"train": "fields@train", "tests": ("fields@test",), "encoders": ("baseline:statistics",)}
        return ProbeOptions(common, **(usual | {"baselines": False} | wishes))

    return build


def table(out: Path) -> list[dict[str, str]]:
    with (out / "probe.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figure(rows, encoder="baseline-statistics", method="linear", metric="balanced_accuracy", **where) -> float:
    usual = {"encoder": encoder, "method": method, "metric": metric, "shots": "all", "class": "all", "seed": ""}
    where = usual | where
    (found,) = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return float(found["value"])


def by_hand(folder: Path, learn: str, judge: str, strength: float, label="baseline-statistics") -> float:
    """Balanced accuracy of scikit-learn's own logistic regression on the embeddings that the command left."""
    store = open_embeddings(folder / "embeddings" / label)
    split, name = store["split"].to_numpy(), store["label"].to_numpy()
    embedding = store["embedding"].to_numpy().astype(np.float64)
    values = StandardScaler().fit(embedding[split == learn]).transform(embedding)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=10_000, tol=1e-7)
    guess = model.fit(values[split == learn], name[split == learn]).predict(values[split == judge])
    truth = name[split == judge]
    return float(np.mean([np.mean(guess[truth == one] == one) for one in np.unique(truth)]))


def test_the_command_from_end_to_end(fields, model, tracking_uri, tmp_path, capsys):
    out = tmp_path / "out"
    done = forked(
        "probe", "--catalog", fields, "--train", "fields@train", "--test", "fields@test", "--encoder", model,
        "--precision", "32", "--tracking-uri", tracking_uri, "--out", out, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = table(out)
    assert list(rows[0]) == [
        *("encoder", "task", "train", "test", "align", "method", "shots", "class", "metric", "value", "low", "high"),
        *("n_train", "n_test", "n_groups", "seed", "chosen"),
    ]
    labels = ["hardly", "baseline-statistics", "baseline-rcf", "baseline-random"]
    assert list(dict.fromkeys(row["encoder"] for row in rows)) == labels
    assert {row["seed"] for row in rows if row["encoder"] == "baseline-random"} == {"", "0", "1", "2", "3", "4"}
    assert {row["shots"] for row in rows} == {"all", "1", "5", "10", "50"}
    assert (rows[0]["n_train"], rows[0]["n_test"], rows[0]["n_groups"]) == ("192", "176", "11")
    for name in labels:
        assert figure(rows, name) > 0.5, name
        assert f"{figure(rows, name):.3f}" in done.stdout
    figure(rows, "hardly", metric="difference_to_best_baseline")
    pictures = [f"probe_confusion_{name}.png" for name in labels] + ["probe_scores.png", "probe_few_labels.png"]
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "5 folds of the training tiles by group (12 groups)" in page
    (answer,) = re.findall(r'<p class="lead">(.*?)</p>', page)
    assert answer.startswith("fields@test: hardly has balanced accuracy")  # the answer comes first
    assert answer in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    key = "balanced_accuracy/fields@test/hardly/linear"
    assert summary["metrics"][key] == figure(rows, "hardly")
    assert summary["inputs"]["model_runs"] == {"hardly": "made-by-this"}
    client = mlflow_client(tracking_uri)
    logged = client.get_run(summary["run_id"])
    assert logged.data.metrics[key.replace("@", "_")] == summary["metrics"][key]
    assert logged.data.params["model_run.hardly"] == "made-by-this"
    artifacts = {one.path for one in client.list_artifacts(summary["run_id"])}
    assert {"probe.csv", "report.html", *pictures} <= artifacts
    before = (out / "probe.csv").read_bytes()
    common = CommonOptions(fields, out, precision="32", tracking_uri=tracking_uri)
    assert run(ProbeOptions(common, "fields@train", ("fields@test",), (str(model),))) == 0
    assert "embedding" not in capsys.readouterr().err  # what was computed is there
    assert (out / "probe.csv").read_bytes() == before


def test_the_strength_that_was_fixed_gives_what_scikit_learn_gives(request_for, tmp_path):
    assert run(request_for(strength=0.3)) == 0
    assert figure(table(tmp_path / "out")) == pytest.approx(by_hand(tmp_path / "out", "train", "test", 0.3))


def test_a_validation_split_chooses_and_trains_nothing(request_for, tmp_path):
    wishes = {"train": "validated@train", "tests": ("validated@test",)}
    assert run(request_for(**wishes)) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    (strength,) = summary["inputs"]["strengths"]["baseline-statistics"]
    rows = table(tmp_path / "out")
    assert rows[0]["n_train"] == str(16 * (TRAINED - 2))
    assert figure(rows) == pytest.approx(by_hand(tmp_path / "out", "train", "test", strength))
    assert "the validation split (32 tiles)" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_cross_fitting(request_for, tmp_path):
    wishes = {"train": "seasons[season=green]", "tests": ("seasons[season=brown]",)}
    with pytest.raises(ConfigError, match=r"11 groups occur in --train .*\(site0, .*--cross-fit 3"):
        run(request_for(**wishes))
    assert not (tmp_path / "out").exists()
    assert run(request_for(cross_fit=3, **wishes)) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert len(summary["inputs"]["strengths"]["baseline-statistics"]) == 3
    assert figure(table(tmp_path / "out")) > 0.5


def test_what_is_trained_on_can_be_tested_with_cross_fitting(request_for, tmp_path):
    assert run(request_for(train="fields@test", tests=("fields@test",), cross_fit=3)) == 0
    assert figure(table(tmp_path / "out")) > 0.5


def test_alignments_are_chosen_without_labels_of_the_test(request_for, fields, tmp_path):
    """Noise in the place of the test's labels changes scores, and nothing else."""
    noisy = tmp_path / "noisy"
    shutil.copytree(fields.parent, noisy)
    with (fields.parent / "windows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    brown = [row for row in rows if row["season"] == "brown"]
    for row, label in zip(brown, np.random.default_rng(0).permutation([row["label"] for row in brown]), strict=True):
        row["label"] = label
    with (noisy / "windows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    # Pixels carry neither of these: bands are the same, and hardly one pixel stayed as it was.
    found, kept = [], set(METHODS) - {"band-adjustment", "invariant-pixels"}
    wishes = {"train": "seasons[season=green]", "tests": ("seasons[season=brown]",), "cross_fit": 3, "align": ("all",)}
    for name, catalog in (("true", fields), ("noise", noisy / fields.name)):
        request = request_for(catalog, **wishes)
        assert run(replace(request, common=replace(request.common, out=tmp_path / name))) == 0
        rows = table(tmp_path / name)
        assert {row["align"] for row in rows} == kept
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        record = summary["inputs"]["alignments"]["baseline-statistics"]["seasons[season=brown]"]
        assert {row["align"] for row in rows if row["chosen"] == "true"} == {record["chosen"]}
        assert record["paired"]
        folders = [tmp_path / name / folder for folder in ("alignments", "probes")]
        weights = [path.read_bytes() for folder in folders for path in sorted(folder.rglob("*.safetensors"))]
        found.append((record, weights, figure(rows, align="coral"), figure(rows, align="none")))
        assert "Alignments" in (tmp_path / name / "report.html").read_text(encoding="utf-8")
    assert found[0][:2] == found[1][:2]
    assert min(found[0][2:]) > max(found[1][2:])


def test_a_probe_behind_a_radiometry_predicts_from_mapped_pixels(request_for, fields, tmp_path, monkeypatch):
    monkeypatch.setattr("geomae.evaluation.probe.choose", lambda evidence: Choice("quantiles", "said so"))
    brown = "seasons[season=brown]"
    wishes = {"train": "seasons[season=green]", "tests": (brown,), "cross_fit": 3, "align": ("quantiles",)}
    assert run(request_for(**wishes)) == 0
    out = tmp_path / "out"
    folder = open_predictor(out / "probes" / "baseline-statistics", torch.device("cpu"))
    (selected,) = select_tiles(open_catalog(fields), [brown])
    model = folder.fit(selected.imagery, selected.selector, torch.device("cpu"))
    reader = TileReader(selected.index, 0, model.bands)
    share_TK = model.predict(*map(torch.from_numpy, reader.many(range(len(reader))))).numpy()
    stored = open_embeddings(out / "embeddings" / "quantiles-test0" / "baseline-statistics")
    assert stored["tile_id"].to_numpy().tolist() == selected.index.tiles["tile_id"].tolist()
    direct_TK = folder.aligned[brown].apply(stored["embedding"].to_numpy())
    np.testing.assert_allclose(share_TK, direct_TK, atol=1e-5)
    assert not np.allclose(share_TK, folder.plain.apply(stored["embedding"].to_numpy()), atol=1e-2)
    plain = folder.fit(selected.imagery, None, torch.device("cpu"))
    assert plain.radiometry is None
    with pytest.raises(ConfigError, match="--align band-adjustment"):
        same_bands = request_for(**wishes | {"align": ("band-adjustment",)})
        run(replace(same_bands, common=replace(same_bands.common, out=tmp_path / "other")))


def test_a_class_that_the_test_hardly_has_is_named_with_a_remedy(request_for, fields, tmp_path, capsys):
    rare = tmp_path / "rare"
    shutil.copytree(fields.parent, rare)
    with (fields.parent / "windows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wet = [row for row in rows if row["split"] == "test" and row["label"] == "water"]
    kept = [row for row in wet if row["scene"] == wet[0]["scene"]][:2]
    for row in wet:
        row["label"] = "water" if row in kept else "crop"
    with (rare / "windows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    asked = request_for(rare / fields.name, encoders=("a-model-with-a-long-name=baseline:statistics",))
    assert run(replace(asked, common=replace(asked.common, quiet=False))) == 0
    shown = capsys.readouterr()
    warning = (
        "fields@test: water has 2 tiles in 1 group, too few for a sound score; every class counts equally in balanced "
        "accuracy; the interval does not hold this uncertainty: about 35% of its resamples lack water and average the "
        "other classes alone; test on more groups with it, or leave it out of averages with --min-class-rows 3"
    )
    assert f"warning: {warning}" in shown.err
    assert f"Warning: {warning}." in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    *_, finer, following = shown.err.splitlines()
    assert finer == (
        "maps of fields would have at most 4 x 4 cells, one for each 16 pixels; for finer maps first write `tile: "
        "{size: 16, stride: 2}` for a data set without `windows`"
    )
    assert following.startswith("next: geomae predict --model ")
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "<h1>Probe of fields@train on fields@test</h1>" in page
    assert "fields@test has water in fewer than 10 groups, too few for an interval." in page
    classes = page[page.index(">Classes</h2>") :]
    assert re.search(r">water</td>\s*<td[^>]*>2</td>\s*<td[^>]*>1</td>", classes)  # tiles and groups
    lines = shown.out.splitlines()
    table_ = lines[lines.index("balanced accuracy on fields@test, and accuracy and macro F1 of the linear probe") :][:3]
    assert table_[1].split("  ")[0] == "encoder"
    right = figure(table(tmp_path / "out"), "a-model-with-a-long-name", metric="accuracy")
    assert f" {right:.3f} " in table_[2]
    assert max(map(len, table_)) <= 100
    again = replace(asked, min_class_rows=3, common=replace(asked.common, out=tmp_path / "without"))
    assert run(again) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_class_that_the_test_lacks_is_named_and_so_is_a_missing_interval(request_for, tmp_path, capsys):
    asked = request_for(tests=("fields[label in crop|tree,last=True]",))
    assert run(replace(asked, common=replace(asked.common, quiet=False))) == 0
    shown, page = capsys.readouterr(), (tmp_path / "out/report.html").read_text(encoding="utf-8")
    name = asked.tests[0]
    warning = (
        f"{name}: no tile of water, so balanced accuracy is the mean of 2 of 3 classes; test on tiles of it, too, or "
        "give --cross-fit 3 and the same tiles for --train and --test"
    )
    assert f"warning: {warning}\n" in shown.err
    assert f"Warning: {warning}." in page
    right = figure(table(tmp_path / "out"))
    lead = (
        f"baseline-statistics has balanced accuracy {right:.3f} on {name}. There is no other encoder to compare with."
    )
    assert f'<p class="lead">{lead}</p>' in page
    reason = f"{name}: no 95 % intervals, since they take 10 groups, and it has 1."
    lines = shown.out.splitlines()
    assert lines[lines.index(reason) - 1].startswith("baseline-statistics")  # under the table
    assert reason in page


@pytest.mark.parametrize(
    ("data", "wish"),
    [("fields", {"forest": True}), ("fields", {"align": ("coral",)}), ("numbers", {"task": "regression"})],
)
def test_a_fold_of_cross_fitting_may_have_no_test_tile(request_for, tmp_path, monkeypatch, data, wish):
    monkeypatch.setattr("geomae.evaluation.forest.TREES", 5)
    assert run(request_for(train=data, tests=(f"{data}[last=True]",), cross_fit=2, **wish)) == 0
    assert {row["n_groups"] for row in table(tmp_path / "out")} == {"1"}


def test_the_forest_is_beside_the_probes_in_every_figure_and_table(request_for, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("geomae.evaluation.forest.TREES", 5)
    drawn = {}
    for name in ("scores_picture", "few_labels_picture"):
        kept = getattr(probe_report, name)

        def keep(path, shown, kept=kept, name=name, **more):
            drawn[name] = {one.label: one.value for one in shown["fields@test"]}
            kept(path, shown, **more)

        monkeypatch.setattr(probe_report, name, keep)
    asked = request_for(forest=True, strength=1.0)
    assert run(replace(asked, common=replace(asked.common, quiet=False))) == 0
    rows = table(tmp_path / "out")
    named = {"encoder": "forest", "method": "forest"}
    assert drawn["scores_picture"]["forest"] == figure(rows, **named)
    assert drawn["few_labels_picture"]["forest"] == {
        shots: figure(rows, **named, shots=str(shots)) for shots in (1, 5, 10, 50)
    }
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    classes = page[page.index(">Classes</h2>") :]
    recall = figure(rows, **named, **{"class": "crop"}, metric="recall")
    assert re.search(rf"<td[^>]*>forest</td>\s*<td[^>]*>crop</td>.*?>{recall:.3g}</td>", classes, re.DOTALL)
    assert "It uses no encoder and is no linear probe." in page
    assert "\nforest (not linear) " in capsys.readouterr().out


def test_a_difference_is_said_with_one_sign():
    row = ProbeRow("e", "t", "linear", "difference_to_first", -0.084, (-0.15, -0.02))
    assert probe_report._against("other", row, 20) == "It is worse than other: -0.084 [-0.150, -0.020]"


def test_numbers(request_for, tmp_path):
    assert run(request_for(task="regression", train="numbers@train", tests=("numbers@test",), forest=True)) == 0
    rows = table(tmp_path / "out")
    assert figure(rows, metric="r2") > 0.95  # the number is a band's mean
    forest = figure(rows, encoder="forest", method="forest", metric="r2")
    assert forest > 0.9
    against = figure(rows, encoder="forest", method="forest", metric="difference_to_first")
    assert against == pytest.approx(forest - figure(rows, metric="r2"))


def test_each_side_in_its_own_bands(request_for, tmp_path):
    bands = tuple(sensor("naip").band(name) for name in ("red", "green", "blue", "nir"))
    record = SensorRecord("naip", "reflectance", 1.0, bands, (0.06, 0.05, 0.04, 0.2), (0.03, 0.03, 0.03, 0.1))
    torch.manual_seed(0)
    mae = MaskedAutoencoder(
        Architecture(embedding="spectral", bands=4, patch=8, width=24, depth=2, heads=2, decoder=None)
    )
    save_model(Model(mae, (record,)), tmp_path / "spectral")
    asked = {"tests": ("infrared@test",), "encoders": (f"mine={tmp_path / 'spectral'}",), "strength": 1.0}
    shared, own = (request_for(**asked, own_bands=wanted) for wanted in (False, True))
    own = replace(own, common=replace(own.common, out=tmp_path / "own"), baselines=True)
    assert [run(one) for one in (shared, own)] == [0, 0]
    assert {row["encoder"] for row in table(tmp_path / "own")} == {"mine", "baseline-random"}
    stores = [open_embeddings(folder / "embeddings" / "mine") for folder in (tmp_path / "out", tmp_path / "own")]
    for split, same in (("train", False), ("test", True)):  # blue is missing from what is asked, and not from the rest
        here, there = (one["embedding"].to_numpy()[one["split"].to_numpy() == split] for one in stores)
        assert np.array_equal(here, there) is same


def test_pixels(request_for, tmp_path):
    assert run(request_for(task="segmentation", train="pixels@train", tests=("pixels@test",), forest=True)) == 0
    rows = table(tmp_path / "out")
    assert figure(rows, metric="mean_iou") > 0.5
    assert figure(rows, encoder="forest", method="forest", metric="mean_iou") > 0.3  # it sees one pixel at a time
    assert {row["class"] for row in rows if row["metric"] == "iou"} == set(KINDS)
    (mean,) = [row for row in rows if row["metric"] == "mean_iou" and row["method"] == "linear"]
    assert float(mean["low"]) < float(mean["value"]) < float(mean["high"])


def test_a_forest_learns_from_few_labels_and_reads_none_of_the_test(fields):
    catalog = open_catalog(fields)
    chosen = share_bands(select_tiles(catalog, ["fields@train", "fields@test"]))
    task = read_probe_task(ProbeSettings(C=1.0, shots=(1,)), chosen)
    first = predict_forest(task).predicted
    assert {(key.method, key.shots, len(draws)) for key, draws in first.items()} == {
        ("forest", None, 1),
        ("forest", 1, DRAWS),
    }
    truth = task.truths["fields@test"].label_T
    (all_labels,) = first[PredictionKey("fields@test", "forest")]
    assert (all_labels == truth).mean() > 0.8
    noise = replace(task, tests=(replace(task.tests[0], label_T=task.tests[0].label_T[::-1]),), truths={})
    for key, draws in predict_forest(noise).predicted.items():
        np.testing.assert_array_equal(draws, first[key])


WRONG = [
    ({"task": "clasification"}, ConfigError, ["--task clasification", "did you mean 'classification'?"]),
    ({"strength": 0.0}, ConfigError, ["--strength 0", "above 0"]),
    ({"forest": True, "own_bands": True}, ConfigError, ["--forest", "leave --own-bands out"]),
    ({"align": ("corral",)}, ConfigError, ["--align corral", "did you mean 'coral'?"]),
    ({"align": ("all",), "task": "regression"}, ConfigError, ["--align", "--task classification"]),
    ({"cross_fit": 1}, ConfigError, ["--cross-fit 1", "at least 2"]),
    ({"min_class_rows": 500}, ConfigError, ["--min-class-rows 500", "fields@test"]),
    ({"encoders": ()}, ConfigError, ["name an --encoder"]),
    ({"encoders": ("baseline:statistic",)}, ConfigError, ["did you mean 'statistics'?"]),
    ({"train": "unlabelled@train"}, CatalogError, ["--train unlabelled@train", "none of its 192 tiles has a label"]),
    ({"tests": ("unlabelled@test",)}, CatalogError, ["--test unlabelled@test", "none of its 176 tiles"]),
    ({"train": "fields[label=tree]@train"}, CatalogError, ["labelled tiles have the label 'tree'", "two or more"]),
    ({"train": "fields[wet=False]@train"}, CatalogError, ["water never occurs in --train", "(which has crop, tree)"]),
    ({"train": "fields"}, ConfigError, ["176 of its tiles are in --train fields too"]),
    ({"train": "fields@train", "tests": ("fields@train",)}, ConfigError, ["--test fields@train", "--cross-fit 3"]),
    ({"task": "regression"}, CatalogError, ["is not a number", "--task regression"]),
    ({"task": "segmentation"}, CatalogError, ["needs labels per pixel", "label: {raster, classes}"]),
    ({"train": "seasons[season=green]", "tests": ("seasons[season=brown]",), "cross_fit": 20}, ConfigError, ["12 gro"]),
    ({"train": "thermal@train"}, BandMismatchError, ["no band in common"]),
    (
        {"train": "twelve@train", "tests": ("twelve@test",), "baselines": True},
        ConfigError,
        ["baseline:random?seed=0: a patch of 8 pixels", "12 x 12", "cut tiles to a multiple", "`--no-baselines`"],
    ),
    ({"own_bands": True}, ConfigError, ["--own-bands", "baseline:statistics", "leave one of the two out"]),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "kind", "parts"), WRONG, ids=lambda value: str(value)[:40])
def test_bad_requests_are_one_line_and_leave_nothing(request_for, tmp_path, wishes, kind, parts):
    with pytest.raises(kind) as caught:
        run(request_for(**wishes))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_what_is_wrong_in_one_line(fields, tmp_path):
    words = ("probe", "--catalog", fields, "--train", "fields@train", "--test", "feilds@test")
    refused(called(*words, cwd=tmp_path), "feilds", "did you mean 'fields'?")


def test_baselines_that_the_user_names_are_not_there_twice():
    wanted = ProbeOptions(
        CommonOptions(), "a", ("b",), ("baseline:random", "mine=baseline:statistics", "baseline:random?seed=7")
    )
    entrants = encoder_specs(wanted)
    assert [one.label for one in entrants] == ["baseline-random", "mine", "baseline-random-seed-7", "baseline-rcf"]
    assert [len(one.references) for one in entrants] == [5, 1, 1, 1]
    assert len(encoder_specs(replace(wanted, baselines=False))) == 3


def test_statistics_agree_with_what_was_measured_before(shared_data, request_for, tmp_path):
    """The figures of PROVENANCE.md: 0.53 on test_near, 0.40 on test_far with all four classes."""
    wishes = {"train": "hls@train", "tests": ("hls@test_near", "hls@test_far"), "strength": 1.0}
    assert run(request_for(shared_data / "catalog.yaml", **wishes)) == 0
    rows = table(tmp_path / "out")
    assert figure(rows, test="hls@test_near") == pytest.approx(0.53, abs=0.02)
    assert figure(rows, test="hls@test_far") == pytest.approx(0.40, abs=0.02)
