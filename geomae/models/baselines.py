"""Reconstructions that need no training. A model that does not beat them has learned nothing about the hidden patches.

B batch, N patches, C bands, P pixels of a patch in one band; `seen` are the valid pixels that a model is shown
"""

import torch
from torch import Tensor

from geomae.models.target import context_statistics


def mean_of_visible(patches_BNCP: Tensor, seen_BNCP: Tensor) -> Tensor:
    """Every pixel is the mean of the tile's visible valid pixels in its band: (B, N, C, P); 0 where there are none."""
    total = patches_BNCP.where(seen_BNCP, 0).sum((1, 3), keepdim=True)
    mean = total / seen_BNCP.sum((1, 3), keepdim=True).clamp(min=1)
    return mean.expand_as(patches_BNCP)


def mean_of_nearest(patches_BNCP: Tensor, seen_BNCP: Tensor, cols: int) -> Tensor:
    """Every pixel is the mean of the nearest visible patch in its band; of several nearest, the first in reading order.

    For a band, patches without a visible valid pixel of it do not take part; where none has any, 0.
    """
    place = torch.arange(patches_BNCP.shape[1], device=patches_BNCP.device)
    row, col = place // cols, place % cols
    distance_NN = ((row[:, None] - row).square() + (col[:, None] - col).square()).float()
    # A share of less than one step of the squared distance breaks ties the same way on every device.
    distance_NN = distance_NN + place / (2 * len(place))
    count_BCN = seen_BNCP.sum(-1).transpose(1, 2)
    mean_BCN = patches_BNCP.where(seen_BNCP, 0).sum(-1).transpose(1, 2) / count_BCN.clamp(min=1)
    known_BCN = count_BCN > 0
    chosen_BCN = distance_NN.where(known_BCN[:, :, None, :], torch.inf).argmin(-1)
    nearest_BCN = mean_BCN.gather(2, chosen_BCN).where(known_BCN.any(-1, keepdim=True), 0)
    return nearest_BCN.transpose(1, 2)[..., None].expand_as(patches_BNCP)


def mean_by_distance(patches_BNCP: Tensor, seen_BNCP: Tensor, cols: int) -> Tensor:
    """Every pixel is the mean of the visible patches in its band, weighted by inverse squared distance.

    It is what a model with the target `patch-band` gives that predicts nothing: a hard one to beat.
    """
    known = context_statistics(patches_BNCP, seen_BNCP, "patch-band", cols)
    assert known is not None
    return known.mean.to(patches_BNCP.dtype).expand_as(patches_BNCP)
