"""Weights in the published masked autoencoder layout to a model folder, with an account of every key."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from geomae.config import Decoder, explain
from geomae.errors import ModelError
from geomae.models.architecture import Architecture
from geomae.models.folder import Model
from geomae.models.mae import MaskedAutoencoder
from geomae.models.positions import sincos_positions
from geomae.models.standardise import SensorRecord
from geomae.sensors import Band, sensor

# Width and depth of the published encoders -> heads; decoder 512 x 8 with 16 heads and epsilon 1e-6 belong to them.
PUBLISHED_HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16}
PUBLISHED_DECODER_HEADS = {(512, 8): 16}
PUBLISHED_EPS = 1e-6
PUBLISHED_TARGET = "patch"  # He et al. 2022, section 4: the default of the paper

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


@dataclass
class Account:
    """What became of every key of the source and of the model."""

    taken: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from `.safetensors` or, without running any code of the file, from a torch checkpoint.

    Raises ModelError for a file that is absent, truncated, needs code to be unpickled, or holds values that are not
    finite.
    """
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: does not exist; check the path") from error
    except pickle.UnpicklingError as error:
        what = "would run code" if "GLOBAL" in str(error) else "is damaged, no weight file, or would run code"
        raise ModelError(f"{path}: {what} when it is read; save its plain state dict as .safetensors") from error
    except Exception as error:  # a damaged file raises whatever its reader trips over
        raise ModelError(f"{path}: is damaged or not a weight file ({_first_line(error)}); fetch it again") from error
    for _ in range(4):  # wrapped once or twice; a mapping that holds itself must come to an end
        inner = [loaded.get(key) for key in ("model", "state_dict")] if isinstance(loaded, Mapping) else []
        loaded = next((one for one in inner if isinstance(one, Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelError(f"{path}: holds no state dict; geomae reads `{{'model': state_dict}}` or a state dict itself")
    weights = {str(key): value for key, value in loaded.items()}
    for key, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: {key} holds NaN or infinite values; the file is not usable")
    return weights


def convert_mae(
    weights: dict[str, Tensor],
    *,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_eps: float | None = None,
    target: str | None = None,
    bands: tuple[Band, ...] | None = None,
) -> tuple[Model, Account]:
    """A model from weights in the layout of the published masked autoencoder, with or without its decoder.

    What a state dict cannot tell (heads, epsilon, target) must be given unless the size is a published one. Bands are
    red, green and blue with mean 0 and standard deviation 1 unless said otherwise. Raises ModelError with the option
    that is missing, or with what does not fit.
    """
    try:
        shape = _architecture(weights, heads, decoder_heads, norm_eps, target)
        state, account = _translate(weights, shape)
        mae = MaskedAutoencoder(shape)
        missing = [name for name in mae.state_dict() if name not in state]
        if missing:
            raise ModelError(f"the weights lack {', '.join(missing[:4])}; they are not in the published layout")
        mae.load_state_dict(state)
    except ValidationError as error:
        raise ModelError(explain(Architecture, error, None)) from error
    except (RuntimeError, IndexError) as error:
        raise ModelError(f"the weights do not fit together ({_first_line(error)}); fetch them again") from error
    bands = bands or tuple(sensor("naip").band(name) for name in ("red", "green", "blue"))
    if len(bands) != shape.bands:
        raise ModelError(
            f"the weights have {shape.bands} input bands, and {len(bands)} were named; say --bands SENSOR:BAND,BAND,..."
        )
    record = SensorRecord("rgb", "digital_number", None, bands, (0.0,) * len(bands), (1.0,) * len(bands))
    return Model(mae.eval(), (record,)), account


def _architecture(
    weights: dict[str, Tensor], heads: int | None, decoder_heads: int | None, norm_eps: float | None, target: str | None
) -> Architecture:
    kernel, table = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    if kernel is None or table is None or (kernel.ndim, table.ndim) != (4, 3):
        raise ModelError(
            "patch_embed.proj.weight (4 axes) and pos_embed (3 axes) are not both there: these are not weights of the "
            "published masked autoencoder; check the source"
        )
    (width, bands, patch, _), places = kernel.shape, table.shape[1] - 1
    depth = _depth(weights, "blocks")
    side = round(places**0.5)
    if side * side != places:
        raise ModelError(f"pos_embed: {places} patches are not a square grid, which the published layout has")
    published = (width, depth) in PUBLISHED_HEADS
    heads = heads or PUBLISHED_HEADS.get((width, depth))
    if heads is None:
        raise ModelError(f"the number of heads cannot be read off weights of width {width}; say it with --heads")
    if norm_eps is None and not published:
        raise ModelError("the epsilon of the layer norms cannot be read off weights; say it with --norm-eps")
    decoder = None
    if "decoder_embed.weight" in weights:
        decoder_width, decoder_depth = weights["decoder_embed.weight"].shape[0], _depth(weights, "decoder_blocks")
        decoder_heads = decoder_heads or PUBLISHED_DECODER_HEADS.get((decoder_width, decoder_depth))
        if decoder_heads is None:
            raise ModelError(
                f"the heads of a decoder of width {decoder_width} cannot be read off weights; say --decoder-heads"
            )
        if target is None and not published:
            raise ModelError("whether the target was normalised cannot be read off weights; say --target none or patch")
        if decoder_width % decoder_heads:
            raise ModelError(f"--decoder-heads: {decoder_heads} does not divide the decoder's width {decoder_width}")
        decoder = Decoder(width=decoder_width, depth=decoder_depth, heads=decoder_heads)
    if width % heads:
        raise ModelError(f"--heads: {heads} does not divide the width {width}")
    computed = all(_is_sincos(weights[key], side) for key in ("pos_embed", "decoder_pos_embed") if key in weights)
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
        grid=None if computed else (side, side),
    )


def _translate(weights: dict[str, Tensor], shape: Architecture) -> tuple[dict[str, Tensor], Account]:
    """The weights by our names, in our layout."""
    state: dict[str, Tensor] = {}
    account = Account()
    for key, value in weights.items():
        name = _rename(key)
        if name is None or (name.startswith("decoder.") and shape.decoder is None):
            account.left.append(key)
            continue
        adapted, how = _adapt(name, value.float(), shape)
        if adapted is not None:
            state[name] = adapted
        (account.adapted if how else account.taken).append(f"{key}{how}")
    return state, account


def _rename(key: str) -> str | None:
    block = re.fullmatch(r"(decoder_)?blocks\.(.+)", key)
    if block:
        return f"{'decoder' if block[1] else 'encoder'}.blocks.{block[2]}"
    return RENAMED.get(key)


def _adapt(name: str, value: Tensor, shape: Architecture) -> tuple[Tensor | None, str]:
    """The value as our module stores it, and what was done to it ('' for nothing)."""
    P = shape.patch**2
    if name.endswith("positions.table"):
        return (None, " (computed)") if shape.positions == "sincos" else (value[0], " (stored)")
    if name == "encoder.embedding.proj.weight":
        return value.flatten(1), " (convolution as a product)"
    if name == "decoder.head.proj.weight":  # published rows run (pixel, band), ours (band, pixel)
        return value.reshape(P, shape.bands, -1).transpose(0, 1).flatten(0, 1), " (bands first)"
    if name == "decoder.head.proj.bias":
        return value.reshape(P, shape.bands).transpose(0, 1).flatten(), " (bands first)"
    return value, ""


def _depth(weights: dict[str, Tensor], prefix: str) -> int:
    found = (re.match(rf"{prefix}\.(\d+)\.", key) for key in weights)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _is_sincos(table: Tensor, side: int) -> bool:
    """Whether stored positions are the computed ones, with none for the class token."""
    if table.shape[-1] % 4 or bool(table[0, 0].any()):
        return False
    return torch.allclose(table[0, 1:].float(), sincos_positions(side, side, table.shape[-1]), atol=1e-6)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
