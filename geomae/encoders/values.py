"""From physical units to the values that a foreign model was trained on, band by band.

B tiles, C bands, H W pixels
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from geomae.errors import ConfigError
from geomae.models.standardise import SensorRecord

BRIGHT = 0.3  # reflectance of red, green and blue that is shown as white
SPREAD = 2.0  # standard deviations about the mean that become the range of a picture, where no reflectance is known
BYTE = 255.0
STORED = 10_000.0  # Sentinel-2's reflectance is stored as whole numbers of a ten-thousandth


@dataclass(frozen=True)
class Range:
    """pixels * factor + shift, cut off at low and high; and the same in words."""

    factor_C: tuple[float, ...]
    shift_C: tuple[float, ...]
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    note: str


@dataclass(frozen=True)
class Values:
    """A range, and what is subtracted and divided by after it. What is not valid counts as the mean of its band."""

    range: Range
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    usual_C: tuple[float, ...]

    def apply(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """Values (B, C, H, W) in float32 of pixels in physical units."""
        factor, shift, low, high, mean, std, usual = _columns(self, pixels_BCHW.device)
        raw_BCHW = pixels_BCHW.float().where(valid_BCHW, usual) * factor + shift
        return (raw_BCHW.clamp(low, high) - mean) / std

    @property
    def note(self) -> str:
        """In words."""
        if set(self.mean_C) == {0.0} and set(self.std_C) == {1.0}:
            return self.range.note
        mean, std = (", ".join(f"{one:g}" for one in dict.fromkeys(values)) for values in (self.mean_C, self.std_C))
        return f"{self.range.note}; then minus {mean}, divided by {std}"


def values(chosen: Range, steps: Sequence[tuple[Sequence[float], Sequence[float]]], record: SensorRecord) -> Values:
    """A range and the steps (mean, std) after it as one; a step of one figure holds for all bands."""
    count = len(record.bands)
    total_mean, total_std = [0.0] * count, [1.0] * count
    for mean, std in steps:
        means, stds = (list(one) * count if len(one) == 1 else list(one) for one in (mean, std))
        # ((x - m) / s - mean) / std = (x - (m + s mean)) / (s std)
        total_mean = [m + s * more for m, s, more in zip(total_mean, total_std, means, strict=True)]
        total_std = [s * more for s, more in zip(total_std, stds, strict=True)]
    return Values(chosen, tuple(total_mean), tuple(total_std), record.mean_C)


def standardised(record: SensorRecord) -> Values:
    """Mean 0 and standard deviation 1 by the statistics of the data set."""
    factor = tuple(1 / std for std in record.std_C)
    shift = tuple(-mean / std for mean, std in zip(record.mean_C, record.std_C, strict=True))
    chosen = Range(factor, shift, -torch.inf, torch.inf, f"standardised by the train split of {record.name}")
    return values(chosen, (), record)


def picture_range(record: SensorRecord, top: float = 1.0) -> Range:
    """Pixels as a picture shows them, from 0 to `top`: what models of ordinary pictures expect.

    Reflectance of red, green and blue is divided by 0.3, digital numbers of 8 bits by 255; of anything else the mean
    plus and minus two standard deviations of the train split become 0 and `top`.
    """
    names = {band.common_name for band in record.bands}
    if record.unit == "reflectance" and names <= {"red", "green", "blue"}:
        return _affine(record, top / BRIGHT, 0.0, f"reflectance 0 to {BRIGHT} becomes 0 to {top:g}", 0.0, top)
    if record.unit == "digital_number" and all(mean <= BYTE for mean in record.mean_C):
        return _affine(record, top / BYTE, 0.0, f"digital numbers 0 to 255 become 0 to {top:g}", 0.0, top)
    return stretched_range(record, top)


def stretched_range(record: SensorRecord, top: float = 1.0) -> Range:
    """The mean plus and minus two standard deviations of the train split become 0 and `top`."""
    factor = tuple(top / (2 * SPREAD * std) for std in record.std_C)
    shift = tuple(top / 2 - mean * scale for mean, scale in zip(record.mean_C, factor, strict=True))
    note = f"mean -+ {SPREAD:g} standard deviations of the train split of {record.name} become 0 to {top:g}"
    return Range(factor, shift, 0.0, top, note)


def stored_range(record: SensorRecord, text: str) -> Range:
    """Reflectance as Sentinel-2's products store it. Raises ConfigError for another unit."""
    if record.unit == "reflectance":
        return _affine(record, STORED, 0.0, f"reflectance x {STORED:g}, the digital numbers that it was trained on")
    if record.unit == "digital_number":
        return _affine(record, 1.0, 0.0, "digital numbers as they are, taken to be reflectance x 10000")
    raise ConfigError(
        f"{text}: was trained on reflectance, and the data set is in {record.unit}; give it as reflectance"
    )


def decibel_range(record: SensorRecord, text: str) -> Range:
    """Backscatter in decibels as it is. Raises ConfigError for what cannot be decibels."""
    if max(record.mean_C) >= 0:
        raise ConfigError(
            f"{text}: was trained on backscatter in decibels, whose mean is below 0; convert the data set"
        )
    return _affine(record, 1.0, 0.0, "values as they are, taken to be decibels")


def linear_range(
    record: SensorRecord, factors: Sequence[float], shift: float, low: float, highs: Sequence[float], note: str
) -> Range:
    """A range with a factor and an upper end for each band."""
    return Range(tuple(factors), (shift,) * len(record.bands), low, tuple(highs), note)


def _affine(
    record: SensorRecord, factor: float, shift: float, note: str, low: float = -torch.inf, high: float = torch.inf
) -> Range:
    count = len(record.bands)
    return Range((factor,) * count, (shift,) * count, low, high, note)


@lru_cache(maxsize=64)  # one transfer per device, not one per batch
def _columns(chosen: Values, device: torch.device) -> list[Tensor]:
    found = []
    one = chosen.range
    for figures in (one.factor_C, one.shift_C, one.low, one.high, chosen.mean_C, chosen.std_C, chosen.usual_C):
        row = figures if isinstance(figures, tuple) else (figures,)
        found.append(torch.tensor(row, dtype=torch.float32, device=device)[:, None, None])
    return found
