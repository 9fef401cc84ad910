"""Heads of fine-tuned encoders: from tokens to classes or numbers of tiles, or of pixels.

B tiles, C bands, H W pixels, N patches in rows x cols, D width of the encoder, K outputs, E channels of a conv head
"""

from typing import NamedTuple

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn.functional import interpolate

from geomae.models.architecture import Architecture
from geomae.models.head_record import SEGMENTATION, HeadRecord

DEPTHS = 4  # number of blocks of the encoder that a conv head reads
LEAST_VARIANCE = 1e-8  # smallest variance of a feature over the patches of a tile
START_STD = 0.01  # initial weights of the last layer: small, so that the first predictions are nearly uniform


class PatchTokens(NamedTuple):
    """Tokens of whole tiles after each block that the head reads; which patches have a valid pixel; rows, columns."""

    depths_BND: list[Tensor]
    usable_BN: Tensor
    shape: tuple[int, int]


class LinearHead(nn.Module):
    """A linear layer on standardised features. Those of a tile are the mean and standard deviation of its tokens, as in
    `geomae probe`. Those of a pixel are the token of its patch.

    Mean and scale of the features are measured once before training (`Start`) and not trained.
    """

    centre_D: Tensor
    scale_D: Tensor

    def __init__(self, architecture: Architecture, record: HeadRecord) -> None:
        super().__init__()
        self.of_pixels = record.task == SEGMENTATION
        self.layers: tuple[int, ...] = (record.layer,)
        features = architecture.width * (1 if self.of_pixels else 2)
        self.register_buffer("centre_D", torch.zeros(features))
        self.register_buffer("scale_D", torch.ones(features))
        self.linear = nn.Linear(features, record.outputs)
        _start_last(self.linear)

    def features(self, tokens: PatchTokens) -> Tensor:
        """Features (B, 2 D) of tiles, without patches that have no valid pixel; or tokens (B, N, D) of patches."""
        tokens_BND = tokens.depths_BND[-1].float()
        if self.of_pixels:
            return tokens_BND
        weight_BN1 = (tokens.usable_BN / tokens.usable_BN.sum(1, keepdim=True).clamp(min=1))[..., None]
        mean_BD = (tokens_BND * weight_BN1).sum(1)
        variance_BD = ((tokens_BND - mean_BD[:, None]).square() * weight_BN1).sum(1)
        # The square root has no finite gradient at 0, the variance of a tile with one patch.
        return torch.cat([mean_BD, variance_BD.clamp(min=LEAST_VARIANCE).sqrt()], dim=1)

    def forward(self, tokens: PatchTokens, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """Outputs (B, K) of tiles, or (B, K, H, W) of pixels."""
        outputs: Tensor = self.linear((self.features(tokens) - self.centre_D) / self.scale_D).float()
        if not self.of_pixels:
            return outputs
        grid_BKRC = outputs.transpose(1, 2).reshape(len(outputs), -1, *tokens.shape)
        # All pixels of a patch get its output: interpolation would blur class borders between patches.
        return interpolate(grid_BKRC, pixels_BCHW.shape[-2:], mode="nearest-exact")


class ConvHead(nn.Module):
    """Convolutional head for pixels. It upsamples tokens of four blocks of the encoder by doubling, the deepest first.
    At full size it joins them with a shallow stem on the pixels, so that borders are as sharp as the imagery.

    No norm averages over places, so that the output of a pixel depends on its surroundings but not on the tile's size.
    """

    def __init__(self, architecture: Architecture, record: HeadRecord) -> None:
        super().__init__()
        E, depth = record.width, record.layer
        self.layers = tuple(sorted({max(1, round(depth * (i + 1) / DEPTHS)) for i in range(DEPTHS)}))
        self.doublings = max((architecture.patch - 1).bit_length(), 1)
        self.norms = nn.ModuleList(nn.LayerNorm(architecture.width, eps=architecture.norm_eps) for _ in self.layers)
        self.narrow = nn.ModuleList(nn.Linear(architecture.width, E) for _ in self.layers)
        self.steps = nn.ModuleList(_Fuse(E, E) for _ in range(self.doublings))
        self.stem = nn.Sequential(
            nn.Conv2d(len(record.bands) + 1, E, 3, padding=1), nn.GELU(), nn.Conv2d(E, E, 3, padding=1), nn.GELU()
        )
        self.join = _Fuse(2 * E, E)
        self.last = nn.Conv2d(E, record.outputs, 1)
        _start_last(self.last)

    def forward(self, tokens: PatchTokens, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """Outputs (B, K, H, W) of standardised pixels; values of invalid ones have no influence."""
        maps = [
            narrow(norm(one)).transpose(1, 2).unflatten(2, tokens.shape)
            for norm, narrow, one in zip(self.norms, self.narrow, tokens.depths_BND, strict=True)
        ]
        height, width = pixels_BCHW.shape[-2:]
        x = maps[-1]
        for number, step in enumerate(self.steps):
            scale = 2 ** (self.doublings - 1 - number)
            size = (-(-height // scale), -(-width // scale))
            x = _to(x, size)
            if number + 1 < len(maps):  # the next shallower block
                x = x + _to(maps[-2 - number], size)
            x = step(x)
        measured_B1HW = valid_BCHW.any(1, keepdim=True).to(pixels_BCHW.dtype)
        stem = self.stem(torch.cat([pixels_BCHW.where(valid_BCHW, 0), measured_B1HW], dim=1))
        outputs: Tensor = self.last(self.join(torch.cat([x, stem], dim=1)))
        return outputs.float()


class _Fuse(nn.Module):
    """A convolution, a norm over the channels of each pixel, and an activation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(inputs, outputs, 3, padding=1), LayerNorm2d(outputs), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I, h, w) to (B, E, h, w)."""
        fused: Tensor = self.act(self.norm(self.conv(x)))
        return fused


Head = LinearHead | ConvHead


def build_head(architecture: Architecture, record: HeadRecord) -> Head:
    """Build the head of a record for encoders of this architecture; initialised from torch's generator."""
    return (ConvHead if record.kind == "conv" else LinearHead)(architecture, record)


def _to(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else interpolate(x, size, mode="bilinear")


def _start_last(part: nn.Linear | nn.Conv2d) -> None:
    nn.init.normal_(part.weight, std=START_STD)
    assert part.bias is not None
    nn.init.zeros_(part.bias)
