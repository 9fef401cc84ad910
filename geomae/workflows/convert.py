"""`geomae convert`: weights in and out, with an account of every key."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from geomae.errors import ConfigError, ModelError, StorageError
from geomae.files import file_digest, read_json
from geomae.models.convert import Account, adapt_bands, convert_mae, read_weights
from geomae.models.convert.weights_in import RENAMED
from geomae.models.folder import Model, load_model, save_model
from geomae.models.standardise import SensorRecord
from geomae.sensors import Band, Sensor, sensor
from geomae.workflows.console import Screen
from geomae.workflows.convert_export import FORMATS, beside, export
from geomae.workflows.convert_statistics import measured_record

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
) -> tuple[Model, Account]:
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


def _other_bands(model: Model, wanted: Wanted | None, statistics: Path | None) -> tuple[Model, Account]:
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
