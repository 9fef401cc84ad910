"""All that `geomae gap` found, for its files, its report and its sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.gap_contrast import GapFigure, corrected
from geomae.analysis.gap_pixels import Pixels
from geomae.workflows.gap_sides import Side, Sides

PIXELS, LABELS = "pixels", "labels"  # in place of an encoder
SIGNIFICANT = 0.05
FIELDS = ("measure", "band", "unit", "value", "null_value", "p", "p_holm")


@dataclass(frozen=True)
class Spectrum:
    """Mean and standard deviation of the valid pixels of each band of a domain, and their share."""

    mean_C: NDArray[np.float64]
    std_C: NDArray[np.float64]
    valid_C: NDArray[np.float64]

    @classmethod
    def of(cls, pixels: Pixels) -> "Spectrum":
        """That of some pixels; NaN for a band without a valid one."""
        values = [pixels.of_band(place) for place in range(pixels.values_NPC.shape[2])]
        known = [one if len(one) else np.array([np.nan]) for one in values]
        mean, std = (np.array([getattr(one, name)() for one in known]) for name in ("mean", "std"))
        return cls(mean, std, pixels.valid_NPC.sum((0, 1)) / pixels.looked_at)


@dataclass(frozen=True)
class Found:
    """The figures by whom they are of: `pixels`, `labels`, or the label of an encoder; Holm is over all of them.

    `notes` are what each encoder says of itself, `left_out` what could not be measured and why.
    """

    sides: Sides
    spectra: tuple[Spectrum, Spectrum]
    figures: Mapping[str, Sequence[GapFigure]]
    notes: Mapping[str, Sequence[str]]
    left_out: Sequence[str]

    @property
    def encoders(self) -> list[str]:
        """The labels of the encoders, in order."""
        return list(self.notes)

    @property
    def tested(self) -> int:
        """How many tests Holm's correction is over."""
        return sum(one.p is not None for figures in self.figures.values() for one in figures)

    def rows(self) -> list[dict[str, Any]]:
        """As `gap.json` holds them."""
        return [
            {"encoder": whose} | {name: getattr(one, name) for name in FIELDS}
            for whose, figures in self.figures.items()
            for one in figures
        ]

    def find(self, whose: str, measure: str, band: str = "") -> GapFigure | None:
        """One figure."""
        return next((one for one in self.figures.get(whose, ()) if (one.measure, one.band) == (measure, band)), None)

    def metrics(self) -> dict[str, float]:
        """Flat figures: MEASURE/WHOSE[/BAND], and the same with /null, /p and /p_holm where they are known."""
        flat: dict[str, float] = {}
        for row in self.rows():
            name = "/".join([row["measure"], row["encoder"], *([row["band"]] if row["band"] else [])])
            ends = {"": row["value"], "/null": row["null_value"], "/p": row["p"], "/p_holm": row["p_holm"]}
            flat |= {f"{name}{end}": float(value) for end, value in ends.items() if value is not None}
        return flat


def correct_all(figures: Mapping[str, Sequence[GapFigure]]) -> dict[str, list[GapFigure]]:
    """Holm's correction over the figures of everything together."""
    done = iter(corrected([one for some in figures.values() for one in some]))
    return {whose: [next(done) for _ in some] for whose, some in figures.items()}


def known_of(side: Side, spectrum: Spectrum) -> list[GapFigure]:
    """What is only told of a domain, not compared: its ground sample distance, and the share of valid pixels."""
    gsd = [GapFigure(f"gsd_{side.role}", side.gsd_m, unit="m")] if side.gsd_m is not None else []
    shares = zip(side.bands, spectrum.valid_C.tolist(), strict=True)
    return [*gsd, *(GapFigure(f"valid_share_{side.role}", share, band=band.name) for band, share in shares)]
