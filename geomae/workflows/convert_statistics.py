"""Statistics of bands from `stats.json`, as `geomae catalog stats` writes it."""

from pathlib import Path
from typing import Any

from geomae.errors import ConfigError
from geomae.files import read_json
from geomae.models.standardise import SensorRecord
from geomae.sensors import Sensor
from geomae.sensors.band import plain_name


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
