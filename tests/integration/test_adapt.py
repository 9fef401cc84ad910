"""`geomae adapt` from a model and unlabelled tiles to an adapted model and its proof."""

import contextlib
import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import history, mlflow_client, options, write_catalog
from processes import forked

from geomae import load_predictor, open_embeddings
from geomae.catalog import open_catalog
from geomae.commands import adapt, embed
from geomae.commands.adapt import AdaptOptions
from geomae.commands.embed import EmbedOptions
from geomae.commands.options import CommonOptions
from geomae.config import AdaptConfig, Objective, PretrainConfig
from geomae.errors import BandMismatchError, CatalogError, ConfigError, GeomaeError
from geomae.evaluation import adaptation_effect, gap_components, proposal
from geomae.evaluation.adaptation_effect import error_changes, evaluate_before_after, plan_before_after
from geomae.evaluation.alignment_choice import RULE, choose
from geomae.models.architecture import Architecture
from geomae.models.finetuned import load_finetuned
from geomae.models.folder import Model, TrainedHead, load_model, save_model
from geomae.models.head_record import Calibration, HeadRecord
from geomae.models.heads import build_head
from geomae.models.lineage import lineage
from geomae.models.mae import MaskedAutoencoder
from geomae.rasters import write_cog
from geomae.runtime import signals
from geomae.runtime.devices import open_compute
from geomae.runtime.signals import Stop
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from geomae.tiles.radiometry import Radiometry
from geomae.tiles.selection import overlapping, select_tiles
from geomae.training.adaptation import adapt_model, adapted_provenance, read_adaptation_domains, training_config
from geomae.training.checkpoints import last_step
from geomae.training.starts import OwnStart

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
    windows: {table: windows.csv, key: scene, row: row, col: col, size: 16}
    label: {column: label}
    group: {column: site}
    domain: {column: season}
  noise:
    <<: *land
    label: {column: noise}
  hazy:
    <<: *land
    offset: 0.3
  hazy-noise:
    <<: *land
    offset: 0.3
    label: {column: noise}
  renamed:
    <<: *land
    offset: 0.3
    sensor: [RENAMED]
    bands: [r, g, b, n]
  bare:
    <<: *land
    label: {column: nothing}
  one:
    <<: *land
    where: "first == 'yes'"
  halved:
    <<: *land
    windows: null
    tile: {size: 16, stride: 8}
    table: {path: scenes.csv, key: scene}
    label: null
    group: null
  twins:
    <<: *land
    path: twins/*.tif
  thermal:
    <<: *land
    sensor: [{name: lwir11, wavelength_um: 10.9, fwhm_um: 0.6}]
    bands: [lwir11, null, null, null]
  dim:
    <<: *land
    sensor: [{name: lwir12, wavelength_um: 12.0, fwhm_um: 0.6}]
    bands: [lwir12, null, null, null]
"""
RENAMED = ", ".join(
    f"{{name: {band.name[0].lower()}, wavelength_um: {band.wavelength_um}, fwhm_um: {band.fwhm_um}}}"
    for band in map(sensor("naip").band, ("red", "green", "blue", "nir"))
)
KINDS = ("crop", "water")
FEW = ("batch=8", "eval_every=2", "save_every=2")
GREEN, BROWN = "land[season=green]", "land[season=brown]"


@pytest.fixture(scope="module")
def land(tmp_path_factory) -> Path:
    """Six scenes of 4 x 4 fields, each row of fields a site; the last three are brown: brighter, and less near red."""
    folder = tmp_path_factory.mktemp("land")
    rng = np.random.default_rng(0)
    rows = []
    for scene in range(6):
        kind = rng.integers(0, 2, (4, 4))
        level = np.array([[900, 700, 400, 3000], [600, 500, 500, 400]])[kind].transpose(2, 0, 1)
        level = level * rng.uniform(0.7, 1.4, (4, 4, 4)) * (1.0 if scene < 3 else 1.6)
        pixels = level.repeat(16, 1).repeat(16, 2) + rng.normal(0, 60, (4, 64, 64))
        for name, spot in {"scenes": scene, "twins": scene % 3}.items():  # twins: both seasons on the same ground
            place = (5.0, 0.0, 400_000.0 + 1000 * spot, 0.0, -5.0, 5_000_000.0)
            path = folder / name / f"s{scene}.tif"
            write_cog(path, pixels.clip(1).astype(np.uint16), crs="EPSG:32632", transform=place)
        for row, col in np.ndindex(4, 4):
            rows.append({
                "scene": f"s{scene}", "row": 16 * row, "col": 16 * col, "label": KINDS[kind[row, col]],
                "site": f"s{scene}-{row}", "season": "green" if scene < 3 else "brown", "nothing": "",
                "noise": KINDS[rng.integers(0, 2)], "first": "yes" if (scene, row, col) == (3, 0, 0) else "no",
            })  # fmt: skip
    with (folder / "windows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "scenes.csv").write_text("scene,season\n" + "".join(f"s{number},any\n" for number in range(6)))
    return write_catalog(folder, CATALOG.replace("RENAMED", RENAMED))


LEARNED = {"land": {"learned": ["s0:0:0"], "held_out": ["s0:16:0"]}}


def build(
    folder: Path, *, embedding="spectral", decoder=True, bands=("red", "green", "blue", "nir"), head=False
) -> Path:
    """A small model that was never trained, and says which run made it."""
    record = SensorRecord(
        "naip:reflectance",
        "reflectance",
        5.0,
        tuple(map(sensor("naip").band, bands)),
        (0.1,) * len(bands),
        (0.06,) * len(bands),
    )
    shape = {"embedding": embedding, "bands": len(bands), "patch": 4, "width": 24, "depth": 2, "heads": 2}
    shape["decoder"] = {"width": 16, "depth": 1, "heads": 2} if decoder else None
    torch.manual_seed(0)
    architecture = Architecture.model_validate(shape)
    model = Model(MaskedAutoencoder(architecture), (record,), {"mlflow_run": "r0"})
    if head:
        known = HeadRecord(
            kind="conv", task="segmentation", classes=KINDS, codes=(1, 2), colours=("#00ff00", "#0000ff"), tile=16,
            calibration=Calibration(temperature=2.0, bias=(0.5, -0.5)), class_shares=(0.3, 0.7), bands=bands,
            sensor=record.name, gsd_m=5.0, width=8, layer=2,
        )  # fmt: skip
        model.head = TrainedHead(known, build_head(architecture, known), LEARNED)
        model.provenance |= {"finetuned": {"task": "segmentation", "method": "full"}, "dataset": [GREEN]}
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("begun") / "model")


@pytest.fixture(scope="module")
def done(land, begun, tracking_uri, tmp_path_factory) -> tuple[Path, str]:
    """The folder that the command left, as a process, and what it printed."""
    folder = tmp_path_factory.mktemp("adapt")
    found = forked(
        "adapt", "--catalog", land, "--model", begun, "--target", BROWN, "--source", GREEN, "--probe-train", GREEN,
        "--probe-test", BROWN, "--steps", 12, *options(*FEW, "rate=0.1"), "--method", "last-blocks",
        "--precision", "32", "--tracking-uri", tracking_uri, "--register", "brown-land",
        "--out", folder / "run", cwd=folder,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return folder / "run", found.stdout


def request(catalog: Path, model: Path, out: Path, tracking_uri: str, **wishes) -> AdaptOptions:
    common = CommonOptions(catalog, out, device="cpu", precision="32", tracking_uri=tracking_uri, quiet=True)
    usual = {"target": BROWN, "changes": FEW, "steps": 4}
    return AdaptOptions(common, str(model), **(usual | wishes))


def told(out: Path) -> dict:
    return json.loads((out / "adaptation.json").read_text(encoding="utf-8"))


def test_the_error_on_held_out_tiles_falls_and_is_shown_beside_baselines(done):
    out, printed = done
    found = told(out)
    rows = {(row["domain"], row["band"]): row for row in found["reconstruction"]}
    target, source = rows["target", "all"], rows["source", "all"]
    assert target["after"] < target["before"]
    assert target["change"] == pytest.approx(target["after"] / target["before"] - 1)
    assert (target["n_tiles"], target["n_groups"]) == (8, 2)  # a fifth of 48, whole sites
    assert target["interval"] is None  # two groups carry none
    assert 0 < target["baselines"]["baseline:mean"] < 1
    assert source["selector"] == GREEN
    assert {band for domain, band in rows if domain == "target"} == {"all", "red", "green", "blue", "nir"}
    name = f"rmse/model/{BROWN}-held-out/mean"
    curve = {row["step"]: row[name] for row in history(out) if name in row}
    kept, trained = found["steps"]["kept"], found["steps"]["trained"]
    assert sorted(curve) == list(range(0, trained + 1, 2))
    assert kept == min(curve, key=curve.get)
    assert trained == 12 or trained - kept == 6  # three validations without a new best end it
    assert found["verdict"] in printed
    assert found["verdict"].startswith(f"The reconstruction error on held-out tiles of {BROWN} fell by")


def test_the_gap_and_the_probe_stand_before_and_after(done):
    found = told(done[0])
    assert [row["measure"] for row in found["gap"]["before"]] == [row["measure"] for row in found["gap"]["after"]]
    target, source = found["probe"]["target"], found["probe"]["source"]
    assert {"before", "after", "change", "oracle", "share_closed", "baseline-statistics"} <= set(target)
    assert target["change"]["value"] == pytest.approx(target["after"]["value"] - target["before"]["value"])
    assert len(target["change"]["interval"]) == 2  # twelve sites carry one
    assert source["change"]["value"] == pytest.approx(source["after"]["value"] - source["before"]["value"])
    share = target["share_closed"]["value"]
    if share is not None:
        gap = target["oracle"]["value"] - target["before"]["value"]
        assert share == pytest.approx(target["change"]["value"] / gap)


def test_the_model_is_one_like_any_other_and_knows_where_it_comes_from(done, begun, tracking_uri):
    out, _ = done
    before, after = load_model(begun), load_model(out / "model")
    assert list(after.mae.state_dict()) == list(before.mae.state_dict())
    assert after.sensors == before.sensors  # of a sensor that it knew
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert after.provenance["mlflow_run"] == summary["run_id"]
    assert after.provenance["adapted"] | {"method": "last-blocks", "target": BROWN} == after.provenance["adapted"]
    assert after.provenance["from"] == {"mlflow_run": "r0"}
    client = mlflow_client(tracking_uri)
    run = client.get_run(summary["run_id"])
    assert run.data.tags["geomae.model_run"] == "r0"
    assert run.data.metrics["rmse_after/target/all"] == pytest.approx(summary["metrics"]["rmse_after/target/all"])
    assert client.get_model_version("brown-land", "1").run_id == summary["run_id"]
    report = (out / "report.html").read_text(encoding="utf-8")
    for part in ("How it was adapted", "Reconstruction", "Gap", "What labels say", "oracle"):
        assert part in report


def test_no_label_of_the_target_has_a_part_in_the_model(land, begun, tracking_uri, tmp_path):
    made = []
    for name, wishes in {"none": {}, "noise": {"probe_train": GREEN, "probe_test": "noise[season=brown]"}}.items():
        assert adapt.run(request(land, begun, tmp_path / name, tracking_uri, **wishes)) == 0
        made.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert made[0] == made[1]
    assert told(tmp_path / "none")["probe"] is None
    assert told(tmp_path / "none")["gap"] == {}


def test_pixels_of_the_target_are_brought_to_the_source_first(land, begun, tracking_uri, tmp_path):
    wishes = {"source": GREEN, "probe_train": GREEN, "probe_test": BROWN, "radiometry": "quantiles", "steps": 2}
    assert adapt.run(request(land, begun, tmp_path / "run", tracking_uri, **wishes)) == 0
    kept = tmp_path / "run" / "model" / "radiometry"
    assert Radiometry.load(kept).target == BROWN
    means = {}
    for name, selector, folder in (("green", GREEN, None), ("brown", BROWN, None), ("mapped", BROWN, kept)):
        common = CommonOptions(
            land, tmp_path / name, device="cpu", precision="32", tracking_uri=tracking_uri, quiet=True
        )
        assert embed.run(EmbedOptions(common, ("baseline:statistics",), (selector,), radiometry=folder)) == 0
        means[name] = open_embeddings(tmp_path / name)["embedding"].to_numpy()[:, :4].mean(0)
    assert (means["brown"] > 1.3 * means["green"]).all()
    np.testing.assert_allclose(means["mapped"], means["green"], rtol=0.02)
    with pytest.raises(ConfigError, match="--source SELECTOR"):
        adapt.run(request(land, begun, tmp_path / "none", tracking_uri, radiometry="quantiles"))


ASKED = {"source": GREEN, "changes": (), "steps": None}  # nothing is said of a training


@pytest.mark.parametrize("align", ["quantiles", "standardise+coral"])
def test_what_differs_is_asked_first_and_no_label_of_the_target_has_a_part_in_the_answer(
    align, land, begun, tracking_uri, tmp_path, monkeypatch
):
    """The target is hazy, so that pixels and embeddings can be aligned; the rule may choose one method."""
    rule = replace(RULE, candidates=(align,))
    for module in (adaptation_effect, proposal):
        monkeypatch.setattr(module, "RULE", rule)
    monkeypatch.setattr(proposal, "choose", partial(choose, rule=rule))
    made = {}
    for name, there in {"truth": "hazy[season=brown]", "noise": "hazy-noise[season=brown]"}.items():
        wishes = ASKED | {"target": there, "probe_train": GREEN, "probe_test": there}
        assert adapt.run(request(land, begun, tmp_path / name, tracking_uri, **wishes)) == 0
        probe = tmp_path / name / "probes" / "before"
        made[name] = told(tmp_path / name)["proposal"], *(one.read_bytes() for one in probe.glob("*.safetensors"))
    assert made["truth"] == made["noise"]
    found = told(tmp_path / "truth")
    assert found["proposal"]["action"] == "alignment"
    assert found["proposal"]["align"] == align
    figures = found["probe"]["target"]
    assert {"before", "aligned", "change", "oracle", "labels-5", "labels-5_change", "baseline-rcf"} <= set(figures)
    assert figures["change"]["value"] == pytest.approx(figures["aligned"]["value"] - figures["before"]["value"])
    assert found["probe"]["source"] == {}
    weights = load_model(begun).mae.state_dict()
    kept = load_model(tmp_path / "truth" / "model").mae.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in kept.items())
    report = (tmp_path / "truth" / "report.html").read_text(encoding="utf-8")
    for part in ("What differs", "Class shares", "What is proposed", "circular validation", "labels of each class"):
        assert part in report
    folder = tmp_path / "truth" / "probes" / "before"
    assert set(load_predictor(folder).classes) == set(KINDS)
    assert (folder / "radiometry").exists() == (align == "quantiles")


def test_tiles_without_the_bands_of_the_radiometry_are_scored_without_it(
    land, begun, tracking_uri, tmp_path, monkeypatch, capsys
):
    rule = replace(RULE, candidates=("quantiles",))
    for module in (adaptation_effect, proposal):
        monkeypatch.setattr(module, "RULE", rule)
    monkeypatch.setattr(proposal, "choose", partial(choose, rule=rule))
    asked = request(
        land, begun, tmp_path / "run", tracking_uri, **ASKED, target="hazy[season=brown]", probe_train=GREEN,
        probe_test="renamed[season=brown]",
    )  # fmt: skip
    assert adapt.run(replace(asked, common=replace(asked.common, quiet=False))) == 0
    found = told(tmp_path / "run")
    assert found["proposal"]["align"] == "quantiles"
    assert "before" in found["probe"]["target"] and "aligned" not in found["probe"]["target"]
    said = capsys.readouterr()
    assert "renamed[season=brown] lacks bands that quantiles takes" in said.out + said.err


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        ({"source": "bare[season=green]"}, "Without usable labels of the source no alignment can be judged"),
        ({"target": "thermal[season=brown]"}, "The model does not know thermal (lwir11)"),
    ],
)
def test_where_no_alignment_can_be_judged_or_a_sensor_is_new_the_model_is_trained(
    wishes, why, land, begun, tracking_uri, tmp_path, monkeypatch
):
    few = AdaptConfig(batch=8, steps=2, eval_every=2, save_every=2, replay=0.5)
    monkeypatch.setattr(adapt, "read_config", lambda options: few)
    assert adapt.run(request(land, begun, tmp_path / "run", tracking_uri, **ASKED | wishes)) == 0
    found = told(tmp_path / "run")
    assert found["proposal"]["action"] == "pretraining"
    assert why in found["proposal"]["why"]
    assert found["steps"]["trained"] == 2
    assert "What is proposed" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_pairs_of_the_same_ground_are_found_among_all_tiles_of_a_large_domain(
    land, begun, tracking_uri, tmp_path, monkeypatch
):
    """Four of the 48 tiles of a domain are drawn for the figures: hardly one has its partner among the other four."""
    answers = []
    monkeypatch.setattr(adapt, "read_config", lambda options: AdaptConfig(batch=16, objective=Objective(places=1)))
    monkeypatch.setattr(adapt, "train_and_measure", lambda work, answer, *_: bool(answers.append(answer)))
    monkeypatch.setattr(gap_components, "MOST_TILES", 4)
    wishes = ASKED | {"source": "twins[season=green]", "target": "twins[season=brown]"}
    adapt.run(request(land, begun, tmp_path / "run", tracking_uri, **wishes))
    assert [(one.differences.same_ground, one.proposal.method) for one in answers] == [(48, "full")]


def test_a_stopped_adaptation_goes_on_to_the_same_bytes(land, begun, tracking_uri, tmp_path, monkeypatch):
    asked = {"source": GREEN, "method": "last-blocks", "blocks": 1}
    whole, parted = (request(land, begun, tmp_path / name, tracking_uri, **asked) for name in ("whole", "parted"))
    assert adapt.run(whole) == 0
    with monkeypatch.context() as patched:
        patched.setattr(signals, "watch", lambda: contextlib.nullcontext(Stop(15)))
        assert adapt.run(parted) == 143
    assert not (tmp_path / "parted" / "model").exists()
    assert adapt.run(parted) == 0
    first, second = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parted"))
    assert first.read_bytes() == second.read_bytes()


def test_a_sensor_that_the_model_does_not_know_becomes_its_first(land, begun, tracking_uri, tmp_path):
    wishes = {"target": "thermal[season=brown]", "method": "norm", "steps": 2}
    assert adapt.run(request(land, begun, tmp_path / "out", tracking_uri, **wishes)) == 0
    new, old = load_model(tmp_path / "out" / "model").sensors
    assert [band.name for band in new.bands] == ["lwir11"]
    assert old == load_model(begun).sensors[0]


def test_with_source_and_target_unknown_the_target_s_sensor_is_the_first(land, begun, tracking_uri, tmp_path):
    wishes = {"target": "thermal[season=brown]", "source": "dim[season=green]", "method": "norm", "steps": 2}
    assert adapt.run(request(land, begun, tmp_path / "out", tracking_uri, **wishes, replay=0.5)) == 0
    assert [one.bands[0].name for one in load_model(tmp_path / "out" / "model").sensors[:2]] == ["lwir11", "lwir12"]
    before = load_model(tmp_path / "out" / "before")  # which knows both, so that nothing but the weights differs
    assert [one.bands[0].name for one in before.sensors[:2]] == ["lwir11", "lwir12"]
    weights = load_model(begun).mae.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.mae.state_dict().items())


def test_tiles_that_overlap_held_out_ones_are_told_of(land, begun):
    (one,) = select_tiles(open_catalog(land), ["halved"])
    domains = read_adaptation_domains(OwnStart(load_model(begun)), [one], PretrainConfig(), 0)
    assert any("overlap held-out tiles, so that errors on these are too low" in note for note in domains.notes)
    (one,) = select_tiles(open_catalog(land), [BROWN])
    domains = read_adaptation_domains(OwnStart(load_model(begun)), [one], PretrainConfig(), 0)
    assert not any("held-out" in note for note in domains.notes)
    assert not overlapping(domains.target.training.reader.index, domains.target.held.reader.index).any()


def test_a_notebook_adapts_a_fine_tuned_model_which_keeps_its_head(land, tmp_path):
    begun = build(tmp_path / "begun", head=True)
    catalog, compute, model = open_catalog(land), open_compute("cpu", "32"), OwnStart(load_model(begun))
    config = AdaptConfig(method="norm", batch=8, steps=2, eval_every=2, rate=0.1)
    selections = select_tiles(catalog, [BROWN, GREEN])
    domains = read_adaptation_domains(model, selections, training_config(config, model), 0)
    plan = plan_before_after(domains, [], 1, 0)
    events = []
    adapted = adapt_model(compute, config, domains, tmp_path / "checkpoints", 0, Stop(), events.append)
    assert (adapted.steps, [one.step for one in events if one.scores is not None]) == (2, [0, 2])
    assert last_step(tmp_path / "checkpoints") == 2
    adapted.model.save(tmp_path / "adapted", adapted_provenance(config, domains, adapted, "x"))
    done = evaluate_before_after(compute, catalog, plan, begun, tmp_path / "adapted", tmp_path / "embeddings", 0)
    assert set(done.gap) == {"before", "after"}
    assert done.target == {}
    changes = error_changes(compute, domains, adapted.model, config, 0)
    assert {one.domain for one in changes} == {"target", "source"}
    before, after = (load_finetuned(one) for one in (begun, tmp_path / "adapted"))
    assert after.record == before.record  # classes, codes, colours, calibration and shares
    assert after.model.head.learned == LEARNED
    weights, left = (one.network.state_dict() for one in (before, after))
    changed = {name for name in left if not torch.equal(left[name], weights[name])}
    assert changed
    assert not [name for name in changed if name.startswith("head.")]
    assert any("the head (segmentation: 2 classes, their calibration) is not adapted" in note for note in domains.notes)
    assert [(step.text, step.run) for step in lineage(after.model.provenance)] == [
        ("fine-tuned (segmentation, full) with labels of land[season=green]", "r0"),
        ("adapted (norm) to land[season=brown] without labels, beside land[season=green]", None),
    ]


BAD = {
    "itself": ({"source": BROWN}, ConfigError, [BROWN, "as source and as target"]),
    "overlap": ({"source": "noise"}, ConfigError, ["--source noise", "48 of its tiles", "s3", "share no pixels"]),
    "too few": ({"target": "one"}, CatalogError, ["one", "1 usable tile,", "too few to hold some out"]),
    "no labels": (
        {"probe_train": GREEN, "probe_test": "bare[season=brown]"}, CatalogError, ["--probe-test", "has a label"],
    ),
    "labels of the target": (
        {"probe_train": "land", "probe_test": BROWN}, ConfigError, ["--probe-train land", "48 of its tiles overlap"],
    ),
    "a class of one side": (
        {"probe_train": "land[label=crop,season=green]", "probe_test": BROWN}, CatalogError,
        ["--probe-train and --probe-test: ", "leave both out"],
    ),
    "half a probe": ({"probe_train": GREEN}, ConfigError, ["--probe-train and --probe-test"]),
    "replay": ({"replay": 0.3}, ConfigError, ["--replay 0.3", "--source"]),
    "rank": ({"method": "full", "rank": 4}, ConfigError, ["--rank", "--method lora"]),
    "blocks": ({"blocks": 9}, ConfigError, ["--blocks 9", "2 blocks"]),
    "method": ({"method": "lore"}, ConfigError, ["method", "lora"]),
    "baseline": ({"model": "baseline:rcf"}, ConfigError, ["--model baseline:rcf", "geomae convert"]),
}  # fmt: skip


def refuses(kind: type[GeomaeError], parts: list[str], asked: AdaptOptions) -> None:
    with pytest.raises(kind) as caught:
        adapt.run(asked)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value), caught.value
    assert not asked.common.out.exists()


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused_before_anything_is_written(case, land, begun, tracking_uri, tmp_path):
    wishes, kind, parts = BAD[case]
    model = wishes.get("model", begun)
    rest = {name: value for name, value in wishes.items() if name != "model"}
    refuses(kind, parts, request(land, model, tmp_path / "out", tracking_uri, **rest))


def test_models_that_cannot_be_adapted_are_refused(land, done, tracking_uri, tmp_path):
    alone = build(tmp_path / "alone", decoder=False)
    stacked = build(tmp_path / "stacked", embedding="stacked")
    for model, kind, parts, target in (
        (alone, ConfigError, ["batch: 8 tiles are too few", "objective.contrast"], BROWN),
        (stacked, BandMismatchError, ["stacked", "spectral embedding takes any bands"], "thermal[season=brown]"),
        (done[0] / "model", ConfigError, [f"adapted to {BROWN} already", "--again"], BROWN),
    ):
        refuses(kind, parts, request(land, model, tmp_path / "out", tracking_uri, target=target))
    again = request(land, done[0] / "model", tmp_path / "again", tracking_uri, again=True, steps=2)
    assert adapt.run(again) == 0
    assert load_model(tmp_path / "again" / "model").provenance["from"]["adapted"]["target"] == BROWN
