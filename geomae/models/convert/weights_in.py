"""A model from a file of weights or from another model, for bands that are named, with their statistics."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from geomae.errors import ConfigError, ModelError
from geomae.files import file_digest, read_json
from geomae.models.convert.bands import adapt_bands
from geomae.models.convert.mae import RENAMED, convert_mae
from geomae.models.convert.state_dicts import ConversionReport, read_weights
from geomae.models.convert.weights_out import sidecar
from geomae.models.folder import Model, load_model
from geomae.sensors import Band, Sensor
from geomae.sensors.band import plain_name
from geomae.sensors.record import SensorRecord

SensorBands = tuple[Sensor, tuple[Band, ...]]


def import_weights(
    source: Path, bands: SensorBands | None = None, statistics: Path | None = None, **facts: Any
) -> tuple[Model, ConversionReport]:
    """A model from a weight file, and what became of every key.

    `facts` are those that weights leave open: heads, decoder_heads, norm_eps, target (see `convert_mae`); what an
    export to timm wrote beside the file counts where they are None. The bands are named by `bands`, or adapted to it
    where there are not as many; `statistics` is a stats.json of `geomae catalog stats`.
    """
    weights = read_weights(source)
    record, stored = _exported_facts(source)
    facts = stored | {key: value for key, value in facts.items() if value is not None}
    kernel = weights.get("patch_embed.proj.weight")
    inputs = kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 0
    named = bands is not None and record is None and (len(bands[1]) == inputs or inputs != 3)
    own = record.bands if record else bands[1] if bands and named else None
    try:
        model, report = convert_mae(weights, bands=own, **facts)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    if record is not None:
        model = replace(model, sensors=(record,))
        report.notes.append(f"heads, epsilon, bands and statistics: from {sidecar(source).name} unless said otherwise")
    if bands is None:
        report.notes.append(_describe_bands(model.record))
    elif named:
        if statistics is not None:
            names = tuple(band.name for band in bands[1])
            model = replace(model, sensors=(measured_record(statistics, bands[0], names, None),))
        report.notes.append(_describe_bands(model.record))
    else:
        model, later = _with_bands(model, bands, statistics)
        report = report.followed_by(later, RENAMED)
    model.provenance.update({"source": source.name, "sha256": file_digest(source)})
    return model, report


def adapt_model(folder: Path, bands: SensorBands, statistics: Path | None = None) -> tuple[Model, ConversionReport]:
    """The model of a folder for other bands, and what became of every key."""
    model, report = _with_bands(load_model(folder), bands, statistics)
    model.provenance["bands_from"] = file_digest(folder / "model.safetensors")
    return model, report


def measured_record(path: Path, sensor: Sensor, names: tuple[str, ...], gsd_m: float | None) -> SensorRecord:
    """The record of the bands `names` of `sensor`, as measured in `path`; of several splits `train` counts.

    Raises ConfigError where the file has no such record, or more than one, or lacks a band.
    """
    records = _records(path, sensor.name)
    if len(records) != 1:
        what = f"has {len(records)} records" if records else "has no record"
        raise ConfigError(
            f"--statistics {path}: {what} of sensor {sensor.name}; write it with `geomae catalog stats --dataset NAME` "
            "for one data set of that sensor"
        )
    record = records[0]
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


def _records(path: Path, sensor: str) -> list[Mapping[str, Any]]:
    """The records of a sensor, one for each data set: of its split `train` where there is one, else of every split."""
    stored, records = read_json(path), []
    try:
        for splits in stored.values():
            chosen = [splits["train"]] if "train" in splits else list(splits.values())
            records += [one for one in chosen if one["sensor"] == sensor and one["bands"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--statistics {path}: is not what `geomae catalog stats` writes; give its stats.json"
        ) from error
    return records


def _with_bands(model: Model, wanted: SensorBands, statistics: Path | None) -> tuple[Model, ConversionReport]:
    sensor, bands = wanted
    names = tuple(band.name for band in bands)
    measured = measured_record(statistics, sensor, names, model.record.gsd_m) if statistics else None
    return adapt_bands(model, bands, sensor.name, sensor.unit, measured)


def _exported_facts(source: Path) -> tuple[SensorRecord | None, dict[str, Any]]:
    """What an export to timm wrote beside its weights: the sensor, and heads, epsilon and grid."""
    path = sidecar(source)
    if source.suffix != ".safetensors" or not path.is_file():
        return None, {}
    stored = read_json(path)
    try:
        built = stored["arguments"]
        rows, cols = (int(side) // int(built["patch_size"]) for side in built["img_size"])
        facts = {"heads": int(built["num_heads"]), "norm_eps": float(stored["norm_eps"]), "grid": (rows, cols)}
        record = SensorRecord.from_dict(stored["sensor"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None, {}  # a JSON file of something else
    return record, facts


def _describe_bands(record: SensorRecord) -> str:
    unknown = set(record.mean_C) == {0.0} and set(record.std_C) == {1.0}
    figures = "mean 0 and standard deviation 1: pixels must come standardised" if unknown else "its own statistics"
    return f"bands: {', '.join(band.common_name or band.name for band in record.bands)} in this order, {figures}"
