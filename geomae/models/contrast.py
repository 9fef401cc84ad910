"""The loss terms `contrast` and `places`: a contrastive loss between two views of the same place.

InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) in both directions, on a projection head of two layers that is
discarded after training (Chen et al. 2020, arXiv 2002.05709). Negative pairs come from the other tiles of the step.
`contrast` takes both views from one tile. `places` takes the second view from another date or sensor, as Manas et al.
(2021, arXiv 2103.16607) and Ayush et al. (2021, arXiv 2011.09980) do, so that embeddings keep what is permanent at a
place.

B tiles of this rank, G of all ranks, H = 2 G views of them, V visible tokens, D width, E width of the projection
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geomae.models.blocks import start_linear

PROJECTED = 128  # width E of the projections that are compared
Gather = Callable[[Tensor], Tensor]  # gathers rows (B, E) of this rank into those of all ranks (G, E), with gradients


class Negatives(NamedTuple):
    """Negative pairs of a step: `negative_BG` selects the negatives of each tile, which never show the same ground.

    `counted_B` selects the tiles that have a second view; the others take no part. `partner_B` selects those whose
    second view is of another scene. Row b of this rank is row `start` + b of all ranks.
    """

    negative_BG: Tensor
    counted_B: Tensor
    partner_B: Tensor
    start: int = 0

    def each(self, change: Callable[[Tensor], Tensor]) -> "Negatives":
        """Apply `change` to every tensor, for example to move it to a device."""
        return Negatives(change(self.negative_BG), change(self.counted_B), change(self.partner_B), self.start)


class Projection(nn.Module):
    """Projection head: two layers from the mean of the visible tokens to the vectors that are compared."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(width, 2 * width), nn.Linear(2 * width, PROJECTED)
        start_linear(self)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Projections (B, E) of length 1, in float32."""
        projected_BE = self.out(nn.functional.gelu(self.hidden(pooled_BD)))
        return nn.functional.normalize(projected_BE.float(), dim=1)


def pool_visible(latent_BVD: Tensor) -> Tensor:
    """Mean (B, D) of the visible tokens of an encoder's output (B, 1 + V, D), without the class token."""
    return latent_BVD[:, 1:].float().mean(1)


def contrast(first_BE: Tensor, second_BE: Tensor, negatives: Negatives, temperature: float, gather: Gather) -> Tensor:
    """InfoNCE loss of each tile (B,): the cross entropy in nats, averaged over both directions.

    Projections have length 1. Both views of each negative tile serve as negatives. The loss is 0 for a tile that has no
    negatives or is not counted.
    """
    own_B = negatives.start + torch.arange(len(first_BE), device=first_BE.device)
    counted_G = gather(negatives.counted_B[:, None].to(first_BE.dtype))[:, 0] > 0
    negative_BG = negatives.negative_BG & counted_G
    against_BH = torch.cat([negative_BG.scatter(1, own_B[:, None], True), negative_BG], dim=1)  # H = 2 G
    total_B = first_BE.new_zeros(len(first_BE))
    with torch.autocast(first_BE.device.type, enabled=False):
        every = gather(first_BE), gather(second_BE)
        for one_BE, (same_GE, other_GE) in ((first_BE, every), (second_BE, every[::-1])):
            alike_BH = one_BE @ torch.cat([other_GE, same_GE]).T / temperature
            alike_BH = alike_BH.masked_fill(~against_BH, float("-inf"))
            total_B = total_B + nn.functional.cross_entropy(alike_BH, own_B, reduction="none")
    return total_B.where(negatives.counted_B, 0) / 2
