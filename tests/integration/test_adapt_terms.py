"""`geomae adapt` by the terms that need no decoder: a published encoder, and models of ours."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_catalog
from safetensors.torch import load_file
from tiny_galileo import published_layout, write_galileo

from geomae.commands import adapt
from geomae.commands.adapt import AdaptOptions
from geomae.commands.options import CommonOptions
from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.models.architecture import Architecture
from geomae.models.folder import Model, load_model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.rasters import write_cog
from geomae.runtime import signals
from geomae.runtime.signals import Stop
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord

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
    tile: {size: 16}
    table: {path: scenes.csv, key: scene}
    domain: {column: season}
  numbers:
    <<: *land
    unit: digital_number
    scale: 1
  thermal:
    <<: *land
    sensor: [{name: lwir11, wavelength_um: 10.9, fwhm_um: 0.6}]
    bands: [lwir11, null, null, null]
"""
BY_VIEWS = ("batch=16", "eval_every=2", "save_every=2")
NO_PIXELS = ("objective.pixels=0", "objective.contrast=1")
GREEN, BROWN = "land[season=green]", "land[season=brown]"
METHODS = ("full", "last-blocks", "lora", "norm", "heads")


@pytest.fixture(scope="module")
def land(tmp_path_factory) -> Path:
    """Four scenes of 4 x 4 fields; the last two are brown."""
    folder = tmp_path_factory.mktemp("land")
    rng = np.random.default_rng(0)
    for number in range(4):
        level = rng.uniform(400, 3000, (4, 4, 4)).repeat(16, 1).repeat(16, 2) * (1 if number < 2 else 1.4)
        pixels = (level + rng.normal(0, 60, (4, 64, 64))).clip(1).astype(np.uint16)
        place = (5.0, 0.0, 400_000.0 + 1000 * number, 0.0, -5.0, 5_000_000.0)
        write_cog(folder / "scenes" / f"s{number}.tif", pixels, crs="EPSG:32632", transform=place)
    (folder / "scenes.csv").write_text("scene,season\ns0,green\ns1,green\ns2,brown\ns3,brown\n")
    return write_catalog(folder, CATALOG)


@pytest.fixture(scope="module")
def galileo(tmp_path_factory) -> str:
    """The text of a small random Galileo."""
    return f"galileo:{write_galileo(tmp_path_factory.mktemp('galileo') / 'tiny', published_layout())}?patch=8&month=7"


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> dict[bool, Path]:
    """Small models of ours, with a decoder and without."""
    bands = tuple(sensor("naip").bands)
    record = SensorRecord("naip:reflectance", "reflectance", 5.0, bands, (0.15,) * 4, (0.06,) * 4)
    made = {}
    for decoder in (True, False):
        shape = {"bands": 4, "patch": 4, "width": 24, "depth": 4, "heads": 2}
        shape["decoder"] = {"width": 16, "depth": 1, "heads": 2} if decoder else None
        torch.manual_seed(0)
        made[decoder] = tmp_path_factory.mktemp("own") / "model"
        save_model(Model(MaskedAutoencoder(Architecture.model_validate(shape)), (record,), {}), made[decoder])
    return made


def request(catalog: Path, model: str | Path, out: Path, tracking_uri: str, **wishes) -> AdaptOptions:
    common = CommonOptions(catalog, out, device="cpu", precision="32", tracking_uri=tracking_uri, quiet=True)
    return AdaptOptions(common, str(model), **({"target": BROWN, "changes": BY_VIEWS, "steps": 4} | wishes))


