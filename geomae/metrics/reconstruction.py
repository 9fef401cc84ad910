"""Errors of reconstructions: first sums per tile, then scores of these sums, so that tiles can be reweighted.

T tiles (or groups, or resamples of them), B tiles of a batch, C bands, H W pixels, I indices, G groups, R resamples,
M patches, P pixels of a patch in one band, K predictions
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.sensors import Band

Floats = NDArray[np.float64]

RADIUS = 5  # a window of 11 pixels
SIGMA = 1.5  # of the Gaussian window, in pixels
STABLE = (0.01**2, 0.03**2)  # the stabilising constants of SSIM, in units of the squared data range
ALL = "all"  # in place of a band: the mean over the bands, or a score of all bands together
HIGHEST_PSNR = 100.0  # dB; an upper limit, since PSNR is infinite where the error is 0
DATA_RANGE_STD = 6.0  # the data range of PSNR and SSIM: mean -+ 3 standard deviations of the train split
# Index = (first - second) / (first + second). Each side lists common names; the first band that is there is taken.
INDICES = {
    "ndvi": (("nir", "nir08"), ("red",)),  # Rouse et al. 1974
    "ndwi": (("green",), ("nir", "nir08")),  # open water, McFeeters 1996
}


def ssim_map(first_BCHW: Tensor, second_BCHW: Tensor, range_C: Tensor) -> Tensor:
    """SSIM at every pixel whose whole window lies in the tile: (B, C, H - 10, W - 10) in float64 (Wang et al. 2004).

    `range_C` is the data range of each band, in the unit of the pixels.
    """
    C = first_BCHW.shape[1]
    scale = range_C.double().reshape(C, 1, 1)
    first, second = first_BCHW.double() / scale, second_BCHW.double() / scale
    down, across = (torch.from_numpy(_windows(size)).to(first.device) for size in first.shape[-2:])

    def local_mean(values: Tensor) -> Tensor:
        return down @ values @ across.T

    mean_1, mean_2 = local_mean(first), local_mean(second)
    variance = local_mean(first.square() + second.square()) - mean_1.square() - mean_2.square()
    covariance = local_mean(first * second) - mean_1 * mean_2
    bright, contrast = STABLE
    alike = (2 * mean_1 * mean_2 + bright) * (2 * covariance + contrast)
    return alike / ((mean_1.square() + mean_2.square() + bright) * (variance + contrast))


def ssim_sums(
    predicted_BCHW: Tensor, truth_BCHW: Tensor, counted_BCHW: Tensor, valid_BCHW: Tensor, range_C: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of SSIM over the counted pixels, and the number of these: two tensors (B, C).

    Elsewhere the prediction is replaced by the truth, so that it has no influence; where the truth is not valid, both
    are replaced by the mean of the tile's valid pixels. Pixels whose window leaves the tile do not count.
    """
    H, W = truth_BCHW.shape[-2:]
    if min(H, W) <= 2 * RADIUS:
        nothing = torch.zeros(truth_BCHW.shape[:2], dtype=torch.float64, device=truth_BCHW.device)
        return nothing, nothing
    total = truth_BCHW.where(valid_BCHW, 0).double().sum((2, 3), keepdim=True)
    fill = total / valid_BCHW.sum((2, 3), keepdim=True).clamp(min=1)
    truth = truth_BCHW.double().where(valid_BCHW, fill)
    inside = counted_BCHW[..., RADIUS : H - RADIUS, RADIUS : W - RADIUS]
    similarity = ssim_map(predicted_BCHW.double().where(counted_BCHW, truth), truth, range_C)
    return similarity.where(inside, 0).sum((2, 3)), inside.sum((2, 3)).double()


@lru_cache(maxsize=8)
def _windows(size: int) -> NDArray[np.float64]:
    """The Gaussian filter along one side as a matrix: (size - 10, size)."""
    offset = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    weight = torch.exp(-offset.square() / (2 * SIGMA**2))
    weight /= weight.sum()
    rows = torch.zeros(size - 2 * RADIUS, size, dtype=torch.float64)
    for row in range(len(rows)):
        rows[row, row : row + 2 * RADIUS + 1] = weight
    windows: NDArray[np.float64] = rows.numpy()
    return windows


@dataclass(frozen=True)
class Index:
    """A normalised difference of two bands; `first` and `second` are their places in the data set."""

    name: str
    first: int
    second: int

    def of(self, pixels_BCHW: Tensor) -> Tensor:
        """The index (B, H, W), from -1 to 1. Negative pixel values count as 0; NaN where both bands are 0."""
        first, second = (pixels_BCHW[:, place].clamp(min=0) for place in (self.first, self.second))
        return (first - second) / (first + second)


