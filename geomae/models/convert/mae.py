"""Convert weights in the layout of the published masked autoencoder, or of a timm vision transformer, to a model."""

import math
import re

import torch
from pydantic import ValidationError
from torch import Tensor

from geomae.config import Decoder, explain
from geomae.errors import ModelError
from geomae.models.architecture import PRESETS, Architecture
from geomae.models.blocks import sincos_positions
from geomae.models.convert.state_dicts import ConversionReport, first_line
from geomae.models.folder import Model
from geomae.models.mae import MaskedAutoencoder
from geomae.sensors import Band, sensor
from geomae.sensors.record import SensorRecord

# (width, depth) of the published encoders -> heads; all have a decoder 512 x 8 with 16 heads, and epsilon 1e-6.
PUBLISHED_HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16}
PUBLISHED_DECODER_HEADS = {(512, 8): 16}
PUBLISHED_EPS = 1e-6
PUBLISHED_TARGET = "patch"  # the default of the paper (He et al. 2022, section 4)
MLP_RATIO = 4  # of all blocks of geomae

BLOCK_KEYS = {
    f"{layer}.{kind}"
    for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
}

# Parts of timm's vision transformers that geomae's encoder lacks; without them, features would differ.
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

PICTURES = "rgb"  # the sensor of weights that were trained on ordinary RGB pictures
UNMEASURED = "unmeasured"  # the sensor of a record with unknown statistics: mean 0, standard deviation 1

RENAMED = {
    "cls_token": "encoder.cls_token",
    "pos_embed": "encoder.positions.table",
    "patch_embed.proj.weight": "encoder.embedding.proj.weight",
    "patch_embed.proj.bias": "encoder.embedding.proj.bias",
    "norm.weight": "encoder.norm.weight",
    "norm.bias": "encoder.norm.bias",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.positions.table",
    "decoder_embed.weight": "decoder.embed.weight",
    "decoder_embed.bias": "decoder.embed.bias",
    "decoder_norm.weight": "decoder.norm.weight",
    "decoder_norm.bias": "decoder.norm.bias",
    "decoder_pred.weight": "decoder.head.proj.weight",
    "decoder_pred.bias": "decoder.head.proj.bias",
}
POOLED_NORM = {"fc_norm.weight": "encoder.norm.weight", "fc_norm.bias": "encoder.norm.bias"}


def architecture_of(
    weights: dict[str, Tensor],
    heads: int | None,
    decoder_heads: int | None,
    norm_eps: float | None,
    target: str | None,
    grid: tuple[int, int] | None = None,
) -> Architecture:
    """Infer the architecture of weights that have passed `check_layout`.

    Positions are (1, 1 + N, D) for a `grid` of N = rows x cols patches (None: a square). Raises ModelError where a
    setting cannot be inferred and was not given.
    """
    (width, bands, patch, _), depth = weights["patch_embed.proj.weight"].shape, _depth(weights, "blocks")
    rows, cols = grid or _square(weights["pos_embed"])
    published = (width, depth) in PUBLISHED_HEADS
    heads = heads or PUBLISHED_HEADS.get((width, depth))
    if heads is None:
        usual = next((f" ({size.heads} in {name} models)" for name, size in PRESETS.items() if size.width == width), "")
        raise ModelError(f"heads cannot be inferred from weights of width {width}; give them with --heads{usual}")
    if norm_eps is None and not published:
        raise ModelError(
            "the epsilon of the layer norms cannot be inferred from weights; give it with --norm-eps (1e-6 in timm, "
            "1e-5 in PyTorch)"
        )
    decoder = _decoder(weights, decoder_heads)
    if decoder is not None and target is None and not published:
        raise ModelError(
            "whether the target was normalised cannot be inferred from weights; give --target none or --target patch"
        )
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
    """Raise ModelError for weights of another layout, and where they have other parts than geomae's encoder."""
    kernel, table = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    if kernel is None or table is None or (kernel.ndim, table.ndim) != (4, 3):
        raise ModelError(
            "patch_embed.proj.weight (4 axes) or pos_embed (3 axes) is missing: these are not weights of the "
            "published masked autoencoder or of a timm vision transformer; check the source"
        )
    remedy = "take the weights of a plain vision transformer"
    for key in weights:
        reason = next((what for pattern, what in NOT_OURS if re.fullmatch(pattern, key)), None)
        if reason:
            raise ModelError(f"{key}: the weights have {reason}, which geomae's encoder does not have; {remedy}")
        block = re.fullmatch(r"(?:decoder_)?blocks\.\d+\.(.+)", key)
        if block and block[1] not in BLOCK_KEYS:
            raise ModelError(f"{key}: geomae's blocks have no {block[1]}; {remedy}")
    if "cls_token" not in weights:
        raise ModelError(f"cls_token is missing: the weights lack a class token, which geomae needs; {remedy}")
    if "blocks.0.attn.qkv.weight" in weights and "blocks.0.attn.qkv.bias" not in weights:
        raise ModelError(f"blocks.0.attn.qkv.bias is missing, which geomae's attention needs; {remedy}")
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


