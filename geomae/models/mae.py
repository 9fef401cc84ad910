"""The masked autoencoder (He et al. 2022) on bands of any sensor: encode what is visible, decode what is hidden.

B batch, C bands, H W pixels, N patches, K visible patches, M hidden ones, P pixels of a patch in one band, D width,
F features of a band's code. Pixels are standardised; `valid` tells which of them count.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from geomae.errors import ModelError
from geomae.models.architecture import Architecture
from geomae.models.attention import choose_kernels
from geomae.models.embedding import SpectralEmbedding, SpectralHead, StackedEmbedding, StackedHead
from geomae.models.patches import grid, patchify, take
from geomae.models.positions import sincos_positions
from geomae.models.target import normalise, patch_statistics


class Loss(NamedTuple):
    """Squared errors on hidden and valid pixels, as sums, so that ranks and passes can be added before dividing."""

    sum_B: Tensor
    count_B: Tensor

    def mean(self) -> Tensor:
        """The mean squared error; 0 where nothing was hidden and valid."""
        return self.sum_B.sum() / self.count_B.sum().clamp(min=1)


class MaskedAutoencoder(nn.Module):
    """Encoder, decoder and loss. `forward` is three verbs: encode, decode, score."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = Encoder(architecture)
        self.decoder = Decoder(architecture) if architecture.decoder else None

    def forward(
        self, pixels_BCHW: Tensor, valid_BCHW: Tensor, codes_CF: Tensor, order_BN: Tensor, visible: int
    ) -> Loss:
        """The loss of standardised tiles under the masks of `order_BN`: visible patches first, then hidden ones.

        Values of pixels that are not valid influence neither the loss nor a gradient, whatever they are.
        """
        shape = grid(pixels_BCHW, self.architecture.patch)
        patches_BNCP = patchify(pixels_BCHW, self.architecture.patch)
        valid_BNCP = patchify(valid_BCHW, self.architecture.patch)
        hidden_BM = order_BN[:, visible:]
        prediction_BMCP = self.predict(patches_BNCP, valid_BNCP, codes_CF, order_BN, visible, hidden_BM, shape)
        return self.score(prediction_BMCP, take(patches_BNCP, hidden_BM), take(valid_BNCP, hidden_BM))

    def predict(
        self,
        patches_BNCP: Tensor,
        valid_BNCP: Tensor,
        codes_CF: Tensor,
        order_BN: Tensor,
        visible: int,
        wanted_BM: Tensor,
        shape: tuple[int, int],
    ) -> Tensor:
        """Predictions (B, M, C, P) of the patches `wanted_BM`, in the units of the target."""
        if self.decoder is None:
            raise ModelError("this model is an encoder alone and cannot reconstruct; take one with a decoder")
        seen_BK = order_BN[:, :visible]
        latent_BXD = self.encoder(take(patches_BNCP, seen_BK), take(valid_BNCP, seen_BK), codes_CF, seen_BK, shape)
        prediction: Tensor = self.decoder(latent_BXD, codes_CF, order_BN, wanted_BM, shape)
        return prediction

    def score(self, prediction_BMCP: Tensor, patches_BMCP: Tensor, valid_BMCP: Tensor) -> Loss:
        """Squared error of each tile against the bands' own targets, on valid pixels only.

        Invalid values are replaced before any arithmetic: a NaN under the mask would otherwise reach the gradient.
        """
        patches_BMCP = patches_BMCP.where(valid_BMCP, 0)
        target_BMCP = normalise(patches_BMCP, patch_statistics(patches_BMCP, valid_BMCP, self.architecture.target))
        error_BMCP = (prediction_BMCP.float() - target_BMCP).where(valid_BMCP, 0)
        return Loss(error_BMCP.square().sum((1, 2, 3)), valid_BMCP.sum((1, 2, 3)))


