"""The published masked autoencoder layout, and the vision transformers of timm, whose encoder has the same names."""

import math
import re

import torch
from torch import Tensor

from geomae.config import Decoder
from geomae.errors import ModelError
from geomae.models.architecture import PRESETS, Architecture
from geomae.models.positions import sincos_positions

# Width and depth of the published encoders -> heads; decoder 512 x 8 with 16 heads and epsilon 1e-6 belong to them.
PUBLISHED_HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16}
PUBLISHED_DECODER_HEADS = {(512, 8): 16}
PUBLISHED_EPS = 1e-6
PUBLISHED_TARGET = "patch"  # He et al. 2022, section 4: the default of the paper
MLP_RATIO = 4  # of all our blocks

BLOCK_KEYS = {
    f"{layer}.{kind}"
    for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
}

# What timm's vision transformers may have and our blocks have not: weights without it would give other features.
NOT_OURS = (
    (r"dist_token", "a distillation token"),
    (r"reg_token|register_tokens", "register tokens"),
    (r"norm_pre\..*", "a norm before the blocks"),
    (r"patch_embed\.norm\..*", "a norm after the patch embedding"),
    (r"patch_embed\.backbone\..*", "a convolutional network before the patch embedding"),
    (r"blocks\.\d+\.(ls\d\.gamma|gamma_\d)", "layer scale"),
    (r"blocks\.\d+\.attn\.[qk]_norm\..*", "norms of queries and keys"),
    (r"blocks\.\d+\.attn\.(rel_pos|relative_position).*|rel_pos.*|rope.*", "relative or rotary positions"),
    (r"blocks\.\d+\.mlp\.(w\d+|fc1_[gx])\..*", "gated layers (SwiGLU)"),
)


def architecture_of(
    weights: dict[str, Tensor],
    heads: int | None,
    decoder_heads: int | None,
    norm_eps: float | None,
    target: str | None,
    grid: tuple[int, int] | None = None,
) -> Architecture:
    """The architecture of weights whose positions are (1, 1 + N, D), of N = rows x cols patches (None: a square).

    The weights have passed `check_layout`. Raises ModelError where they leave open what was not said.
    """
    (width, bands, patch, _), depth = weights["patch_embed.proj.weight"].shape, _depth(weights, "blocks")
    rows, cols = grid or _square(weights["pos_embed"])
    published = (width, depth) in PUBLISHED_HEADS
    heads = heads or PUBLISHED_HEADS.get((width, depth))
    if heads is None:
        usual = next((f" ({size.heads} in {name} models)" for name, size in PRESETS.items() if size.width == width), "")
        raise ModelError(f"the number of heads cannot be read off weights of width {width}; say it with --heads{usual}")
    if norm_eps is None and not published:
        raise ModelError(
            "the epsilon of the layer norms cannot be read off weights; say it with --norm-eps (timm's is 1e-6, "
            "PyTorch's 1e-5)"
        )
    decoder = _decoder(weights, decoder_heads)
    if decoder is not None and target is None and not published:
        raise ModelError("whether the target was normalised cannot be read off weights; say --target none or patch")
    if width % heads:
        raise ModelError(f"--heads: {heads} does not divide the width {width}")
    computed = all(_is_sincos(weights[key], rows, cols) for key in ("pos_embed", "decoder_pos_embed") if key in weights)
    return Architecture(
        embedding="stacked",
        bands=bands,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        decoder=decoder,
        target=target or (PUBLISHED_TARGET if decoder else "none"),
        norm_eps=PUBLISHED_EPS if norm_eps is None else norm_eps,
        positions="sincos" if computed else "table",
        grid=None if computed else (rows, cols),
    )


def check_layout(weights: dict[str, Tensor]) -> None:
    """Raise ModelError for weights of another layout, and for the first part that our blocks have not, or miss."""
    kernel, table = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    if kernel is None or table is None or (kernel.ndim, table.ndim) != (4, 3):
        raise ModelError(
            "patch_embed.proj.weight (4 axes) and pos_embed (3 axes) are not both there: these are not weights of the "
            "published masked autoencoder or of a timm vision transformer; check the source"
        )
    remedy = "take the weights of a plain vision transformer"
    for key in weights:
        reason = next((what for pattern, what in NOT_OURS if re.fullmatch(pattern, key)), None)
        if reason:
            raise ModelError(f"{key}: the weights have {reason}, which geomae's encoder has not; {remedy}")
        block = re.fullmatch(r"(?:decoder_)?blocks\.\d+\.(.+)", key)
        if block and block[1] not in BLOCK_KEYS:
            raise ModelError(f"{key}: geomae's blocks have no {block[1]}; {remedy}")
    if "cls_token" not in weights:
        raise ModelError(f"cls_token is missing: the weights have no class token, which geomae's encoder has; {remedy}")
    if "blocks.0.attn.qkv.weight" in weights and "blocks.0.attn.qkv.bias" not in weights:
        raise ModelError(f"blocks.0.attn.qkv.bias is missing: geomae's attention has one; {remedy}")
    inner = weights.get("blocks.0.mlp.fc1.weight")
    if kernel.shape[2] != kernel.shape[3]:
        raise ModelError(
            f"patch_embed.proj.weight: patches of {kernel.shape[2]} x {kernel.shape[3]} are not square; {remedy}"
        )
    if inner is not None and inner.ndim == 2 and inner.shape[0] != MLP_RATIO * inner.shape[1]:
        raise ModelError(
            f"blocks.0.mlp.fc1.weight: {inner.shape[0]} inner features are not {MLP_RATIO} times the width "
            f"{inner.shape[1]}, as geomae's blocks have; {remedy}"
        )


def _square(table: Tensor) -> tuple[int, int]:
    places = int(table.shape[1]) - 1
    side = math.isqrt(places)
    if side * side != places:
        raise ModelError(f"pos_embed: {places} patches are not a square grid, which the published layout has")
    return side, side


def _decoder(weights: dict[str, Tensor], heads: int | None) -> Decoder | None:
    if "decoder_embed.weight" not in weights:
        return None
    width, depth = weights["decoder_embed.weight"].shape[0], _depth(weights, "decoder_blocks")
    heads = heads or PUBLISHED_DECODER_HEADS.get((width, depth))
    if heads is None:
        raise ModelError(f"the heads of a decoder of width {width} cannot be read off weights; say --decoder-heads")
    if width % heads:
        raise ModelError(f"--decoder-heads: {heads} does not divide the decoder's width {width}")
    return Decoder(width=width, depth=depth, heads=heads)


def _depth(weights: dict[str, Tensor], prefix: str) -> int:
    found = (re.match(rf"{prefix}\.(\d+)\.", key) for key in weights)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _is_sincos(table: Tensor, rows: int, cols: int) -> bool:
    """Whether stored positions are the computed ones, with none for the class token."""
    if table.shape[-1] % 4 or bool(table[0, 0].any()):
        return False
    return torch.allclose(table[0, 1:].float(), sincos_positions(rows, cols, table.shape[-1]), atol=1e-6)