def told(out: Path) -> dict:
    return json.loads((out / "adaptation.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", METHODS)
def test_a_published_encoder_goes_on_and_is_one_again(method, land, galileo, tracking_uri, tmp_path):
    wishes = {"method": method, "source": GREEN} if method == "lora" else {"method": method}
    assert adapt.run(request(land, galileo, tmp_path / "out", tracking_uri, **wishes)) == 0
    found = told(tmp_path / "out")
    assert found["reconstruction"] == []
    assert found["held_out_loss"]["term"] == "contrast"
    assert found["held_out_loss"]["kept"] <= found["held_out_loss"]["start"]
    assert found["verdict"].startswith(f"The held-out loss of contrast on {BROWN}") or found["steps"]["kept"] == 0
    assert any("masking.band_dropout does not apply" in note for note in found["notes"])
    assert set(found["gap"]) == ({"before", "after"} if method == "lora" else set())
    assert (found["parameters"]["trained"] == 0) == (method == "heads")
    model = tmp_path / "out" / "model"
    before, after = published_layout(), load_file(model / "encoder.safetensors")
    same = all(torch.equal(value, before[name]) for name, value in after.items())
    assert same == (method == "heads" or found["steps"]["kept"] == 0)
    said = json.loads((model / "provenance.json").read_text(encoding="utf-8"))["adapted"]
    assert said | {"method": method, "target": BROWN, "objective": {"contrast": 1.0}} == said
    with pytest.raises(ConfigError, match=r"was adapted to .* already; --again"):
        adapt.run(request(land, f"galileo:{model}", tmp_path / "again", tracking_uri))


def test_a_stopped_one_goes_on_to_the_same_bytes(land, galileo, tracking_uri, tmp_path, monkeypatch):
    whole, parted = (request(land, galileo, tmp_path / name, tracking_uri) for name in ("whole", "parted"))
    assert adapt.run(whole) == 0
    with monkeypatch.context() as patched:
        patched.setattr(signals, "watch", lambda: contextlib.nullcontext(Stop(15)))
        assert adapt.run(parted) == 143
    assert adapt.run(parted) == 0
    first, second = (tmp_path / name / "model" / "encoder.safetensors" for name in ("whole", "parted"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decoder", [True, False])
def test_own_models_go_on_without_pixels(method, decoder, land, own, tracking_uri, tmp_path):
    wishes = {"method": method, "changes": (*BY_VIEWS, *NO_PIXELS)}
    assert adapt.run(request(land, own[decoder], tmp_path / "out", tracking_uri, **wishes)) == 0
    found = told(tmp_path / "out")
    assert bool(found["reconstruction"]) == decoder
    assert found["held_out_loss"]["term"] == "contrast"
    before, after = (load_model(one).mae.state_dict() for one in (own[decoder], tmp_path / "out" / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    behind = ("encoder.blocks.2.", "encoder.blocks.3.", "encoder.norm.", "decoder.")  # what no gradient reaches
    assert not {name for name in changed if name.startswith(behind)}
    assert bool(changed) == (method != "heads" and found["steps"]["kept"] > 0)
    if method == "last-blocks" and changed:
        assert any(name.startswith("encoder.blocks.1.mlp") for name in changed)


@pytest.mark.parametrize(
    ("wishes", "kind", "parts"),
    [
        ({"changes": (*BY_VIEWS, "objective.pixels=1")}, ModelError, ["objective.pixels: ", "objective.contrast=1"]),
        ({"changes": ("batch=8",)}, ConfigError, ["batch: 8 tiles are too few"]),
        ({"target": "numbers[season=brown]"}, ConfigError, ["trained on reflectance"]),
        ({"target": "thermal[season=brown]"}, BandMismatchError, ["has none whole"]),
        ({"method": "last-blocks", "blocks": 3}, ConfigError, ["--blocks 3", "2 blocks"]),
        ({"patch": 5}, ConfigError, ["a patch of 5 pixels does not divide a tile of 16 x 16"]),
    ],
)
def test_what_galileo_cannot_do_is_refused_in_one_line(wishes, kind, parts, land, galileo, tracking_uri, tmp_path):
    model = galileo.replace("patch=8", f"patch={wishes.get('patch', 8)}")
    asked = request(land, model, tmp_path / "out", tracking_uri)
    with pytest.raises(kind) as caught:
        adapt.run(replace(asked, **{key: value for key, value in wishes.items() if key != "patch"}))
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert not (tmp_path / "out").exists()


def test_heads_are_no_method_of_pixels(land, own, tracking_uri, tmp_path):
    with pytest.raises(ConfigError, match=r"--method heads: .*objective.pixels=0"):
        adapt.run(request(land, own[True], tmp_path / "out", tracking_uri, method="heads"))


def test_a_convolutional_model_learns_by_pixels_alone(land, tracking_uri, tmp_path):
    bands = tuple(sensor("naip").band(name) for name in ("red", "green", "blue", "nir"))
    record = SensorRecord("naip:reflectance", "reflectance", 5.0, bands, (0.15,) * 4, (0.06,) * 4)
    shape = Architecture(kind="cae", embedding="stacked", bands=4, patch=8, width=24, depth=1, heads=1)
    save_model(Model(MaskedAutoencoder(shape).eval(), (record,)), tmp_path / "cae")
    asked = request(land, str(tmp_path / "cae"), tmp_path / "out", tracking_uri)
    with pytest.raises(ConfigError, match="learns by pixels alone") as caught:
        adapt.run(replace(asked, method="full", changes=(*BY_VIEWS, "objective.contrast=1")))
    assert "\n" not in str(caught.value)
