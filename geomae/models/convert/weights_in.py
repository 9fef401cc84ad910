"""Import weights: a model from a weight file, and the conversion of a model to another set of bands.

For other bands, kernels are copied, averaged or initialised to zero, band by band.

C bands of the model, K wanted bands, P pixels of a patch in one band, D width
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomae.errors import ConfigError, ModelError
from geomae.files import file_digest, read_json
from geomae.models.convert.mae import PICTURES, RENAMED, UNMEASURED, convert_mae
from geomae.models.convert.state_dicts import ConversionReport, prefix_notes, read_weights, without_prefix
from geomae.models.convert.timm import transformer
from geomae.models.convert.weights_out import sidecar
from geomae.models.folder import Model, load_model
from geomae.models.mae import MaskedAutoencoder
from geomae.sensors import Band, Sensor, match_bands
from geomae.sensors.band import plain_name
from geomae.sensors.record import SensorRecord

SensorBands = tuple[Sensor, tuple[Band, ...]]
KERNEL = "patch_embed.proj.weight"  # its name in foreign weights
EMBEDDING, HEAD, HEAD_BIAS = "encoder.embedding.proj.weight", "decoder.head.proj.weight", "decoder.head.proj.bias"


def import_weights(
    source: Path, bands: SensorBands | None = None, statistics: Path | None = None, **facts: Any
) -> tuple[Model, ConversionReport]:
    """Make a model from a weight file; returns it with a report on every key.

    `facts` are settings that weights do not hold: heads, decoder_heads, norm_eps, target (see `convert_mae`). Those
    that are None are read from the JSON file that an export to timm left beside the weights, if any. `bands` names the
    input bands. Weights of three bands are converted to `bands` where it lists another number; so are exported ones,
    whose bands are known. `statistics` is a stats.json of `geomae catalog stats`.
    """
    stored = read_weights(source)
    weights, prefix = without_prefix(stored, KERNEL)
    record, known = _exported_facts(source)
    facts = known | {key: value for key, value in facts.items() if value is not None}
    kernel = weights.get(KERNEL)
    inputs = kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 0
    named = bands is not None and record is None and (len(bands[1]) == inputs or inputs != 3)
    own = record.bands if record else bands[1] if bands and named else None
    try:
        model, report = convert_mae(weights, bands=own, **facts)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    report.left += [key for key in stored if not key.startswith(prefix)]
    report.notes += prefix_notes(stored, prefix)
    if record is not None:
        model = replace(model, sensors=(record,))
        report.notes.append(f"heads, epsilon, bands and statistics: from {sidecar(source).name} unless given")
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
    """Convert the model of a folder to other bands; returns it with a report on every key."""
    model, report = _with_bands(load_model(folder), bands, statistics)
    model.provenance["bands_from"] = file_digest(folder / "model.safetensors")
    return model, report


def measured_record(path: Path, sensor: Sensor, names: tuple[str, ...], gsd_m: float | None) -> SensorRecord:
    """Read the statistics of the bands `names` of `sensor` from a stats.json; where it has splits, those of `train`.

    Raises ConfigError where the file has no record of the sensor, or more than one, or lacks a band.
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


def adapt_bands(
    model: Model, bands: Sequence[Band], sensor: str, unit: str, measured: SensorRecord | None = None
) -> tuple[Model, ConversionReport]:
    """Convert a stacked model to `bands` of `sensor` in this order, with pixels in `unit`; also returns a report.

    A band that matches one of the model's gets a copy of its kernel. Bands match by name within a sensor, else by
    wavelength; those of ordinary pictures, which have no published wavelengths, by common name. Any other band gets the
    mean kernel of the model's bands of its kind (optical or radar), or zeros where there is none. All K kernels are
    then multiplied by C / K, so that a token, which is a sum over bands, keeps its magnitude. The rows of the decoder's
    head are treated alike but without the factor, since each predicts its own band. Statistics are `measured`, or else
    those of the matching bands, with means over the model's bands for the others.

    Raises ModelError for a spectral embedding, which needs no conversion, for a grouped one, which cannot be converted,
    and where statistics are in another unit.
    """
    transformer(model, "conversion to other bands")
    shape = model.mae.architecture
    if shape.any_bands:
        raise ModelError(
            f"a {shape.embedding} embedding takes any bands as they are and needs no conversion; use the model itself"
        )
    if shape.embedding != "stacked":
        raise ModelError(
            f"the bands of a {shape.embedding} embedding are fixed by its groups; train a model on the new bands"
        )
    offered = next((one for one in model.sensors if one.name == sensor), model.record)
    matches = _matches(bands, offered, sensor)
    sources = [_sources(band, match, offered.bands) for band, match in zip(bands, matches, strict=True)]
    record, said = measured, f"statistics of {sensor}: as given"
    if record is None:
        record, said = _statistics(offered, bands, matches, sensor, unit)
    state = model.mae.state_dict()
    report = ConversionReport(notes=[*_band_lines(bands, offered.bands, matches, sources), said])
    dropped = [one.name for one in model.sensors if one.name != record.name]
    if dropped:
        report.notes.append(f"sensors left out: {', '.join(dropped)}; the model has the bands of {record.name} only")
    factor = len(offered.bands) / len(bands)
    for name, share in ((EMBEDDING, factor), (HEAD, 1.0), (HEAD_BIAS, 1.0)):
        if name in state:
            axis = 1 if name == EMBEDDING else 0
            state[name] = _remix(state[name], len(offered.bands), sources, axis) * share
            how = "by band, below" + (f", times {len(offered.bands)}/{len(bands)}" if share != 1 else "")
            report.adapted.append(f"{name} ({how})")
            report.new += [
                f"{name}[{band.name}] ({_origin(origin, offered.bands)})"
                for band, match, origin in zip(bands, matches, sources, strict=True)
                if match is None
            ]
    report.taken = [name for name in state if name not in (EMBEDDING, HEAD, HEAD_BIAS)]
    mae = MaskedAutoencoder(shape.model_copy(update={"bands": len(bands)}))
    mae.load_state_dict(state)
    return Model(mae.eval(), (record,), dict(model.provenance)), report


