"""Inpainting baselines: predict hidden pixels from visible ones without training. A useful model must beat them.

B batch, N patches, P pixels of a patch in one band, C bands, H W pixels; `seen` marks the pixels that are visible and
valid, and only those are used
"""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from geomae.errors import ConfigError, nearest
from geomae.models.patches import context_statistics, grid, patchify, unpatchify

PREFIX = "baseline:"
INPAINTINGS = ("mean", "nearest", "idw", "biharmonic")
POWER = 2.0  # of Shepard 1968, and the default of GDAL and QGIS
HIGHEST_POWER = 4.0  # above it, the weights of far pixels are smaller than the rounding errors of the transform
Inpaint = Callable[[Tensor, Tensor], Tensor]


def inpainting(text: str, cell: int) -> Inpaint:
    """Return the baseline of a specification such as `baseline:idw?power=3`.

    The baseline is a function of (pixels_BCHW, seen_BCHW) that returns predicted_BCHW. `cell` is the side in pixels of
    the patches that are hidden as a whole. Raises ConfigError for an unknown name or option.
    """
    name, mark, option = text.removeprefix(PREFIX).partition("?")
    by_name: dict[str, Inpaint] = {
        "mean": tile_mean,
        "nearest": lambda pixels_BCHW, seen_BCHW: nearest_patch(pixels_BCHW, seen_BCHW, cell),
        "idw": inverse_distance,
        "biharmonic": biharmonic,
    }
    if name not in by_name:
        raise ConfigError(f"{text}: there is no baseline {name!r}; {nearest(name, by_name)}")
    if not mark:
        return by_name[name]
    written = re.fullmatch(r"power=(\d+(?:\.\d+)?)", option)
    if name != "idw" or written is None or not 0 < float(written[1]) <= HIGHEST_POWER:
        raise ConfigError(
            f"{text}: write baseline:idw?power=P with P above 0 and at most {HIGHEST_POWER:g}; no other has options"
        )
    power = float(written[1])
    return lambda pixels_BCHW, seen_BCHW: inverse_distance(pixels_BCHW, seen_BCHW, power)


def tile_mean(pixels_BCHW: Tensor, seen_BCHW: Tensor) -> Tensor:
    """Predict every pixel as the mean of the tile's seen pixels in its band; 0 where there are none."""
    return _mean(pixels_BCHW.double(), seen_BCHW, (2, 3)).to(pixels_BCHW.dtype).expand_as(pixels_BCHW)


def nearest_patch(pixels_BCHW: Tensor, seen_BCHW: Tensor, cell: int) -> Tensor:
    """Predict every pixel as the mean of the nearest seen patch of side `cell`; see `mean_of_nearest`."""
    rows, cols = grid(pixels_BCHW, cell)
    predicted_BNCP = mean_of_nearest(patchify(pixels_BCHW, cell), patchify(seen_BCHW, cell), cols)
    return unpatchify(predicted_BNCP, rows, cols)


def inverse_distance(pixels_BCHW: Tensor, seen_BCHW: Tensor, power: float = POWER) -> Tensor:
    """Predict hidden pixels as the mean of all seen ones, weighted by 1 / distance ** power (Shepard 1968).

    Distances are between centres of pixels. The weighted sums are convolutions, computed by Fourier transforms, so that
    using all seen pixels costs no more than using a few. Seen pixels keep their values.
    """
    H, W = pixels_BCHW.shape[-2:]
    centre = tile_mean(pixels_BCHW, seen_BCHW).double()  # so that rounding errors are relative to the contrast
    contrast = torch.where(seen_BCHW, pixels_BCHW.double() - centre, 0)
    weight = torch.from_numpy(_distance_weights(H, W, power)).to(pixels_BCHW.device)
    size = (2 * H, 2 * W)  # padded, so that the circular convolution does not wrap into the result

    def spread(values: Tensor) -> Tensor:
        spread_BCHW: Tensor = torch.fft.irfft2(torch.fft.rfft2(values, s=size) * weight, s=size)[..., :H, :W]
        return spread_BCHW

    seen = seen_BCHW.double()
    same_in_all_bands = bool((seen_BCHW == seen_BCHW[:, :1]).all())  # usual: pixels are valid in all bands or none
    total = spread(seen[:, :1]).expand_as(contrast) if same_in_all_bands else spread(seen)
    known = seen_BCHW.flatten(2).any(-1)[..., None, None]
    predicted = centre + torch.where(known, spread(contrast) / total.where(known, 1), 0)
    return torch.where(seen_BCHW, pixels_BCHW, predicted.to(pixels_BCHW.dtype))


