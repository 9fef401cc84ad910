"""What every encoder is: tiles go in, in physical units, and vectors come out; and how patches become one vector.

B tiles, C bands, H W pixels, N patches, D width

B tiles, N patches, D width
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from geomae.errors import ConfigError, nearest
from geomae.sensors import Band


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

    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (tile_BD, patches_BND) in float32; N counts the patches row by row.

        Without `valid_BCHW`, pixels that are finite are valid. A patch without a valid pixel does not enter `tile_BD`.
        """


POOLINGS = ("mean", "cls", "mean-std")
DEFAULT_POOLING = "mean-std"  # of the commands: what varies within a tile says as much as its mean (docs/choices.md)
MIDDLE: Literal["middle"] = "middle"  # the commands' default layer of our own models

Layer = int | Literal["middle"] | None


def default_layer(depth: int) -> int:
    """The layer that the commands take of a model with `depth` blocks: the middle one.

    The last blocks of an encoder whose decoder is small prepare the reconstruction (docs/choices.md).
    """
    return max(1, depth // 2)


def choose_layer(layer: Layer, depth: int) -> int | None:
    """The number of the block to stop after; None for the last, after its norm. Raises ConfigError for another."""
    if layer == MIDDLE:
        return default_layer(depth)
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


def pool(pooling: str, cls_BD: Tensor | None, patches_BND: Tensor, usable_BN: Tensor) -> Tensor:
    """One vector per tile (B, D), of twice the width for `mean-std`; patches that are not usable do not count."""
    if pooling == "cls" and cls_BD is not None:
        return cls_BD
    weight_BN1 = usable_BN[..., None] / usable_BN.sum(1)[:, None, None].clamp(min=1)
    mean_BD = (patches_BND * weight_BN1).sum(1)
    if pooling == "mean":
        return mean_BD
    spread_BD = ((patches_BND - mean_BD[:, None]).square() * weight_BN1).sum(1).sqrt()
    return torch.cat([mean_BD, spread_BD], dim=1)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Hex digest (64 characters, SHA-256) of the names, shapes and bytes of a state dict, in any order."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
