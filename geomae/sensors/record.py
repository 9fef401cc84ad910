"""The record of a sensor in a model: its bands, their unit, and mean and standard deviation of each band.

C bands
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geomae.errors import BandMismatchError, ModelError
from geomae.sensors import sensor_names
from geomae.sensors.band import Band


@dataclass(frozen=True)
class SensorRecord:
    """Bands of a sensor, their unit, and the mean and standard deviation of each band in that unit."""

    name: str
    unit: str
    gsd_m: float | None
    bands: tuple[Band, ...]
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "gsd_m": self.gsd_m,
            "bands": [band.to_dict() for band in self.bands],
            "mean": list(self.mean_C),
            "std": list(self.std_C),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SensorRecord":
        """Read what `to_dict` gives. Raises ModelError where bands or statistics are missing or inconsistent."""
        try:
            bands = tuple(Band.from_dict(band) for band in values["bands"])
            mean, std = (tuple(float(one) for one in values[key]) for key in ("mean", "std"))
            record = cls(values["name"], values["unit"], values["gsd_m"], bands, mean, std)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"the model's record of bands and statistics is invalid ({error!r})"
            raise ModelError(f"{problem}; train or convert it again") from error
        if not bands or len(mean) != len(bands) or len(std) != len(bands) or min(std) <= 0:
            counts = f"{len(bands)} bands, {len(mean)} means, {len(std)} standard deviations"
            problem = "must be equally many, and deviations above 0"
            raise ModelError(f"sensor {record.name}: {counts} {problem}; train or convert the model again")
        return record

    def select(self, names: Sequence[str]) -> "SensorRecord":
        """The record restricted to the bands `names`, in that order. Raises BandMismatchError for an unknown band."""
        known = {band.name: index for index, band in enumerate(self.bands)}
        missing = [name for name in names if name not in known]
        if missing:
            raise BandMismatchError(
                f"no statistics for band {', '.join(missing)} of {self.name}; the model knows {', '.join(known)}"
            )
        index = [known[name] for name in names]
        pick = (tuple(values[i] for i in index) for values in (self.bands, self.mean_C, self.std_C))
        return SensorRecord(self.name, self.unit, self.gsd_m, *pick)  # type: ignore[arg-type]


def record_of(records: Sequence[SensorRecord], name: str, unit: str, bands: Sequence[Band]) -> SensorRecord | None:
    """The record of a sensor among `records`, of which each has another name; None if it is in none.

    A published sensor is known by its name. One that is written in a catalogue is known by what it measures, since its
    name is often that of a data set: its record has all its bands, or has its name and contradicts none of its bands.
    """
    alike = [one for one in records if one.unit == unit]
    named = next((one for one in alike if one.name == name), None)
    if is_published(name):
        return named
    inline = sorted((one for one in alike if not is_published(one.name)), key=lambda one: one is not named)
    for one in inline:
        same = _same_bands(one, bands)
        if len(same) == len(bands) and all(same):
            return one
    return named if named is not None and all(_same_bands(named, bands)) else None


def same_sensor(one: SensorRecord, other: SensorRecord) -> bool:
    """Whether bands of equal names are the same bands in both, in whatever unit."""
    return record_of([one], other.name, one.unit, other.bands) is not None


def unused_name(records: Sequence[SensorRecord], name: str) -> str:
    """A name for another record than those in `records`: the name itself, or with a number."""
    taken, number, free = {one.name for one in records}, 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def is_published(name: str) -> bool:
    """Whether the name of a record, which may end in a unit, is that of a published sensor."""
    return name.partition(":")[0] in sensor_names()


def _same_bands(record: SensorRecord, bands: Sequence[Band]) -> list[bool]:
    """For each of the bands that the record has by name, whether it measures the same there."""
    own = {band.name: band for band in record.bands}
    return [band.measures == own[band.name].measures for band in bands if band.name in own]
