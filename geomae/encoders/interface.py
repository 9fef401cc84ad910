"""The interface of all encoders: tiles in physical units go in, embeddings come out; and the pooling of patches.

B tiles, C bands, H W pixels, N patches, D width
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from geomae.errors import ConfigError, nearest
from geomae.models.architecture import middle_layer
from geomae.sensors import Band

POOLINGS = ("mean", "cls", "mean-std")
DEFAULT_POOLING = "mean-std"  # of the commands: variation within a tile is as informative as its mean (docs/choices.md)
MIDDLE: Literal["middle"] = "middle"  # the commands' default layer of our own models

Layer = int | Literal["middle"] | None


@dataclass(frozen=True)
class Tokens:
    """The output of an encoder for B tiles, in float32, with gradients to its weights where gradients are enabled.

    `cls_BD` is the class token, or None; `patches_BND` the patches, row by row; `usable_BN` tells which of them have
    a valid pixel. `mean_BD` is the mean of the patches, for models that apply their last norm to this mean. Where a
    patch is the mean of several tokens, `parts_BTD` are these tokens and `seen_BT` tells which are valid: tiles are
    then pooled over them.
    """

    cls_BD: Tensor | None
    patches_BND: Tensor
    usable_BN: Tensor
    mean_BD: Tensor | None = None
    parts_BTD: Tensor | None = None
    seen_BT: Tensor | None = None

    def pooled(self, pooling: str) -> Tensor:
        """Return one vector per tile (B, D), for `mean-std` (B, 2 D); patches that are not usable are left out."""
        if pooling == "cls" and self.cls_BD is not None:
            return self.cls_BD
        tokens_BTD = self.patches_BND if self.parts_BTD is None else self.parts_BTD
        seen_BT = self.usable_BN if self.seen_BT is None else self.seen_BT
        weight_BT1 = seen_BT[..., None] / seen_BT.sum(1)[:, None, None].clamp(min=1)
        of_tokens_BD = (tokens_BTD * weight_BT1).sum(1)
        mean_BD = of_tokens_BD if self.mean_BD is None else self.mean_BD
        if pooling == "mean":
            return mean_BD
        spread_BD = ((tokens_BTD - of_tokens_BD[:, None]).square() * weight_BT1).sum(1).sqrt()
        return torch.cat([mean_BD, spread_BD], dim=1)


class Encoder(Protocol):
    """An encoder that was loaded for the bands and the unit of one data set."""

    @property
    def text(self) -> str:
        """The text by which the user named it, without its label."""

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that `embed` expects, in this order, with their names in the data set."""

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance of the pixels, in metres, as the encoder assumes it."""

    @property
    def digest(self) -> str:
        """Hex digest of all that decides an embedding (weights, layer, pooling, normalisation)."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Its normalisation, its bands and what was adapted, in words."""

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches of a tile of this size. Raises ConfigError for a size it cannot take."""

    def tokens(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tokens:
        """Return the tokens (cls_BD, patches_BND) from which `embed` pools, with gradients, to train the encoder.

        Raises ModelError where the encoder has no weights to train.
        """

    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings (tile_BD, patches_BND) in float32, without gradients; patches are in row order.

        Without `valid_BCHW`, finite pixels are valid. A patch without a valid pixel is left out of `tile_BD`.
        """


def choose_layer(layer: Layer, depth: int) -> int | None:
    """Return the number of the block to stop after, from 1; None is the last, after its norm.

    Raises ConfigError for a number outside 1 to `depth`.
    """
    if layer == MIDDLE:
        return middle_layer(depth)
    if layer is not None and not (isinstance(layer, int) and 1 <= layer <= depth):
        raise ConfigError(f"layer {layer}: the encoder has layers 1 to {depth}")
    return layer


def check_pooling(pooling: str | None, available: Sequence[str] = POOLINGS) -> str:
    """Return the pooling, `mean` by default. Raises ConfigError for one that is unknown or not `available`."""
    pooling = pooling or "mean"
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling {pooling!r}: {nearest(pooling, POOLINGS)}")
    if pooling not in available:
        raise ConfigError(f"pooling {pooling!r}: the encoder has no class token; choose {' or '.join(available)}")
    return pooling


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Hex digest (64 characters, SHA-256) of the names, types, shapes and bytes of a state dict, whatever its order."""
    total = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
