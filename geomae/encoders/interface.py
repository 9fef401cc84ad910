"""What every encoder is: tiles go in, in physical units, and vectors come out; and how patches become one vector.

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
DEFAULT_POOLING = "mean-std"  # of the commands: what varies within a tile says as much as its mean (docs/choices.md)
MIDDLE: Literal["middle"] = "middle"  # the commands' default layer of our own models

Layer = int | Literal["middle"] | None


@dataclass(frozen=True)
class Tokens:
    """What an encoder makes of some tiles, in float32, with gradients to its weights where these are on.

    `cls_BD` is the class token, None where there is none; `patches_BND` the patches row by row; `usable_BN` says which
    of them have a valid pixel. `mean_BD` is the mean of the patches where the model norms that and not the patches.
    Where a patch is the mean of several tokens, `parts_BTD` are these and `seen_BT` says which count: tiles are pooled
    over them.
    """

    cls_BD: Tensor | None
    patches_BND: Tensor
    usable_BN: Tensor
    mean_BD: Tensor | None = None
    parts_BTD: Tensor | None = None
    seen_BT: Tensor | None = None

    def pooled(self, pooling: str) -> Tensor:
        """One vector per tile (B, D), of twice the width for `mean-std`; patches that are not usable do not count."""
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
    """An encoder that is ready for the bands and the unit of one data set."""

    @property
    def text(self) -> str:
        """How the user named it, without its label."""

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that `embed` expects, in this order; those of the data set by name."""

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance that it takes the pixels for."""

    @property
    def digest(self) -> str:
        """Names what decides an embedding (weights, layer, pooling, normalisation): equal digests, equal embeddings."""

    @property
    def notes(self) -> tuple[str, ...]:
        """In words: how it normalises, which bands it takes and what was adapted."""

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch embeddings of a tile of this size; ConfigError where it cannot take it."""

    def tokens(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tokens:
        """The tokens (cls_BD, patches_BND) behind `embed`, through which gradients flow: for what trains an encoder.

        Raises ModelError where there is nothing to be trained.
        """

    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (tile_BD, patches_BND) in float32, without gradients; N counts the patches row by row.

        Without `valid_BCHW`, pixels that are finite are valid. A patch without a valid pixel does not enter `tile_BD`.
        """


def choose_layer(layer: Layer, depth: int) -> int | None:
    """The number of the block to stop after; None for the last, after its norm. Raises ConfigError for another."""
    if layer == MIDDLE:
        return middle_layer(depth)
    if layer is not None and not (isinstance(layer, int) and 1 <= layer <= depth):
        raise ConfigError(f"layer {layer}: the encoder has layers 1 to {depth}")
    return layer


def check_pooling(pooling: str | None, available: Sequence[str] = POOLINGS) -> str:
    """The pooling, `mean` where none is named. Raises ConfigError for one that the encoder has not."""
    pooling = pooling or "mean"
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling {pooling!r}: {nearest(pooling, POOLINGS)}")
    if pooling not in available:
        raise ConfigError(f"pooling {pooling!r}: the encoder has no class token; choose {' or '.join(available)}")
    return pooling


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Hex digest (64 characters, SHA-256) of the names, shapes and bytes of a state dict, in any order."""
    total = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
