"""Structural similarity (Wang et al. 2004) of the counted pixels alone.

B batch, C bands, H W pixels, h w places at which the window lies inside the tile
"""

from functools import lru_cache

import torch
from torch import Tensor

RADIUS = 5  # a window of 11 pixels
SIGMA = 1.5  # of the Gaussian window, in pixels
STABLE = (0.01**2, 0.03**2)  # of the squared data range


def ssim_map(first_BCHW: Tensor, second_BCHW: Tensor, range_C: Tensor) -> Tensor:
    """Similarity at every place that has a whole window around it: (B, C, H - 10, W - 10), in float64.

    `range_C` is the data range of each band, in the unit of the pixels.
    """
    C = first_BCHW.shape[1]
    scale = range_C.double().reshape(C, 1, 1)
    first, second = first_BCHW.double() / scale, second_BCHW.double() / scale
    down, across = (_windows(size, first.device) for size in first.shape[-2:])

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
    """Sum of the similarity over the counted pixels, and their number: two (B, C).

    Elsewhere the prediction is set to the truth, so that it has no influence there. Where the truth is not valid, both
    are the mean of the tile's valid pixels. Pixels whose window leaves the tile do not count.
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
def _windows(size: int, device: torch.device) -> Tensor:
    """Gaussian weights of each place along one side: (size - 10, size)."""
    offset = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    weight = torch.exp(-offset.square() / (2 * SIGMA**2))
    weight /= weight.sum()
    rows = torch.zeros(size - 2 * RADIUS, size, dtype=torch.float64)
    for row in range(len(rows)):
        rows[row, row : row + 2 * RADIUS + 1] = weight
    return rows.to(device)