def indices(bands: Sequence[Band]) -> tuple[Index, ...]:
    """The spectral indices of INDICES whose two bands are among `bands`."""
    place: dict[str | None, int] = {}
    for number, band in enumerate(bands):
        place.setdefault(band.common_name, number)
    known = []
    for name, pair in INDICES.items():
        first, second = (next((place[one] for one in names if one in place), None) for names in pair)
        if first is not None and second is not None:
            known.append(Index(name, first, second))
    return tuple(known)


def spectral_angle(first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
    """Angle between the spectra of every pixel, in degrees: (B, H, W) in float64 (Kruse et al. 1993).

    Computed from sums and differences (Kahan 2006), since the arc cosine is inaccurate for small angles. The angle
    between two spectra of zeros is 0 degrees, and between one of zeros and any other 90 degrees.
    """
    first, second = first_BCHW.double(), second_BCHW.double()
    length_1, length_2 = _length(first), _length(second)
    crosswise_1, crosswise_2 = first * length_2[:, None], second * length_1[:, None]
    angle = 2 * torch.atan2(_length(crosswise_1 - crosswise_2), _length(crosswise_1 + crosswise_2))
    return torch.rad2deg(angle).masked_fill((length_1 == 0) != (length_2 == 0), 90.0)


def index_errors(
    predicted_BCHW: Tensor, truth_BCHW: Tensor, counted_BCHW: Tensor, chosen: Sequence[Index]
) -> tuple[Tensor, Tensor]:
    """Errors (B, I, H, W) of indices, 0 where a pixel does not count; and which pixels count, of the same shape.

    A pixel counts where it counts in both bands and the true index is not NaN. A predicted index of NaN counts as 0.
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


@dataclass(frozen=True)
class TileErrors:
    """Sums of squared errors (T, C) by name of the prediction, in the data set's unit squared; pixel counts (T, C)."""

    squares_TC: dict[str, Floats]
    pixels_TC: Floats

    def of_bands(self, places: Sequence[int]) -> "TileErrors":
        """The errors of the bands at `places`."""
        chosen = list(places)
        return TileErrors(
            {name: values[:, chosen] for name, values in self.squares_TC.items()}, self.pixels_TC[:, chosen]
        )

    def rmse(self, name: str, weight_T: Floats | None = None) -> float:
        """Mean RMSE over the bands that have a counted pixel; NaN where none has.

        `weight_T` says how often each tile counts.
        """
        weight_T = np.ones(len(self.pixels_TC)) if weight_T is None else weight_T
        pixels_C = weight_T @ self.pixels_TC
        known_C = pixels_C > 0
        if not known_C.any():
            return float("nan")
        return float(np.sqrt((weight_T @ self.squares_TC[name])[known_C] / pixels_C[known_C]).mean())


@dataclass(frozen=True)
class ErrorSums:
    """Sums over the counted pixels of each tile, by band (T, C), across bands (T, 1) and by index (T, I)."""

    pixels_TC: Floats
    error_TC: Floats
    absolute_TC: Floats
    square_TC: Floats
    truth_TC: Floats
    similarity_TC: Floats
    similarity_pixels_TC: Floats
    angle_T1: Floats
    angle_pixels_T1: Floats
    index_pixels_TI: Floats
    index_error_TI: Floats
    index_absolute_TI: Floats
    index_square_TI: Floats

    def __len__(self) -> int:
        return len(self.pixels_TC)

    def weighted(self, weight_RT: Floats) -> "ErrorSums":
        """Weighted sums over tiles, one per row of `weight_RT`, which says how often each tile counts."""
        return ErrorSums(**{one.name: weight_RT @ getattr(self, one.name) for one in fields(self)})

    def by_group(self, group_T: NDArray[np.int64]) -> "ErrorSums":
        """The sums of each group."""
        member_GT = np.arange(int(group_T.max()) + 1)[:, None] == group_T
        return self.weighted(member_GT.astype(np.float64))

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> "ErrorSums":
        """The sums of the chosen tiles."""
        return ErrorSums(**{one.name: getattr(self, one.name)[chosen] for one in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence["ErrorSums"]) -> "ErrorSums":
        """The tiles of all parts, in order."""
        return cls(**{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)})


def sum_squares(predictions: Sequence[Tensor], truth_BMCP: Tensor, counted_BMCP: Tensor, exact: torch.dtype) -> Tensor:
    """Sums of squared errors over the counted pixels of patches, by prediction, tile and band: (K + 1, B, C).

    The last row counts the pixels. `exact` is the type in which sums are taken, float64 where the device has it.
    """
    sums = [(one - truth_BMCP).where(counted_BMCP, 0).square().to(exact).sum((1, 3)) for one in predictions]
    return torch.stack([*sums, counted_BMCP.sum((1, 3)).to(exact)])


def error_sums(
    predicted_BCHW: Tensor,
    truth_BCHW: Tensor,
    counted_BCHW: Tensor,
    valid_BCHW: Tensor,
    bands: Sequence[Band],
    range_C: Tensor,
) -> ErrorSums:
    """Compare a prediction with the truth on the counted pixels, which are a subset of the valid ones.

    Values of other pixels, also NaN, have no influence. `range_C` is the data range of SSIM, in the pixels' unit.
    Needs a device with float64.
    """
    truth = truth_BCHW.double().where(valid_BCHW, 0)
    predicted = predicted_BCHW.double().where(counted_BCHW, truth)
    error = (predicted - truth).where(counted_BCHW, 0)
    similarity = ssim_sums(predicted, truth, counted_BCHW, valid_BCHW, range_C)
    every_band = counted_BCHW.all(dim=1)
    angle = spectral_angle(predicted, truth).where(every_band, 0)
    index_error, index_counted = index_errors(predicted, truth, counted_BCHW, indices(bands))
    per_band = [counted_BCHW, error, error.abs(), error.square(), truth.where(counted_BCHW, 0)]
    per_index = [index_counted, index_error, index_error.abs(), index_error.square()]
    sums = [
        *(values.sum((2, 3)) for values in per_band), *similarity,
        angle.sum((1, 2))[:, None], every_band.sum((1, 2))[:, None],
        *(values.sum((2, 3)) for values in per_index),
    ]  # fmt: skip
    return ErrorSums(*(values.cpu().numpy().astype(np.float64) for values in sums))


def figures(sums: ErrorSums, bands: Sequence[Band], range_C: Floats) -> dict[tuple[str, str], Floats]:
    """All scores by (metric, band), each (T,), NaN where no pixel counts; `units` gives their units.

    By band, and as the mean over bands (`all`): rmse, mae, bias (prediction - truth), psnr, ssim, and the data_range of
    the last two. Of all bands together: spectral_angle (mean over pixels), ergas (for a ratio of resolutions of 1; Wald
    2000), and rmse, mae and bias of NDVI and NDWI where their bands are there.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        square_TC = sums.square_TC / sums.pixels_TC
        by_band = {
            "rmse": np.sqrt(square_TC),
            "mae": sums.absolute_TC / sums.pixels_TC,
            "bias": sums.error_TC / sums.pixels_TC,
            "psnr": np.minimum(20 * np.log10(range_C) - 10 * np.log10(square_TC), HIGHEST_PSNR),
            "ssim": sums.similarity_TC / sums.similarity_pixels_TC,
            "data_range": np.broadcast_to(range_C, square_TC.shape),
        }
        relative_TC = square_TC / (sums.truth_TC / sums.pixels_TC) ** 2
        by_figure = {
            (metric, band.name): values[:, place]
            for metric, values in by_band.items()
            for place, band in enumerate(bands)
        }
        by_figure |= {(metric, ALL): _mean_of_known(values) for metric, values in by_band.items()}
        by_figure["spectral_angle", ALL] = (sums.angle_T1 / sums.angle_pixels_T1)[:, 0]
        by_figure["ergas", ALL] = 100 * np.sqrt(_mean_of_known(relative_TC))
        for place, index in enumerate(indices(bands)):
            count = sums.index_pixels_TI[:, place]
            by_figure[f"{index.name}_rmse", ALL] = np.sqrt(sums.index_square_TI[:, place] / count)
            by_figure[f"{index.name}_mae", ALL] = sums.index_absolute_TI[:, place] / count
            by_figure[f"{index.name}_bias", ALL] = sums.index_error_TI[:, place] / count
    return by_figure


def units(metric: str, unit: str) -> str:
    """The unit of a metric, where pixels are in `unit`; "1" for a metric without unit."""
    if metric in ("rmse", "mae", "bias", "data_range"):
        return unit
    return {"psnr": "dB", "spectral_angle": "degree"}.get(metric, "1")


def _mean_of_known(values_TC: Floats) -> Floats:
    """Mean over the bands that have a counted pixel; NaN where none has."""
    known_TC = ~np.isnan(values_TC)
    mean_T: Floats = np.where(known_TC, values_TC, 0).sum(1) / known_TC.sum(1)
    return mean_T
