"""How far a reconstruction is from the truth: sums per tile first, figures from sums, so that tiles can be reweighted.

T tiles (or groups, or resamples of them), B tiles of a batch, C bands, H W pixels, I indices, G groups, R resamples
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomae.analysis.spectral import index_errors, indices, spectral_angle
from geomae.analysis.ssim import ssim_sums
from geomae.sensors import Band

Floats = NDArray[np.float64]
ALL = "all"  # in place of a band: the mean over the bands, or a figure that is of all bands at once
HIGHEST_PSNR = 100.0  # dB; where the error is 0, it would be infinite
DATA_RANGE_STD = 6.0  # the data range of PSNR and SSIM: mean -+ 3 standard deviations of the train split


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
        """The sums of R choices of the tiles, each counting as often as `weight_RT` says."""
        return ErrorSums(**{one.name: weight_RT @ getattr(self, one.name) for one in fields(self)})

    def by_group(self, group_T: NDArray[np.int64]) -> "ErrorSums":
        """The sums of each group."""
        member_GT = np.arange(int(group_T.max()) + 1)[:, None] == group_T
        return self.weighted(member_GT.astype(np.float64))

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> "ErrorSums":
        """The sums of some tiles."""
        return ErrorSums(**{one.name: getattr(self, one.name)[chosen] for one in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence["ErrorSums"]) -> "ErrorSums":
        """The tiles of all parts, in order."""
        return cls(**{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)})


def error_sums(
    predicted_BCHW: Tensor,
    truth_BCHW: Tensor,
    counted_BCHW: Tensor,
    valid_BCHW: Tensor,
    bands: Sequence[Band],
    range_C: Tensor,
) -> ErrorSums:
    """Compare a prediction with the truth on the pixels that are `counted`, a part of the `valid` ones.

    Values of other pixels, NaN included, have no influence. `range_C` is the data range of SSIM, in the pixels' unit.
    Raises nothing; needs a device with float64.
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
    """Every figure by (metric, band), each (T,), NaN where no pixel counts: see `units`.

    By band and as their mean (`all`): rmse, mae, bias (prediction - truth), psnr, ssim, and the data_range of the last
    two. Of all bands: spectral_angle (mean over pixels), ergas (resolutions of ratio 1; Wald 2000), and rmse, mae and
    bias of NDVI and NDWI where their bands are there.
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
        found = {
            (metric, band.name): values[:, place]
            for metric, values in by_band.items()
            for place, band in enumerate(bands)
        }
        found |= {(metric, ALL): _mean_of_known(values) for metric, values in by_band.items()}
        found["spectral_angle", ALL] = (sums.angle_T1 / sums.angle_pixels_T1)[:, 0]
        found["ergas", ALL] = 100 * np.sqrt(_mean_of_known(relative_TC))
        for place, index in enumerate(indices(bands)):
            count = sums.index_pixels_TI[:, place]
            found[f"{index.name}_rmse", ALL] = np.sqrt(sums.index_square_TI[:, place] / count)
            found[f"{index.name}_mae", ALL] = sums.index_absolute_TI[:, place] / count
            found[f"{index.name}_bias", ALL] = sums.index_error_TI[:, place] / count
    return found


def units(metric: str, unit: str) -> str:
    """The unit of a figure, where pixels are in `unit`; 1 for those without."""
    if metric in ("rmse", "mae", "bias", "data_range"):
        return unit
    return {"psnr": "dB", "spectral_angle": "degree"}.get(metric, "1")


def _mean_of_known(values_TC: Floats) -> Floats:
    """The mean over the bands that have a counted pixel; NaN where none has."""
    known_TC = ~np.isnan(values_TC)
    mean_T: Floats = np.where(known_TC, values_TC, 0).sum(1) / known_TC.sum(1)
    return mean_T