def biharmonic(pixels_BCHW: Tensor, seen_BCHW: Tensor) -> Tensor:
    """Predict hidden pixels by the biharmonic equation, the smoothest surface through the seen ones (scikit-image).

    Bands with the same seen pixels are solved together, and tiles in parallel threads. Seen pixels keep their values; a
    band without seen pixels is 0.
    """
    pixels, seen = pixels_BCHW.cpu().numpy().astype(np.float64), seen_BCHW.cpu().numpy()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        tiles = list(pool.map(_biharmonic_tile, pixels, seen))
    predicted = torch.from_numpy(np.stack(tiles)).to(pixels_BCHW.device, pixels_BCHW.dtype)
    return torch.where(seen_BCHW, pixels_BCHW, predicted)


def mean_of_visible(patches_BNCP: Tensor, seen_BNCP: Tensor) -> Tensor:
    """Predict every pixel (B, N, C, P) as the mean of the tile's seen pixels in its band; 0 where there are none."""
    return _mean(patches_BNCP, seen_BNCP, (1, 3)).expand_as(patches_BNCP)


def mean_of_nearest(patches_BNCP: Tensor, seen_BNCP: Tensor, cols: int) -> Tensor:
    """Predict every pixel (B, N, C, P) as the mean of the nearest patch with seen pixels in its band.

    Of several nearest patches, the first in reading order is taken. A band without seen pixels is 0.
    """
    place = torch.arange(patches_BNCP.shape[1], device=patches_BNCP.device)
    row, col = place // cols, place % cols
    distance_NN = ((row[:, None] - row).square() + (col[:, None] - col).square()).float()
    # Adding less than one step of the squared distance breaks ties in the same way on every device.
    distance_NN = distance_NN + place / (2 * len(place))
    mean_BCN = _mean(patches_BNCP, seen_BNCP, (3,))[..., 0].transpose(1, 2)
    known_BCN = seen_BNCP.any(-1).transpose(1, 2)
    chosen_BCN = distance_NN.where(known_BCN[:, :, None, :], torch.inf).argmin(-1)
    nearest_BCN = mean_BCN.gather(2, chosen_BCN).where(known_BCN.any(-1, keepdim=True), 0)
    return nearest_BCN.transpose(1, 2)[..., None].expand_as(patches_BNCP)


def mean_by_distance(patches_BNCP: Tensor, seen_BNCP: Tensor, cols: int) -> Tensor:
    """Predict every pixel (B, N, C, P) as the mean of visible patches in its band, by inverse squared distance.

    A model with the target `patch-band` whose predictions are all zero gives this: a strong baseline.
    """
    known = context_statistics(patches_BNCP, seen_BNCP, "patch-band", cols)
    assert known is not None
    return known.mean.to(patches_BNCP.dtype).expand_as(patches_BNCP)


def _mean(values: Tensor, seen: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean of the seen values over `dims`, which are kept with length 1; 0 where there are none."""
    return values.where(seen, 0).sum(dims, keepdim=True) / seen.sum(dims, keepdim=True).clamp(min=1)


@lru_cache(maxsize=8)
def _distance_weights(height: int, width: int, power: float) -> NDArray[np.complex128]:
    """Fourier transform of 1 / distance ** power on a torus of twice the tile's size; the weight at distance 0 is 0."""
    down, across = ((torch.arange(2 * n, dtype=torch.float64) + n) % (2 * n) - n for n in (height, width))
    squared = down[:, None].square() + across.square()
    squared[0, 0] = torch.inf
    weights: NDArray[np.complex128] = torch.fft.rfft2(squared ** (-power / 2)).numpy()
    return weights


def _biharmonic_tile(pixels_CHW: NDArray[np.float64], seen_CHW: NDArray[np.bool_]) -> NDArray[np.float64]:
    predicted_CHW = np.zeros_like(pixels_CHW)
    for seen_HW in np.unique(seen_CHW, axis=0):
        bands = np.flatnonzero((seen_CHW == seen_HW).all((1, 2)))
        if not seen_HW.any():
            continue
        known = np.where(seen_HW, pixels_CHW[bands], 0)
        predicted_CHW[bands] = known if seen_HW.all() else inpaint_biharmonic(known, ~seen_HW, channel_axis=0)
    return predicted_CHW