def _records(path: Path, sensor: str) -> list[Mapping[str, Any]]:
    """The records of a sensor, by data set: that of the split `train` where there is one, else those of all splits."""
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
    """Read the JSON file of an export to timm: the sensor, and heads, epsilon and grid; None and {} without one."""
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
        return None, {}  # another JSON file
    return record, facts


def _describe_bands(record: SensorRecord) -> str:
    unknown = set(record.mean_C) == {0.0} and set(record.std_C) == {1.0}
    figures = "mean 0 and standard deviation 1: pixels must come standardised" if unknown else "its own statistics"
    return f"bands: {', '.join(band.common_name or band.name for band in record.bands)} in this order, {figures}"


def _matches(bands: Sequence[Band], offered: SensorRecord, sensor: str) -> tuple[int | None, ...]:
    if offered.name != PICTURES:
        return match_bands(bands, offered.bands, offered.name == sensor)
    names = [band.common_name for band in offered.bands]
    return tuple(names.index(band.common_name) if band.common_name in names else None for band in bands)


def _sources(band: Band, match: int | None, offered: Sequence[Band]) -> list[int]:
    """Indices of the bands whose mean kernel `band` gets: the matching one, else all of its kind, which may be none."""
    if match is not None:
        return [match]
    return [index for index, one in enumerate(offered) if (one.polarisation is None) == (band.polarisation is None)]


def _remix(values: Tensor, bands: int, sources: Sequence[Sequence[int]], axis: int) -> Tensor:
    """Compute values for new bands, each the mean over its `sources`, or zeros; `axis` runs over (band, pixel)."""
    by_band = values.movedim(axis, 0).reshape(bands, -1, *values.shape[:axis], *values.shape[axis + 1 :])
    mixed = [by_band[list(one)].mean(0) if one else torch.zeros_like(by_band[0]) for one in sources]
    return torch.stack(mixed).flatten(0, 1).movedim(0, axis).contiguous()


def _statistics(
    offered: SensorRecord, bands: Sequence[Band], matches: Sequence[int | None], sensor: str, unit: str
) -> tuple[SensorRecord, str]:
    """Assume statistics of bands from those of the model; also returns a line on their origin."""
    remedy = "measure them with `geomae catalog stats` and give --statistics stats.json"
    if set(offered.mean_C) == {0.0} and set(offered.std_C) == {1.0}:
        zeros, ones = (0.0,) * len(bands), (1.0,) * len(bands)
        record = SensorRecord(UNMEASURED, offered.unit, offered.gsd_m, tuple(bands), zeros, ones)
        return record, f"statistics: unknown (mean 0, standard deviation 1), as in the source; {remedy}"
    if offered.unit != unit:
        raise ModelError(
            f"the model's statistics are in {offered.unit}, but {sensor} is in {unit}, so they cannot be used; {remedy}"
        )
    every = range(len(offered.bands))
    index = [every if match is None else [match] for match in matches]
    mean, std = (
        tuple(sum(values[i] for i in one) / len(one) for one in index) for values in (offered.mean_C, offered.std_C)
    )
    record = SensorRecord(sensor, unit, offered.gsd_m, tuple(bands), mean, std)
    assumed = [band.name for band, match in zip(bands, matches, strict=True) if match is None]
    if offered.name == sensor and not assumed:
        return record, f"statistics of {sensor}: the model's own"
    line = f"statistics of {sensor}: assumed from {offered.name}, band by band like the kernels"
    if assumed:
        line += f"; for {', '.join(assumed)} the mean over all bands"
    return record, f"{line}; {remedy}"


def _band_lines(
    bands: Sequence[Band], offered: Sequence[Band], matches: Sequence[int | None], sources: Sequence[Sequence[int]]
) -> list[str]:
    """One line per wanted band, and one on the bands of the model that were not copied."""
    lines = []
    for band, match, origin in zip(bands, matches, sources, strict=True):
        how = _origin(origin, offered) if match is None else f"copied from {_called(offered[match])}"
        lines.append(f"band {_called(band)}: {how}")
    left = [_called(band) for index, band in enumerate(offered) if index not in matches]
    return [*lines, f"bands of the model that were not copied: {', '.join(left) or 'none'}"]


def _origin(sources: Sequence[int], offered: Sequence[Band]) -> str:
    if not sources:
        return "new, initialised to zero"
    return f"averaged over {', '.join(offered[index].name for index in sources)}"


def _called(band: Band) -> str:
    alike = band.common_name is None or band.common_name == band.name
    return f"{band.name}" if alike else f"{band.name} ({band.common_name})"
