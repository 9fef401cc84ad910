"""Export a model as one file for other programs, with a JSON file beside it that describes inputs and outputs.

B batch, C bands, H W pixels, N patches, D width
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from geomae.errors import ConfigError
from geomae.files import publish_file, read_json, write_json
from geomae.models.convert.onnx import check_onnx, write_onnx
from geomae.models.convert.state_dicts import ConversionReport
from geomae.models.convert.timm import check_timm, timm_weights
from geomae.models.folder import Model, save_tensors, write_model

SUFFIXES = {"timm": ".safetensors", "onnx": ".onnx", "safetensors": ".safetensors"}
Embed = Callable[[Tensor], tuple[Tensor, Tensor]]  # pixels_BCHW in physical units -> (tile_BD, patches_BND)
Export = tuple[dict[str, Any], ConversionReport, list[str]]  # for the JSON file; report on keys; lines to print


def sidecar(path: Path) -> Path:
    """The path of the JSON file beside an exported file."""
    return path.with_name(f"{path.name}.json")


def export_model(
    model: Model, out: Path, form: str, embed: Embed, tile: int | None = None
) -> tuple[ConversionReport, list[str]]:
    """Write `model` in the format `form` (`timm`, `onnx` or `safetensors`) as `out`, and the JSON file beside it.

    `embed` (that of `load_encoder(folder)`) is the reference for a check of the export; where the check fails, neither
    file is written. `tile` is the side in pixels of the tiles that the file takes, by default the model's own. Returns
    a report on every key, and lines on how to use the file. Raises ConfigError for a wrong suffix of `out`, ModelError
    where the format cannot hold the model or the check fails.
    """
    if out.suffix != SUFFIXES[form]:
        raise ConfigError(f"{out}: --to {form} writes a {SUFFIXES[form]} file; call it {out.name}{SUFFIXES[form]}")
    # The JSON file is published first, so that the file of weights never stands without it.
    with publish_file(out) as file, publish_file(sidecar(out)) as facts_file:
        if form == "timm":
            facts, report, lines = _write_timm(model, file, embed, tile)
        elif form == "onnx":
            facts, report, lines = _write_onnx(model, file, embed, tile)
        else:
            facts, report, lines = _write_safetensors(model, file)
        write_json(facts_file, facts)
    return report, lines


def _write_timm(model: Model, file: Path, embed: Embed, tile: int | None) -> Export:
    exported, report = timm_weights(model, tile)
    difference = check_timm(exported, model, embed)
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
        report.notes.append(f"statistics of {others}: left out; the file holds those of one sensor")
    return facts, report, [
        f"pixels: standardise by mean and standard deviation of {model.record.name} first",
        f"build with {exported.call()}",
        f"checked: loads strictly, features differ by at most {difference:.1e}",
    ]  # fmt: skip


def _write_onnx(model: Model, file: Path, embed: Embed, tile: int | None) -> Export:
    size, report = write_onnx(model, file, tile)
    difference = check_onnx(file, model, size, embed)
    facts = {
        "format": "onnx",
        "input": {"name": "pixels_BCHW", "shape": ["batch", len(model.record.bands), *size]},
        "outputs": ["tile_BD", "patches_BND"],
        "sensor": model.record.to_dict(),
        "provenance": model.provenance,
    }
    checked = "not checked: onnxruntime is not installed; install it with `uv sync --extra onnx`"
    if difference is not None:
        checked = f"checked with onnxruntime: embeddings differ by at most {difference:.1e}"
    return facts, report, [f"tiles of {size[0]} x {size[1]} pixels, any number of them", checked]


def _write_safetensors(model: Model, file: Path) -> Export:
    """Write weights and config of a model folder under other names."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        write_model(model, Path(folder))
        shutil.copyfile(Path(folder) / "model.safetensors", file)
        facts: dict[str, Any] = read_json(Path(folder) / "config.json")
    report = ConversionReport(taken=list(model.mae.state_dict()))
    line = "to use it as a model: put the two files into a folder as model.safetensors and config.json"
    return facts, report, [line]
