"""Errors across bands: the angle between two spectra, and errors of indices made of two bands.

B batch, C bands, H W pixels, I indices
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geomae.sensors import Band

# Index = (first - second) / (first + second), by common names of the bands, the first of each that is there.
INDICES = {
    "ndvi": (("nir", "nir08"), ("red",)),  # Rouse et al. 1974
    "ndwi": (("green",), ("nir", "nir08")),  # of open water, McFeeters 1996
}


@dataclass(frozen=True)
class Index:
    """A normalised difference of two bands, by their places."""

    name: str
    first: int
    second: int

    def of(self, pixels_BCHW: Tensor) -> Tensor:
        """The index (B, H, W), -1 to 1; values below zero count as zero, and NaN is where both are."""
        first, second = (pixels_BCHW[:, place].clamp(min=0) for place in (self.first, self.second))
        return (first - second) / (first + second)


def indices(bands: Sequence[Band]) -> tuple[Index, ...]:
    """The indices whose bands are there."""
    place: dict[str | None, int] = {}
    for number, band in enumerate(bands):
        place.setdefault(band.common_name, number)
    found = []
    for name, sides in INDICES.items():
        first, second = (next((place[one] for one in side if one in place), None) for side in sides)
        if first is not None and second is not None:
            found.append(Index(name, first, second))
    return tuple(found)


def spectral_angle(first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
    """Angle between the spectra of every pixel, in degrees: (B, H, W) in float64 (Kruse et al. 1993).

    Computed from sums and differences (Kahan 2006), since the arc cosine loses small angles. A spectrum of zeros is at
    0 degrees from another one and at 90 from any other spectrum.
    """
    first, second = first_BCHW.double(), second_BCHW.double()
    length_1, length_2 = _length(first), _length(second)
    crosswise_1, crosswise_2 = first * length_2[:, None], second * length_1[:, None]
    angle = 2 * torch.atan2(_length(crosswise_1 - crosswise_2), _length(crosswise_1 + crosswise_2))
    return torch.rad2deg(angle).masked_fill((length_1 == 0) != (length_2 == 0), 90.0)


def index_errors(
    predicted_BCHW: Tensor, truth_BCHW: Tensor, counted_BCHW: Tensor, chosen: Sequence[Index]
) -> tuple[Tensor, Tensor]:
    """Errors (B, I, H, W) of indices, 0 where a pixel does not count, and which count.

    A pixel counts where it does in both bands and the true index is known; a predicted one that is not counts as 0.
    """
    B, _, H, W = truth_BCHW.shape
    errors = torch.zeros(B, len(chosen), H, W, dtype=torch.float64, device=truth_BCHW.device)
    counted = torch.zeros(errors.shape, dtype=torch.bool, device=errors.device)
    for number, index in enumerate(chosen):
        truth, predicted = index.of(truth_BCHW.double()), index.of(predicted_BCHW.double())
        both = counted_BCHW[:, index.first] & counted_BCHW[:, index.second]
        counted[:, number] = both & ~truth.isnan()
        errors[:, number] = (predicted.nan_to_num(0) - truth).where(counted[:, number], 0)
    return errors, counted


def _length(spectra_BCHW: Tensor) -> Tensor:
    return spectra_BCHW.square().sum(1).sqrt()  # torch's own norm across bands takes four times as long
