"""The ONNX file answers as the model does, for any number of tiles, and says what it takes."""

import importlib
import json
from functools import cache

import pytest
import torch
from tiny_models import RECORD, tiles, tiny_model

from geomae.commands.convert import ConvertOptions, run
from geomae.config import Decoder
from geomae.encoders import OwnEncoder
from geomae.errors import ConfigError, ModelError
from geomae.models.architecture import Architecture
from geomae.models.convert import check_onnx
from geomae.models.convert import onnx as export
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord

LANDSAT = SensorRecord(
    "l8", "reflectance", 30.0, sensor("landsat-8-oli-c2l2").bands[:3], (0.1, 0.2, 0.3), (0.1, 0.1, 0.2)
)
SHAPES = {
    "stacked": {"embedding": "stacked"},
    "spectral": {"embedding": "spectral"},
    "grouped": {"embedding": "grouped", "groups": ((0, 2), (1, 3))},
    "positions of one grid": {"embedding": "stacked", "positions": "table", "grid": (4, 3)},
    "positions by ground sample distance": {"embedding": "spectral", "positions": "gsd", "reference_gsd_m": 30.0},
}


@cache
def drawn(name, sensors=(RECORD,)):
    """A model for tiles of 16 x 12 with everything drawn, that no default can hide what is missing in the graph."""
    settings = {"bands": 4, "patch": 4, "width": 24, "depth": 2, "heads": 2, "decoder": Decoder(width=16, heads=2)}
    mae = MaskedAutoencoder(Architecture.model_validate(settings | SHAPES[name])).eval()
    rng = torch.Generator().manual_seed(0)
    mae.load_state_dict(
        {key: value + 0.2 * torch.randn(value.shape, generator=rng) for key, value in mae.state_dict().items()}
    )
    return Model(mae, sensors, {"tile": [16, 12]})


def packages():
    return pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", autouse=True)
def _exporter():
    """The exporter, which takes seconds, is asked once for a graph: its answer depends on weights and shapes alone."""
    real, programs = torch.onnx.export, {}

    def export(module, examples, **wishes):
        weights = [(key, value.numpy().tobytes()) for key, value in module.state_dict().items()]
        asked = (*weights, examples[0].shape, str(wishes))
        if asked not in programs:
            programs[asked] = real(module, examples, **wishes)
        return programs[asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        yield


@pytest.fixture
def folder(tmp_path):
    """Saves a model as tmp_path / 'model'."""

    def save(model):
        save_model(model, tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.mark.parametrize("name", SHAPES)
def test_onnxruntime_answers_as_the_encoder_does(name, folder, tmp_path, capsys):
    onnx, runtime = packages()
    model, out = drawn(name), tmp_path / "out.onnx"
    assert run(ConvertOptions(folder(model), out, to="onnx")) == 0
    assert "checked with onnxruntime: embeddings differ by at most" in capsys.readouterr().out
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        pixels_BCHW, _ = tiles(count, seed=count)
        found = session.run(["tile_BD", "patches_BND"], {"pixels_BCHW": pixels_BCHW.numpy()})
        for theirs, ours in zip(found, OwnEncoder(model).embed(pixels_BCHW), strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-4, rtol=0)
    (taken,) = session.get_inputs()
    assert (taken.name, taken.shape[1:], isinstance(taken.shape[0], str)) == ("pixels_BCHW", [4, 16, 12], True)
    told = {one.key: one.value for one in onnx.load(str(out)).metadata_props}
    assert b"site-packages" not in out.read_bytes()  # the exporter notes paths of the machine that it ran on
    beside = json.loads((tmp_path / "out.onnx.json").read_text(encoding="utf-8"))
    assert json.loads(told["geomae"]) == beside["sensor"] == RECORD.to_dict()
    assert beside["input"]["shape"] == ["batch", 4, 16, 12]


def test_a_spectral_model_for_some_bands_of_one_sensor(folder, tmp_path, monkeypatch):
    _, runtime = packages()
    monkeypatch.setitem(SHAPES, "two", {"embedding": "spectral"})
    record = SensorRecord("sentinel-2-l2a", "reflectance", 10.0, RECORD.bands, RECORD.mean_C, RECORD.std_C)
    model = drawn("two", (LANDSAT, record))
    source = folder(model)
    with pytest.raises(ModelError, match=r"knows the sensors l8, sentinel-2-l2a.*give --bands SENSOR:BAND"):
        run(ConvertOptions(source, tmp_path / "out.onnx", to="onnx", quiet=True))
    with pytest.raises(ModelError, match="no statistics for sensor 'naip'"):
        run(ConvertOptions(source, tmp_path / "out.onnx", to="onnx", bands="naip:red", quiet=True))
    run(
        ConvertOptions(
            source, tmp_path / "out.onnx", to="onnx", bands="sentinel-2-l2a:B11,B04", tile_size=8, quiet=True
        )
    )
    pixels_BCHW, _ = tiles(2, 8, 8)
    pixels_BCHW = pixels_BCHW[:, [3, 1]]
    wanted = OwnEncoder(model.for_sensor("sentinel-2-l2a", ("B11", "B04"))).embed(pixels_BCHW)
    session = runtime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"pixels_BCHW": pixels_BCHW.numpy()})
    torch.testing.assert_close(torch.from_numpy(found[1]), wanted[1], atol=1e-4, rtol=0)


