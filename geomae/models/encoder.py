"""The encoder: a vision transformer that processes only the visible tokens.

B batch, N patches, C bands, P pixels of a patch in one band, X tokens of a tile (one per patch and group), V visible
tokens, D width
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geomae.models.architecture import Architecture
from geomae.models.band_embedding import EMBEDDINGS
from geomae.models.blocks import Positions, blocks, choose_kernels, token
from geomae.models.patches import take


class Encoder(nn.Module):
    """Blocks and parameter names are timm's. With several groups, a learned token per group is added."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.groups = architecture.groups
        self.embedding = EMBEDDINGS[architecture.embedding].layer(architecture)
        if self.groups:
            self.group_token = token(width, len(self.groups))
        self.cls_token = token(width)
        self.positions = Positions(architecture, width)
        self.blocks = blocks(architecture, width, architecture.depth, architecture.heads)
        self.norm = nn.LayerNorm(width, eps=architecture.norm_eps)

    def forward(
        self,
        patches_BNCP: Tensor,
        valid_BNCP: Tensor,
        codes_CF: Tensor,
        seen_BV: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """Encode the tokens `seen_BV` of tiles: (B, 1 + V, D) after the last norm, class token first."""
        x = self.start(patches_BNCP, valid_BNCP, codes_CF, seen_BV, shape, scale)
        return self.finish(self.run(x, 0, len(self.blocks)))

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Run tokens (B, 1 + V, D) through the blocks `first` (counted from 0) to `stop` (not included)."""
        choose_kernels(self.blocks, x.device, x.shape[1])
        for block in self.blocks[first:stop]:
            x = block(x)
        return x

    def finish(self, x: Tensor) -> Tensor:
        """Apply the last norm to tokens (B, 1 + V, D)."""
        normed: Tensor = self.norm(x)
        return normed

    def start(
        self,
        patches_BNCP: Tensor,
        valid_BNCP: Tensor,
        codes_CF: Tensor,
        seen_BV: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """The input (B, 1 + V, D) of the first block: embedded patches with positions, class token first."""
        N = shape[0] * shape[1]
        if self.groups is None:  # only the visible patches are embedded
            tokens_BVD = self.embedding.embed(take(patches_BNCP, seen_BV), take(valid_BNCP, seen_BV), codes_CF)
        else:  # visible places may differ by group; embedding all patches costs a hundredth of the blocks
            tokens_BVD = take(self.embedding.embed(patches_BNCP, valid_BNCP, codes_CF), seen_BV)
            tokens_BVD = tokens_BVD + self.group_token[0][seen_BV // N]
        tokens_BVD = tokens_BVD + self.positions(seen_BV % N, shape, scale)
        cls_11D = self.cls_token + self.positions.of_class()
        return torch.cat([cls_11D.expand(len(tokens_BVD), -1, -1), tokens_BVD], dim=1)

    def whole(
        self,
        patches_BNCP: Tensor,
        valid_BNCP: Tensor,
        codes_CF: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor = 1.0,
        layer: int | None = None,
    ) -> Tensor:
        """Tokens (B, 1 + X, D) of whole tiles after block `layer`, from 1; with None after the last and its norm.

        Later blocks do not run. Tokens without a valid pixel are masked as attention keys, so that pixels that were not
        measured have no influence on other tokens.
        """
        count = len(self.blocks) if layer is None else layer
        (x,) = self.at_depths(patches_BNCP, valid_BNCP, codes_CF, shape, scale, (count,))
        return x if count < len(self.blocks) else self.norm(x)

    def at_depths(
        self,
        patches_BNCP: Tensor,
        valid_BNCP: Tensor,
        codes_CF: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor,
        layers: Sequence[int],
    ) -> list[Tensor]:
        """Tokens (B, 1 + X, D) of whole tiles after each of the blocks `layers` (from 1, ascending), without norm."""
        usable_BX = self.usable(valid_BNCP)
        every_BX = torch.arange(usable_BX.shape[1], device=usable_BX.device).expand(usable_BX.shape)
        x = self.start(patches_BNCP, valid_BNCP, codes_CF, every_BX, shape, scale)
        bias = None
        if not bool(usable_BX.all()):
            keys = torch.cat([usable_BX.new_ones(len(x), 1), usable_BX], dim=1)
            bias = torch.zeros_like(keys, dtype=x.dtype).masked_fill(~keys, float("-inf"))[:, None, None, :]
        choose_kernels(self.blocks, x.device, x.shape[1])
        found = []
        for number, block in enumerate(self.blocks[: layers[-1]], 1):
            x = block(x, attn_mask=bias)
            if number in layers:
                found.append(x)
        return found

    def usable(self, valid_BNCP: Tensor) -> Tensor:
        """Select the tokens (B, X) of whole tiles that have a valid pixel."""
        groups = self.groups or (tuple(range(valid_BNCP.shape[2])),)
        return torch.cat([valid_BNCP[:, :, list(group)].flatten(2).any(-1) for group in groups], dim=1)


def mean_over_groups(tokens_BXD: Tensor, usable_BX: Tensor, groups: int) -> Tensor:
    """Average the tokens of a patch over the groups with a valid pixel there: (B, X, D) to (B, N, D)."""
    if groups == 1:
        return tokens_BXD
    B, _, D = tokens_BXD.shape
    usable_BGN = usable_BX.reshape(B, groups, -1)
    weight_BGN = usable_BGN / usable_BGN.sum(1, keepdim=True).clamp(min=1)
    return (tokens_BXD.reshape(B, groups, -1, D) * weight_BGN[..., None]).sum(1)
