"""`geomae convert`: weights in and out, with an account of every key."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from geomae.encoders import OwnEncoder
from geomae.errors import ConfigError, ModelError, StorageError
from geomae.files import file_digest, publish_file, read_json, write_json
from geomae.models.convert import (
    ConversionReport,
    adapt_bands,
    check_onnx,
    check_timm,
    convert_mae,
    read_weights,
    timm_weights,
    write_onnx,
)
from geomae.models.convert.mae import RENAMED
from geomae.models.folder import Model, load_model, save_model, save_tensors, write_model
from geomae.runtime.console import Screen
from geomae.sensors import Band, Sensor, sensor
from geomae.sensors.band import plain_name
from geomae.sensors.record import SensorRecord


def measured_record(path: Path, sensor: Sensor, names: tuple[str, ...], gsd_m: float | None) -> SensorRecord:
    """The record of the bands `names` of `sensor`, as measured in `path`; of several splits `train` counts.

    Raises ConfigError where the file has no such record, or more than one, or lacks a band.
    """
    found = _records(path, sensor.name)
    if len(found) != 1:
        what = f"has {len(found)} records" if found else "has no record"
        raise ConfigError(
            f"--statistics {path}: {what} of sensor {sensor.name}; write it with `geomae catalog stats --dataset NAME` "
            "for one data set of that sensor"
        )
    record = found[0]
    known = {plain_name(name): values for name, values in record["bands"].items()}
    missing = [name for name in names if plain_name(name) not in known]
    if missing:
        raise ConfigError(
            f"--statistics {path}: has no {', '.join(missing)} of {sensor.name}; measure a data set that has all bands"
        )
    figures = [known[plain_name(name)] for name in names]
    units = {str(values.get("unit", record["unit"])) for values in figures}
    return SensorRecord.from_dict(
        {
            "name": sensor.name,
            "unit": units.pop() if len(units) == 1 else record["unit"],
            "gsd_m": gsd_m,
            "bands": [sensor.band(name).to_dict() for name in names],
            "mean": [values["mean"] for values in figures],
            "std": [values["std"] for values in figures],
        }
    )


def _records(path: Path, sensor: str) -> list[dict[str, Any]]:
    """The records of a sensor, one for each data set: of its split `train` where there is one, else of every split."""
    stored, found = read_json(path), []
    try:
        for splits in stored.values():
            chosen = [splits["train"]] if "train" in splits else list(splits.values())
            found += [one for one in chosen if one["sensor"] == sensor and one["bands"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--statistics {path}: is not what `geomae catalog stats` writes; give its stats.json"
        ) from error
    return found


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


def _timm(model: Model, file: Path, tile: int | None) -> tuple[dict[str, Any], ConversionReport, list[str]]:
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


def _onnx(model: Model, file: Path, tile: int | None) -> tuple[dict[str, Any], ConversionReport, list[str]]:
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


def _safetensors(model: Model, file: Path, tile: int | None) -> tuple[dict[str, Any], ConversionReport, list[str]]:
    """The two files of a model folder under other names."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        write_model(model, Path(folder))
        shutil.copyfile(Path(folder) / "model.safetensors", file)
        facts: dict[str, Any] = read_json(Path(folder) / "config.json")
    account = ConversionReport(taken=list(model.mae.state_dict()))
    line = "back: a folder with these two as model.safetensors and config.json is the model"
    return facts, account, [line]


Wanted = tuple[Sensor, tuple[Band, ...]]
SAID_OF_WEIGHTS = {
    "heads": "--heads", "decoder_heads": "--decoder-heads", "norm_eps": "--norm-eps", "target": "--target",
}  # fmt: skip


def run(
    source: Path,
    out: Path,
    *,
    to: str | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_eps: float | None = None,
    target: str | None = None,
    bands: str | None = None,
    statistics: Path | None = None,
    tile_size: int | None = None,
    quiet: bool = False,
) -> int:
    """Convert `source`, a weight file or a model folder, and publish `out`, which must not exist."""
    screen = Screen(not quiet)
    said = {"heads": heads, "decoder_heads": decoder_heads, "norm_eps": norm_eps, "target": target}
    _check(source, to, said, bands, statistics, tile_size)
    for path in (out, *([beside(out)] if to else [])):
        if path.exists():
            raise StorageError(f"{path}: exists; choose another {'file' if to else 'folder'}")
    wanted = _bands(bands) if bands else None
    if to is not None:
        return export(load_model(source), out, to, wanted, tile_size, screen)
    if source.is_dir():
        model, account = _other_bands(load_model(source), wanted, statistics)
        model.provenance["bands_from"] = file_digest(source / "model.safetensors")
    else:
        model, account = _weights_in(source, said, wanted, statistics)
        model.provenance.update({"source": source.name, "sha256": file_digest(source)})
    save_model(model, out)
    for line in account.lines():
        screen.result(line)
    shape = model.mae.architecture
    screen.result(
        f"{out}: {shape.bands} bands, patch {shape.patch}, encoder {shape.width}/{shape.depth}/{shape.heads}, "
        f"{'no decoder' if shape.decoder is None else f'decoder {shape.decoder.width}/{shape.decoder.depth}'}"
    )
    return 0