def test_the_account_names_every_key_once(tmp_path):
    packages()
    model = drawn("spectral")
    _, account = export.write_onnx(model, tmp_path / "out.onnx")
    named = [entry.split(" ")[0] for entry in account.taken + account.adapted + account.left]
    assert sorted(named) == sorted(model.mae.state_dict())
    assert account.new == ["positions (sines and cosines of 4 x 3 patches)"]
    with pytest.raises(ModelError, match="onnxruntime's outputs differ from the model's by"):
        off = lambda pixels: tuple(one + 2e-4 for one in OwnEncoder(model).embed(pixels))  # noqa: E731
        check_onnx(tmp_path / "out.onnx", model, (16, 12), off)


def without(monkeypatch, *missing):
    """As if these packages were not installed."""
    real = importlib.import_module

    def find(name, *more):
        if name in missing:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", find)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_missing_packages_are_asked_for_in_one_line(missing, folder, tmp_path, monkeypatch):
    packages()
    source = folder(drawn("stacked"))
    without(monkeypatch, missing)
    with pytest.raises(ModelError, match=f"install them with `uv sync --extra onnx`.*{missing}"):
        run(ConvertOptions(source, tmp_path / "out.onnx", to="onnx", quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_onnxruntime_the_report_says_that_nothing_was_checked(folder, tmp_path, monkeypatch, capsys):
    packages()
    source = folder(drawn("stacked"))
    without(monkeypatch, "onnxruntime")
    assert run(ConvertOptions(source, tmp_path / "out.onnx", to="onnx")) == 0
    assert "not checked: onnxruntime is not installed" in capsys.readouterr().out


def test_a_file_that_differs_is_not_left(folder, tmp_path, monkeypatch):
    packages()
    source = folder(drawn("stacked"))
    monkeypatch.setattr("geomae.models.convert.onnx.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ModelError, match="onnxruntime's outputs differ"):
        run(ConvertOptions(source, tmp_path / "out.onnx", to="onnx", quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_one_file_cannot_hold_and_what_is_not_said(folder, tmp_path, monkeypatch):
    source = folder(Model(tiny_model().mae, (RECORD,)))
    with pytest.raises(ModelError, match="give --tile-size PIXELS"):
        run(ConvertOptions(source, tmp_path / "out.onnx", to="onnx", quiet=True))
    with pytest.raises(ConfigError, match=r"--to onnx writes a \.onnx file; call it out\.onnx"):
        run(ConvertOptions(source, tmp_path / "out", to="onnx", quiet=True))
    monkeypatch.setattr(export, "LARGEST_BYTES", 1000)
    with pytest.raises(ModelError, match="one ONNX file holds 2 GB; use --to safetensors"):
        run(ConvertOptions(source, tmp_path / "out.onnx", to="onnx", tile_size=16, quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
