"""Tiles cut into patches, and the target of a reconstruction: the pixels, or the pixels normalised per patch.

B batch, C bands, H W pixels of a tile, N patches, M predicted patches, P = p*p pixels of a patch in one band.
Pixels are in standardised units; a mask of valid pixels stands beside them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from geomae.errors import ModelError

VARIANCE_FLOOR = 1e-6  # as in the published norm-pix target, so that losses are comparable


def patchify(pixels_BCHW: Tensor, side: int) -> Tensor:
    """Cut tiles (B, C, H, W) into patches (B, N, C, P), row by row; `side` must divide H and W."""
    B, C = pixels_BCHW.shape[:2]
    rows, cols = grid(pixels_BCHW, side)
    cut = pixels_BCHW.reshape(B, C, rows, side, cols, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, rows * cols, C, side * side)


def unpatchify(patches_BNCP: Tensor, rows: int, cols: int) -> Tensor:
    """The inverse of `patchify`: patches (B, N, C, P) to tiles (B, C, rows * p, cols * p)."""
    B, _, C, P = patches_BNCP.shape
    side = round(P**0.5)
    laid = patches_BNCP.reshape(B, rows, cols, C, side, side)
    return laid.permute(0, 3, 1, 4, 2, 5).reshape(B, C, rows * side, cols * side)


def grid(pixels_BCHW: Tensor, side: int) -> tuple[int, int]:
    """Rows and columns of patches in a tile. Raises ModelError where `side` does not divide it."""
    height, width = pixels_BCHW.shape[-2], pixels_BCHW.shape[-1]
    if height % side or width % side:
        raise ModelError(
            f"a patch of {side} pixels does not divide a tile of {height} x {width} pixels; cut tiles to a multiple"
        )
    return height // side, width // side


def take(values_BN: Tensor, index_BM: Tensor) -> Tensor:
    """Select the entries `index_BM` of each tile: (B, N, ...) to (B, M, ...)."""
    shape = (*index_BM.shape, *values_BN.shape[2:])
    index = index_BM.reshape(*index_BM.shape, *(1 for _ in values_BN.shape[2:])).expand(shape)
    return values_BN.gather(1, index)


class PatchStatistics(NamedTuple):
    """Mean and variance by which a target is normalised; both broadcast against (B, N, C, P)."""

    mean: Tensor
    variance: Tensor


def patch_statistics(patches_BNCP: Tensor, valid_BNCP: Tensor, target: str) -> PatchStatistics | None:
    """Statistics over the valid pixels of each patch: (B, N, 1, 1) for `patch`, (B, N, C, 1) for `patch-band`.

    None for the target `none`. The variance divides by n - 1, as the published target does (He et al. 2022, section 4).
    """
    if target == "none":
        return None
    axes = (2, 3) if target == "patch" else (3,)
    count = valid_BNCP.sum(axes, keepdim=True)
    mean = patches_BNCP.where(valid_BNCP, 0).sum(axes, keepdim=True) / count.clamp(min=1)
    square = (patches_BNCP - mean).where(valid_BNCP, 0).square().sum(axes, keepdim=True)
    return PatchStatistics(mean, square / (count - 1).clamp(min=1))


def normalise(patches_BNCP: Tensor, statistics: PatchStatistics | None) -> Tensor:
    """The target of patches (B, N, C, P): normalised by `statistics`, or unchanged where these are None."""
    if statistics is None:
        return patches_BNCP
    return (patches_BNCP - statistics.mean) / (statistics.variance + VARIANCE_FLOOR).sqrt()


def restore(prediction_BNCP: Tensor, statistics: PatchStatistics | None) -> Tensor:
    """The inverse of `normalise`; exact with the true statistics."""
    if statistics is None:
        return prediction_BNCP
    return prediction_BNCP * (statistics.variance + VARIANCE_FLOOR).sqrt() + statistics.mean


def restore_from_context(
    prediction_BMCP: Tensor, wanted_BM: Tensor, patches_BNCP: Tensor, seen_BNCP: Tensor, target: str, cols: int
) -> Tensor:
    """Bring predictions of the patches `wanted_BM` to standardised units, using statistics of the seen pixels alone."""
    known = context_statistics(patches_BNCP, seen_BNCP, target, cols)
    if known is not None:
        known = PatchStatistics(*(take(values, wanted_BM) for values in known))
    return restore(prediction_BMCP, known)


def context_statistics(patches_BNCP: Tensor, seen_BNCP: Tensor, target: str, cols: int) -> PatchStatistics | None:
    """Estimate the statistics of every patch from the seen pixels; see `estimate_hidden`."""
    statistics = patch_statistics(patches_BNCP, seen_BNCP, target)
    known_BNG = seen_BNCP.any(-1) if target == "patch-band" else seen_BNCP.flatten(2).any(-1, keepdim=True)
    return estimate_hidden(statistics, known_BNG, cols)


def estimate_hidden(statistics: PatchStatistics | None, known_BNG: Tensor, cols: int) -> PatchStatistics | None:
    """Interpolate the statistics (B, N, G, 1) of unknown patches from known ones by inverse squared distance.

    A model with a normalised target does not predict the mean and variance of a hidden patch. To show its pixels, they
    must be estimated without looking at the truth.
    """
    if statistics is None:
        return None
    N = known_BNG.shape[1]
    place = torch.arange(N, device=known_BNG.device)
    row, col = place // cols, place % cols
    distance_NN = (row[:, None] - row).square() + (col[:, None] - col).square()
    weight_BGNN = known_BNG.transpose(1, 2)[:, :, None].float() / distance_NN.clamp(min=1)
    weight_BGNN = weight_BGNN / weight_BGNN.sum(-1, keepdim=True).clamp(min=1e-12)

    def spread(values: Tensor) -> Tensor:
        known = known_BNG[..., None]
        # Replaced, not only weighted by zero, since an infinite variance times zero is NaN.
        estimated = torch.einsum("bgnm,bmgp->bngp", weight_BGNN, values.float().where(known, 0))
        return values.where(known, estimated)

    return PatchStatistics(spread(statistics.mean), spread(statistics.variance))
