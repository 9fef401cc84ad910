"""Reconstructions that need no training. A model that does not beat them has learned nothing about the hidden patches.

B batch, N patches, C bands, P pixels of a patch in one band
"""

import torch
from torch import Tensor


def mean_of_visible(patches_BNCP: Tensor, valid_BNCP: Tensor, visible_BN: Tensor) -> Tensor:
    """Every pixel is the mean of the tile's visible valid pixels in its band: (B, N, C, P)."""
    seen = valid_BNCP & visible_BN[:, :, None, None]
    total = patches_BNCP.where(seen, 0).sum((1, 3), keepdim=True)
    mean = total / seen.sum((1, 3), keepdim=True).clamp(min=1)
    return mean.expand_as(patches_BNCP)


def mean_of_nearest(patches_BNCP: Tensor, valid_BNCP: Tensor, visible_BN: Tensor, cols: int) -> Tensor:
    """Every pixel is the mean of the nearest visible patch in its band; of several nearest, the mean over them.

    A band that has no valid pixel in a visible patch does not take part there; where no visible patch has it, 0.
    """
    place = torch.arange(patches_BNCP.shape[1], device=patches_BNCP.device)
    row, col = place // cols, place % cols
    distance_NN = ((row[:, None] - row).square() + (col[:, None] - col).square()).float()
    count_BNC = valid_BNCP.sum(-1)
    mean_BNC = patches_BNCP.where(valid_BNCP, 0).sum(-1) / count_BNC.clamp(min=1)
    known_BCN = ((count_BNC > 0) & visible_BN[..., None]).transpose(1, 2)
    distance_BCNN = distance_NN.where(known_BCN[:, :, None, :], torch.inf)
    chosen = (distance_BCNN == distance_BCNN.amin(-1, keepdim=True)) & known_BCN[:, :, None, :]
    weight = chosen.float() / chosen.sum(-1, keepdim=True).clamp(min=1)
    nearest_BCN = torch.einsum("bcnm,bmc->bcn", weight, mean_BNC)
    return nearest_BCN.transpose(1, 2)[..., None].expand_as(patches_BNCP)