class Encoder(nn.Module):
    """A vision transformer over the patches it is given; blocks and parameter names are timm's."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, pixels = architecture.width, architecture.patch**2
        self.embedding = (
            StackedEmbedding(architecture.bands, pixels, width)
            if architecture.embedding == "stacked"
            else SpectralEmbedding(pixels, width)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.cls_token, std=0.02)
        self.positions = _positions(architecture, width)
        self.blocks = _blocks(architecture, width, architecture.depth, architecture.heads)
        self.norm = nn.LayerNorm(width, eps=architecture.norm_eps)

    def forward(
        self, patches_BKCP: Tensor, valid_BKCP: Tensor, codes_CF: Tensor, place_BK: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Tokens (B, 1 + K, D) after the last norm, class token first, of the patches that stand at `place_BK`."""
        x = self.start(patches_BKCP, valid_BKCP, codes_CF, place_BK, shape)
        choose_kernels(self.blocks, x.device, x.shape[1])
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed

    def start(
        self, patches_BKCP: Tensor, valid_BKCP: Tensor, codes_CF: Tensor, place_BK: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Tokens (B, 1 + K, D) before the first block."""
        tokens_BKD = self.embedding.embed(patches_BKCP, valid_BKCP, codes_CF)
        tokens_BKD = tokens_BKD + _lookup(self.positions, shape, tokens_BKD, place_BK)
        cls_11D = self.cls_token + _class_position(self.positions)
        return torch.cat([cls_11D.expand(len(tokens_BKD), -1, -1), tokens_BKD], dim=1)

    def layers(
        self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor, shape: tuple[int, int]
    ) -> list[Tensor]:
        """Tokens (B, 1 + N, D) after every block of whole tiles, the last one after its norm.

        Patches without a valid pixel are no attention keys, so that nothing is learned from what was not measured.
        """
        B, N = patches_BNCP.shape[:2]
        place_BN = torch.arange(N, device=patches_BNCP.device).expand(B, N)
        x = self.start(patches_BNCP, valid_BNCP, codes_CF, place_BN, shape)
        usable_BN = valid_BNCP.flatten(2).any(-1)
        bias = None
        if not bool(usable_BN.all()):
            key_BX = torch.cat([usable_BN.new_ones(B, 1), usable_BN], dim=1)
            bias = torch.zeros_like(key_BX, dtype=x.dtype).masked_fill(~key_BX, float("-inf"))[:, None, None, :]
        choose_kernels(self.blocks, x.device, x.shape[1])
        found = []
        for block in self.blocks:
            x = block(x, attn_mask=bias)
            found.append(x)
        found[-1] = self.norm(x)
        return found


class Decoder(nn.Module):
    """Self-attention over all patches, hidden ones standing as one learned token (`full`, as in He et al. 2022)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        options = architecture.decoder
        if options is None:
            raise ValueError("an encoder alone has no decoder")
        width, pixels = options.width, architecture.patch**2
        self.embed = nn.Linear(architecture.width, width)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.positions = _positions(architecture, width)
        self.blocks = _blocks(architecture, width, options.depth, options.heads)
        self.norm = nn.LayerNorm(width, eps=architecture.norm_eps)
        self.head = (
            StackedHead(architecture.bands, pixels, width)
            if architecture.embedding == "stacked"
            else SpectralHead(pixels, width)
        )

    def forward(
        self, latent_BXD: Tensor, codes_CF: Tensor, order_BN: Tensor, wanted_BM: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Predictions (B, M, C, P) of the wanted patches from the class token and the visible ones."""
        x = self.embed(latent_BXD)
        B, N, width = *order_BN.shape, x.shape[-1]
        hidden = self.mask_token.to(x.dtype).expand(B, N - (x.shape[1] - 1), width)
        # Tokens in the order (visible, hidden), each at its place: attention does not ask for row-major order.
        tokens_BND = torch.cat([x[:, 1:], hidden], dim=1) + _lookup(self.positions, shape, x, order_BN)
        x = torch.cat([x[:, :1] + _class_position(self.positions), tokens_BND], dim=1)
        choose_kernels(self.blocks, x.device, x.shape[1])
        for block in self.blocks:
            x = block(x)
        # Only what is asked for goes through norm and head.
        slot_BN = order_BN.argsort(1)
        wanted = take(x, 1 + slot_BN.gather(1, wanted_BM))
        prediction: Tensor = self.head.predict(self.norm(wanted), codes_CF)
        return prediction


def _blocks(architecture: Architecture, width: int, depth: int, heads: int) -> nn.ModuleList:
    norm: Any = partial(nn.LayerNorm, eps=architecture.norm_eps)
    blocks = nn.ModuleList(Block(width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=norm) for _ in range(depth))
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return blocks


class _StoredPositions(nn.Module):
    """Positions of one grid that came with foreign weights; not trained."""

    table: Tensor

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("table", torch.zeros(1 + shape[0] * shape[1], width))


def _positions(architecture: Architecture, width: int) -> _StoredPositions | None:
    if architecture.positions == "sincos" or architecture.grid is None:
        return None
    return _StoredPositions(architecture.grid, width)


def _lookup(stored: _StoredPositions | None, shape: tuple[int, int], like: Tensor, place_BK: Tensor) -> Tensor:
    """Positions (B, K, D) of the patches at `place_BK` in a grid of `shape`; in float32, as is then the sum."""
    if stored is None:
        return sincos_positions(*shape, like.shape[-1], like.device)[place_BK]
    if stored.shape != shape:
        raise ModelError(
            f"this model has positions for {stored.shape} patches only, not for {shape}; cut tiles to them"
        )
    return stored.table[1:][place_BK]


def _class_position(stored: _StoredPositions | None) -> Tensor | float:
    """What is added to the class token: nothing, unless foreign weights say otherwise."""
    return 0.0 if stored is None else stored.table[0]
