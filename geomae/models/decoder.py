"""Decoders predict patches from visible tokens. `full`, `window`, `cross` differ in which tokens attend to which.

B batch, N patches, C bands, G groups, X = G * N tokens, V visible tokens, M wanted patches, Y = G * M wanted tokens,
P pixels of a patch in one band, D width
"""

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from geomae.models.architecture import Architecture
from geomae.models.band_embedding import EMBEDDINGS
from geomae.models.blocks import (
    Positions,
    attend,
    attend_in_windows,
    blocks,
    choose_kernels,
    layer_norm,
    start_linear,
    token,
)
from geomae.models.patches import take


class Decoder(nn.Module):
    """`full`: self-attention over all tokens; a learned mask token replaces each hidden one (He et al. 2022)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        options = architecture.decoder
        if options is None:
            raise ValueError("an encoder alone has no decoder")
        self.options, self.groups = options, architecture.groups
        self.embed = nn.Linear(architecture.width, options.width)
        start_linear(self.embed)
        self.mask_token = token(options.width)
        if self.groups:
            self.group_token = token(options.width, len(self.groups))
        self.positions = Positions(architecture, options.width)
        self.blocks = self._blocks(architecture)
        self.norm = nn.LayerNorm(options.width, eps=architecture.norm_eps)
        self.head = EMBEDDINGS[architecture.embedding].head(architecture, options.width)

    def forward(
        self,
        latent_BVD: Tensor,
        codes_CF: Tensor,
        order_BX: Tensor,
        wanted_BM: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """Predict the wanted patches (B, M, C, P) from the class token and the visible tokens."""
        N = shape[0] * shape[1]
        wanted_BY = torch.cat([wanted_BM + g * N for g in range(len(self.groups or (0,)))], dim=1)
        # The residual stream is fp32, also where no positions or group tokens (in fp32) are added to a bf16 output.
        x = self.decode(self.embed(latent_BVD).float(), order_BX, wanted_BY, shape, scale)
        prediction: Tensor = self.head.predict(self.norm(x), codes_CF)  # norm and head see only the wanted tokens
        return prediction

    def decode(
        self, latent_BVD: Tensor, order_BX: Tensor, wanted_BY: Tensor, shape: tuple[int, int], scale: float | Tensor
    ) -> Tensor:
        """The wanted tokens (B, Y, D), before norm and head."""
        # Tokens stay in the order (visible, hidden), since attention does not depend on their order.
        x = torch.cat(
            [
                latent_BVD[:, :1] + (self.positions.of_class() if self.options.positions else 0.0),
                self._placed(latent_BVD, order_BX, shape, scale),
            ],
            dim=1,
        )
        choose_kernels(self.blocks, x.device, x.shape[1])
        for block in self.blocks:
            x = block(x)
        return take(x, 1 + order_BX.argsort(1).gather(1, wanted_BY))

    def _blocks(self, architecture: Architecture) -> nn.ModuleList:
        return blocks(architecture, self.options.width, self.options.depth, self.options.heads)

    def _placed(self, latent_BVD: Tensor, order_BX: Tensor, shape: tuple[int, int], scale: float | Tensor) -> Tensor:
        """All tokens of a tile (B, X, D) in the order `order_BX`, with positions; hidden ones are mask tokens."""
        hidden = order_BX.shape[1] - (latent_BVD.shape[1] - 1)
        masks = self.mask_token.to(latent_BVD.dtype).expand(len(order_BX), hidden, -1)
        return torch.cat([latent_BVD[:, 1:], masks], dim=1) + self._place(order_BX, shape, scale)

    def _place(self, token_BK: Tensor, shape: tuple[int, int], scale: float | Tensor) -> Tensor | float:
        """The position encodings and group tokens that are added to tokens."""
        N = shape[0] * shape[1]
        place = self.positions(token_BK % N, shape, scale) if self.options.positions else 0.0
        return place + self.group_token[0][token_BK // N] if self.groups else place


class WindowDecoder(Decoder):
    """`window`: self-attention within windows of the grid, shifted by half in every second block (Liu et al. 2021).

    A window holds the tokens of all groups at its places. The class token has no place and is not decoded.
    """

    def decode(
        self, latent_BVD: Tensor, order_BX: Tensor, wanted_BY: Tensor, shape: tuple[int, int], scale: float | Tensor
    ) -> Tensor:
        """The wanted tokens (B, Y, D), before norm and head."""
        x = self._placed(latent_BVD, order_BX, shape, scale)
        x = take(x, order_BX.argsort(1))  # windows need row-major order
        window, tokens = self.options.window, len(self.groups or (0,))
        choose_kernels(self.blocks, x.device, window**2 * tokens)
        for number, block in enumerate(self.blocks):
            x = attend_in_windows(block, x, shape, tokens, window, shift=window // 2 if number % 2 else 0)
        return take(x, wanted_BY)


class CrossDecoder(Decoder):
    """`cross`: hidden tokens attend to visible ones only, never to each other (CrossMAE, Fu et al. 2024).

    Predictions are independent of each other, so training may predict only a fraction of the hidden patches. Unlike in
    the paper, every block attends to the encoder's last layer, and positions are added to the visible tokens.
    """

    def decode(
        self, latent_BVD: Tensor, order_BX: Tensor, wanted_BY: Tensor, shape: tuple[int, int], scale: float | Tensor
    ) -> Tensor:
        """The wanted tokens (B, Y, D), before norm and head."""
        seen_BV = order_BX[:, : latent_BVD.shape[1] - 1]
        placed = latent_BVD[:, 1:] + self._place(seen_BV, shape, scale)
        memory = torch.cat([latent_BVD[:, :1].to(placed.dtype), placed], dim=1)
        x = self.mask_token.expand(*wanted_BY.shape, -1) + self._place(wanted_BY, shape, scale)
        for block in self.blocks:
            x = block(x, memory)
        return x

    def _blocks(self, architecture: Architecture) -> nn.ModuleList:
        made = nn.ModuleList(CrossBlock(architecture) for _ in range(self.options.depth))
        start_linear(made)
        return made


class CrossBlock(nn.Module):
    """Cross-attention from queries to a memory, then an MLP; both pre-norm and residual."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        options, norm = architecture.decoder, layer_norm(architecture)
        assert options is not None
        self.heads = options.heads
        self.norm1, self.norm_memory, self.norm2 = (norm(options.width) for _ in range(3))
        self.q = nn.Linear(options.width, options.width)
        self.kv = nn.Linear(options.width, 2 * options.width)
        self.proj = nn.Linear(options.width, options.width)
        self.mlp = Mlp(options.width, 4 * options.width)

    def forward(self, x_BYD: Tensor, memory_BVD: Tensor) -> Tensor:
        """Update the queries (B, Y, D) by one block."""
        q = self.q(self.norm1(x_BYD)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(self.norm_memory(memory_BVD)).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        x_BYD = x_BYD + self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x_BYD + self.mlp(self.norm2(x_BYD))
        return out


KINDS = {"full": Decoder, "window": WindowDecoder, "cross": CrossDecoder}


def build_decoder(architecture: Architecture) -> Decoder | None:
    """Build the decoder of an architecture; None where it has none."""
    return KINDS[architecture.decoder.kind](architecture) if architecture.decoder else None
