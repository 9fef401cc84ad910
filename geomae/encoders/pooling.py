"""How the patches of a tile become one vector.

B tiles, N patches, D width
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from geomae.errors import ConfigError, nearest

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
