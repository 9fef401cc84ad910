"""A model folder as a file for other programs, with a JSON file beside it that says what it takes."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from geomae.encoders import OwnEncoder
from geomae.errors import ConfigError, ModelError
from geomae.files import publish_file, read_json, write_json
from geomae.models.convert import Account, check_onnx, check_timm, timm_weights, write_onnx
from geomae.models.folder import Model, save_tensors, write_model
from geomae.sensors import Band, Sensor
from geomae.workflows.console import Screen

FORMATS = ("timm", "onnx", "safetensors")
SUFFIXES = {"timm": ".safetensors", "onnx": ".onnx", "safetensors": ".safetensors"}


def beside(path: Path) -> Path:
    """The JSON file that belongs to an exported file."""
    return path.with_name(f"{path.name}.json")


def export(
    model: Model, out: Path, to: str, wanted: tuple[Sensor, tuple[Band, ...]] | None, tile: int | None, screen: Screen
) -> int:
    """Write `model` in the format `to` as `out`, and the JSON file beside it; neither if a check fails."""
    if out.suffix != SUFFIXES[to]:
        raise ConfigError(f"{out}: --to {to} writes a {SUFFIXES[to]} file; call it {out.name}{SUFFIXES[to]}")
    model = _for_bands(model, wanted, to)
    # The JSON first: whoever sees the file of weights finds what belongs to it.
    with publish_file(out) as file, publish_file(beside(out)) as sidecar:
        facts, account, lines = {"timm": _timm, "onnx": _onnx, "safetensors": _safetensors}[to](model, file, tile)
        write_json(sidecar, facts)
    for line in [*account.lines(), *lines, f"{out}: with {beside(out).name} beside it"]:
        screen.result(line)
    return 0


def _for_bands(model: Model, wanted: tuple[Sensor, tuple[Band, ...]] | None, to: str) -> Model:
    """The model for the bands that were asked for; for its only sensor where none were."""
    if wanted is not None:
        if to != "onnx" or model.mae.architecture.embedding != "spectral":
            raise ConfigError(
                f"--bands with --to {to}: only an ONNX file of a spectral model chooses bands; convert to the other "
                "bands first, and the result --to"
            )
        return model.for_sensor(wanted[0].name, tuple(band.name for band in wanted[1]))
    if to == "onnx" and len(model.sensors) > 1:
        names = ", ".join(record.name for record in model.sensors)
        raise ModelError(
            f"the model knows the sensors {names}, and an ONNX file takes one; say --bands SENSOR:BAND,..."
        )
    return model


def _timm(model: Model, file: Path, tile: int | None) -> tuple[dict[str, Any], Account, list[str]]:
    exported, account = timm_weights(model, tile)
    difference = check_timm(exported, model, OwnEncoder(model).embed)
    save_tensors(exported.state, file)
    facts = {
        "format": "timm",
        "model": exported.name,
        "arguments": exported.arguments,
        "norm_eps": exported.norm_eps,
        "call": exported.call(),
        "sensor": model.record.to_dict(),
        "provenance": model.provenance,
    }
    others = ", ".join(record.name for record in model.sensors if record != model.record)
    if others:
        account.notes.append(f"statistics of {others}: left; a file has those of one sensor")
    return facts, account, [
        f"pixels: standardise by mean and standard deviation of {model.record.name} first",
        f"build with {exported.call()}",
        f"checked: loads strictly, features differ by at most {difference:.1e}",
    ]  # fmt: skip


def _onnx(model: Model, file: Path, tile: int | None) -> tuple[dict[str, Any], Account, list[str]]:
    size, account = write_onnx(model, file, tile)
    difference = check_onnx(file, model, size, OwnEncoder(model).embed)
    facts = {
        "format": "onnx",
        "input": {"name": "pixels_BCHW", "shape": ["batch", len(model.record.bands), *size]},
        "outputs": ["tile_BD", "patches_BND"],
        "sensor": model.record.to_dict(),
        "provenance": model.provenance,
    }
    checked = "not checked: onnxruntime is not installed; `uv sync --extra onnx` brings it"
    if difference is not None:
        checked = f"checked with onnxruntime: embeddings differ by at most {difference:.1e}"
    return facts, account, [f"tiles of {size[0]} x {size[1]} pixels, any number of them", checked]


def _safetensors(model: Model, file: Path, tile: int | None) -> tuple[dict[str, Any], Account, list[str]]:
    """The two files of a model folder under other names."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        write_model(model, Path(folder))
        shutil.copyfile(Path(folder) / "model.safetensors", file)
        facts: dict[str, Any] = read_json(Path(folder) / "config.json")
    account = Account(taken=list(model.mae.state_dict()))
    line = "back: a folder with these two as model.safetensors and config.json is the model"
    return facts, account, [line]
