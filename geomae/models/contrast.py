"""The terms `contrast` and `places`: two views of one place are told apart from the other tiles of the step.

InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) between two views and in both directions, on a projection of two
layers that is thrown away after training (Chen et al. 2020, arXiv 2002.05709). `contrast` takes both views from one
tile. `places` takes the second one from another date or sensor, as Manas et al. (2021, arXiv 2103.16607) and Ayush et
al. (2021, arXiv 2011.09980) do: what stays the same at a place is what an encoder should say of it.

B tiles of this rank, G of all ranks, H = 2 G views of them, V visible tokens, D width, E of the projection
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geomae.models.blocks import start_linear

PROJECTED = 128  # width E in which views are compared
Gather = Callable[[Tensor], Tensor]  # rows (B, E) of this rank to those of all ranks (G, E), with their gradients


class Negatives(NamedTuple):
    """Which tiles of the step each tile of this rank is told apart from: `negative_BG`, never of the same ground.

    Tiles that are not `counted` have no second view and take no part; that of a tile in `partner` is of another scene.
    Row b of this rank is row `start` + b of all.
    """

    negative_BG: Tensor
    counted_B: Tensor
    partner_B: Tensor
    start: int = 0

    def each(self, change: Callable[[Tensor], Tensor]) -> "Negatives":
        """The same with `change` made to its tensors, as to move them."""
        return Negatives(change(self.negative_BG), change(self.counted_B), change(self.partner_B), self.start)


class Projection(nn.Module):
    """Two layers between the mean of the visible tokens and what is compared."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(width, 2 * width), nn.Linear(2 * width, PROJECTED)
        start_linear(self)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Vectors (B, E) of length 1, in float32."""
        projected_BE = self.out(nn.functional.gelu(self.hidden(pooled_BD)))
        return nn.functional.normalize(projected_BE.float(), dim=1)


def pool_visible(latent_BVD: Tensor) -> Tensor:
    """The mean (B, D) of the visible tokens of an encoder's output (B, 1 + V, D); the class token does not count."""
    return latent_BVD[:, 1:].float().mean(1)


def contrast(first_BE: Tensor, second_BE: Tensor, negatives: Negatives, temperature: float, gather: Gather) -> Tensor:
    """How badly each tile's views find each other (B,): cross entropy in nats, the mean over both directions.

    The views are of length 1. A view is told from both views of all tiles that are `negative`. A tile without any, or
    that is not counted, costs nothing.
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