def convert_mae(
    weights: dict[str, Tensor],
    *,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_eps: float | None = None,
    target: str | None = None,
    bands: tuple[Band, ...] | None = None,
    grid: tuple[int, int] | None = None,
) -> tuple[Model, ConversionReport]:
    """Convert weights in the layout of the published masked autoencoder, with or without its decoder, to a model.

    A state dict of timm's vision transformers has the layout of the encoder alone. Settings that a state dict does not
    hold (heads, epsilon, target) must be given unless the size is a published one. By default, bands are red, green
    and blue, and the grid of patches is square (else `grid`: rows, columns). Statistics are mean 0 and standard
    deviation 1. Raises ModelError that names the missing option, or the weights that do not fit.
    """
    if any(key.startswith("encoder.embedding.") for key in weights):
        raise ModelError(
            "the weights are in geomae's own layout already; put them into a folder as model.safetensors, with their "
            "config.json beside them"
        )
    try:
        check_layout(weights)
        whole = _with_class_position(weights, grid)
        shape = architecture_of(whole, heads, decoder_heads, norm_eps, target, grid)
        state, report = _translate(whole, shape, bare=whole is not weights)
        mae = MaskedAutoencoder(shape)
        missing = [name for name in mae.state_dict() if name not in state]
        if missing:
            raise ModelError(f"the weights lack {', '.join(missing[:4])}; they are not in the published layout")
        mae.load_state_dict(state)
    except ValidationError as error:
        raise ModelError(explain(error, kind=Architecture)) from error
    except (RuntimeError, IndexError) as error:
        raise ModelError(f"the weights do not fit together ({first_line(error)}); fetch them again") from error
    name = UNMEASURED if bands else PICTURES
    bands = bands or tuple(sensor("naip").band(name) for name in ("red", "green", "blue"))
    if len(bands) != shape.bands:
        raise ModelError(
            f"the weights have {shape.bands} input bands, but {len(bands)} were named; give --bands SENSOR:BAND,BAND"
        )
    record = SensorRecord(name, "digital_number", None, bands, (0.0,) * len(bands), (1.0,) * len(bands))
    square = math.isqrt(whole["pos_embed"].shape[1] - 1)
    tile = [shape.patch * side for side in grid or (square, square)]
    return Model(mae.eval(), (record,), {"tile": tile}), report


def _square(table: Tensor) -> tuple[int, int]:
    places = int(table.shape[1]) - 1
    side = math.isqrt(places)
    if side * side != places:
        raise ModelError(f"pos_embed: {places} patches do not form a square grid, which the published layout has")
    return side, side


def _decoder(weights: dict[str, Tensor], heads: int | None) -> Decoder | None:
    if "decoder_embed.weight" not in weights:
        return None
    width, depth = weights["decoder_embed.weight"].shape[0], _depth(weights, "decoder_blocks")
    heads = heads or PUBLISHED_DECODER_HEADS.get((width, depth))
    if heads is None:
        raise ModelError(f"heads of a decoder of width {width} cannot be inferred from weights; give --decoder-heads")
    if width % heads:
        raise ModelError(f"--decoder-heads: {heads} does not divide the decoder's width {width}")
    return Decoder(width=width, depth=depth, heads=heads)


def _depth(weights: dict[str, Tensor], prefix: str) -> int:
    matches = (re.match(rf"{prefix}\.(\d+)\.", key) for key in weights)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _is_sincos(table: Tensor, rows: int, cols: int) -> bool:
    """Whether stored positions equal the computed sine-cosine ones, with zeros for the class token."""
    if table.shape[-1] % 4 or bool(table[0, 0].any()):
        return False
    return torch.allclose(table[0, 1:].float(), sincos_positions(rows, cols, table.shape[-1]), atol=1e-6)


def _with_class_position(weights: dict[str, Tensor], grid: tuple[int, int] | None) -> dict[str, Tensor]:
    """Add a position of zeros for the class token where the positions have none for it."""
    table = weights["pos_embed"]
    places = grid[0] * grid[1] if grid else math.isqrt(table.shape[1]) ** 2
    if table.shape[1] != places:
        return weights
    return weights | {"pos_embed": torch.nn.functional.pad(table, (0, 0, 1, 0))}


def _translate(
    weights: dict[str, Tensor], shape: Architecture, bare: bool
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename and reshape weights to geomae's layout; `bare`: the source has no position for the class token."""
    state: dict[str, Tensor] = {}
    report = ConversionReport()
    renamed = RENAMED if "norm.weight" in weights else POOLED_NORM | RENAMED
    for key, value in weights.items():
        name = _rename(key, renamed)
        if name is None or (name.startswith("decoder.") and shape.decoder is None):
            report.left.append(key)
            continue
        adapted, how = _adapt(name, value.float(), shape)
        if adapted is not None:
            state[name] = adapted
        if key in POOLED_NORM:
            how = " (norms every token; timm norms the mean of the tokens, so pooled embeddings differ from timm's)"
        elif key == "pos_embed" and bare:
            how = f"{how[:-1]}; zeros for the class token)"
        (report.adapted if how else report.taken).append(f"{key}{how}")
    return state, report


def _rename(key: str, renamed: dict[str, str]) -> str | None:
    block = re.fullmatch(r"(decoder_)?blocks\.(.+)", key)
    if block:
        return f"{'decoder' if block[1] else 'encoder'}.blocks.{block[2]}"
    return renamed.get(key)


def _adapt(name: str, value: Tensor, shape: Architecture) -> tuple[Tensor | None, str]:
    """The value in geomae's layout (None: not needed), and a remark on the change ('' where unchanged)."""
    P = shape.patch**2
    if name.endswith("positions.table"):
        return (
            (None, " (computed)") if shape.positions == "sincos" else (value[0], f" (stored for {_by(shape)} patches)")
        )
    if name == "encoder.embedding.proj.weight":
        return value.flatten(1), " (convolution as a product)"
    if name == "decoder.head.proj.weight":  # published rows run (pixel, band), ours (band, pixel)
        return value.reshape(P, shape.bands, -1).transpose(0, 1).flatten(0, 1), " (bands first)"
    if name == "decoder.head.proj.bias":
        return value.reshape(P, shape.bands).transpose(0, 1).flatten(), " (bands first)"
    return value, ""


def _by(shape: Architecture) -> str:
    return " x ".join(map(str, shape.grid or ()))