def _check(
    source: Path, to: str | None, said: dict[str, Any], bands: str | None, statistics: Path | None, tile: int | None
) -> None:
    """Refuse options that would have no effect, with the one that is meant."""
    if said["target"] not in (None, "none", "patch"):
        raise ConfigError(f"--target {said['target']}: choose none or patch")
    if to is not None and to not in FORMATS:
        raise ConfigError(f"--to {to}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if to is not None and source.is_file():
        raise ConfigError(f"--to {to}: {source} is not a model folder; convert weights to a model folder first")
    if source.is_dir():
        given = [SAID_OF_WEIGHTS[key] for key, value in said.items() if value is not None]
        if given:
            raise ConfigError(f"{', '.join(given)}: the model folder {source} says this itself; leave it out")
        if to is None and bands is None:
            raise ConfigError(
                f"{source}: is a model folder already; say --to {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or --bands "
                "SENSOR:BAND,BAND,... for other bands"
            )
    if statistics is not None and (bands is None or to is not None):
        raise ConfigError(
            "--statistics: belongs to --bands SENSOR:BAND,BAND,... of a new model folder; add or leave it out"
        )
    if tile is not None and to not in ("timm", "onnx"):
        raise ConfigError("--tile-size: belongs to --to timm or onnx, whose positions are for one size; leave it out")


def _weights_in(
    source: Path, said: dict[str, Any], wanted: Wanted | None, statistics: Path | None
) -> tuple[Model, ConversionReport]:
    """A model from a weight file; its bands are named by `wanted`, or adapted to it where there are not as many."""
    weights = read_weights(source)
    record, facts = _told(source)
    said = facts | {key: value for key, value in said.items() if value is not None}
    kernel = weights.get("patch_embed.proj.weight")
    inputs = kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 0
    named = wanted is not None and record is None and (len(wanted[1]) == inputs or inputs != 3)
    bands = record.bands if record else wanted[1] if wanted and named else None
    try:
        model, account = convert_mae(weights, bands=bands, **said)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    if record is not None:
        model = replace(model, sensors=(record,))
        account.notes.append(f"heads, epsilon, bands and statistics: from {beside(source).name} unless said otherwise")
    if wanted is None:
        account.notes.append(_takes(model.record))
    elif named:
        if statistics is not None:
            names = tuple(band.name for band in wanted[1])
            model = replace(model, sensors=(measured_record(statistics, wanted[0], names, None),))
        account.notes.append(_takes(model.record))
    else:
        model, later = _other_bands(model, wanted, statistics)
        account = account.followed_by(later, RENAMED)
    return model, account


def _told(source: Path) -> tuple[SensorRecord | None, dict[str, Any]]:
    """What an export to timm wrote beside its weights: the sensor, and heads, epsilon and grid."""
    sidecar = beside(source)
    if source.suffix != ".safetensors" or not sidecar.is_file():
        return None, {}
    told = read_json(sidecar)
    try:
        built = told["arguments"]
        rows, cols = (int(side) // int(built["patch_size"]) for side in built["img_size"])
        facts = {"heads": int(built["num_heads"]), "norm_eps": float(told["norm_eps"]), "grid": (rows, cols)}
        record = SensorRecord.from_dict(told["sensor"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None, {}  # a JSON file of something else
    return record, facts


def _other_bands(model: Model, wanted: Wanted | None, statistics: Path | None) -> tuple[Model, ConversionReport]:
    if wanted is None:
        raise ConfigError("--bands SENSOR:BAND,BAND,...: is missing; say which bands the new model is to take")
    found, bands = wanted
    names = tuple(band.name for band in bands)
    measured = measured_record(statistics, found, names, model.record.gsd_m) if statistics else None
    return adapt_bands(model, bands, found.name, found.unit, measured)


def _takes(record: SensorRecord) -> str:
    unknown = set(record.mean_C) == {0.0} and set(record.std_C) == {1.0}
    figures = "mean 0 and standard deviation 1: pixels must come standardised" if unknown else "its own statistics"
    return f"bands: {', '.join(band.common_name or band.name for band in record.bands)} in this order, {figures}"


def _bands(text: str) -> Wanted:
    """The sensor and bands of `SENSOR:BAND,BAND,...`, in the order in which the weights take them."""
    name, colon, names = text.partition(":")
    if not colon or not names:
        raise ConfigError(
            f"--bands {text}: is not SENSOR:BAND,BAND,...; write for example sentinel-2-l2a:red,green,blue"
        )
    found = sensor(name)
    bands = tuple(found.band(one.strip()) for one in names.split(","))
    twice = [band.name for number, band in enumerate(bands) if band in bands[:number]]
    if twice:
        raise ConfigError(f"--bands {text}: {', '.join(twice)} is there twice; name every band once")
    return found, bands
