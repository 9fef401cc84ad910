"""The configuration of a suite of domain shifts (`configs/shifts`): families, their data sets and shifts."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from geomae.config import Frozen

WHITE = 255.0
HAZE_TINT_C = (0.75, 0.85, 1.0)  # of red, green and blue: haze is bluish
Pixels = NDArray[np.floating[Any]]


class Change(Frozen, strict=True):
    """Changes of the pixels of a photograph (0 to 255), applied in this order."""

    gain: float = Field(1.0, gt=0, description="factor of all bands")
    offset: float = Field(0.0, description="added to all bands")
    haze: float = Field(0.0, ge=0, le=1, description="fraction of bluish haze in the light")
    blur: float = Field(0.0, ge=0, description="standard deviation of a Gaussian, in pixels")
    levels: int = Field(256, ge=2, le=256, description="number of grey levels")

    def apply(self, pixels_CHW: Pixels) -> NDArray[np.uint8]:
        """The changed pixels (C, H, W), rounded and clipped like those of an 8 bit sensor."""
        seen_CHW = pixels_CHW * self.gain + self.offset
        tint_C = np.resize(HAZE_TINT_C, len(pixels_CHW))
        seen_CHW = seen_CHW * (1 - self.haze) + self.haze * WHITE * tint_C[:, None, None]
        if self.blur:
            seen_CHW = gaussian_filter(seen_CHW, (0, self.blur, self.blur), mode="nearest")
        step = 256 / self.levels
        seen_CHW = np.clip(np.rint(seen_CHW), 0, WHITE)
        return np.asarray(np.floor(seen_CHW / step) * step + (step - 1) / 2).round().astype(np.uint8)


class Made(Frozen, strict=True):
    """Data sets with changed pixels: `NAME: {...}` makes the data set `NAME` from the tiles of `of`."""

    of: str = Field(description="SELECTOR of labelled photographs with three bands")
    changes: dict[str, Change] = Field(min_length=1)


class Shift(Frozen, strict=True):
    """A source with labels, and a target whose labels are used only for scoring.

    With `folds`, groups may occur on both sides: each is tested by a probe that was not trained on it. With `halves`,
    the groups are split into two halves, one per side, `draws` times. `shares` resamples the target's class shares,
    from unchanged (0) to a geometric series (1).
    """

    source: str
    target: str
    folds: int | None = Field(None, ge=2)
    halves: bool = False
    draws: int = Field(1, ge=1)
    shares: float | None = Field(None, ge=0, le=1)


class Family(Frozen, strict=True):
    """Shifts that are reported together, and their data sets that are not in the catalogue."""

    family: Literal["real", "made", "drawn"]
    datasets: dict[str, dict[str, Any]] = Field({}, description="entries as in a catalogue, relative to its folder")
    made: Made | None = None
    most: int = Field(600, gt=0, description="maximum number of tiles per side, drawn at random")
    shifts: dict[str, Shift] = Field(min_length=1)
