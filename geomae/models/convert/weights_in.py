"""Weights in the published masked autoencoder layout, or of a timm vision transformer, to a model."""

import math
import re

import torch
from pydantic import ValidationError
from torch import Tensor

from geomae.config import explain
from geomae.errors import ModelError
from geomae.models.architecture import Architecture
from geomae.models.convert.account import Account
from geomae.models.convert.layout import architecture_of, check_layout
from geomae.models.convert.reading import first_line
from geomae.models.folder import Model
from geomae.models.mae import MaskedAutoencoder
from geomae.models.standardise import SensorRecord
from geomae.sensors import Band, sensor

PICTURES = "rgb"  # the sensor of weights that were trained on ordinary pictures
UNMEASURED = "unmeasured"  # the sensor of a record whose statistics nobody knows: mean 0, standard deviation 1

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


def convert_mae(
    weights: dict[str, Tensor],
    *,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_eps: float | None = None,
    target: str | None = None,
    bands: tuple[Band, ...] | None = None,
    grid: tuple[int, int] | None = None,
) -> tuple[Model, Account]:
    """A model from weights in the layout of the published masked autoencoder, with or without its decoder.

    A state dict of timm's vision transformers has the layout of the encoder alone. What a state dict cannot tell
    (heads, epsilon, target) must be given unless the size is a published one. Bands are red, green and blue with mean
    0 and standard deviation 1, and patches stand in a square (or in `grid`: rows, columns) unless said otherwise.
    Raises ModelError with the option that is missing, or with what does not fit.
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
        state, account = _translate(whole, shape, bare=whole is not weights)
        mae = MaskedAutoencoder(shape)
        missing = [name for name in mae.state_dict() if name not in state]
        if missing:
            raise ModelError(f"the weights lack {', '.join(missing[:4])}; they are not in the published layout")
        mae.load_state_dict(state)
    except ValidationError as error:
        raise ModelError(explain(Architecture, error, None)) from error
    except (RuntimeError, IndexError) as error:
        raise ModelError(f"the weights do not fit together ({first_line(error)}); fetch them again") from error
    name = UNMEASURED if bands else PICTURES
    bands = bands or tuple(sensor("naip").band(name) for name in ("red", "green", "blue"))
    if len(bands) != shape.bands:
        raise ModelError(
            f"the weights have {shape.bands} input bands, and {len(bands)} were named; say --bands SENSOR:BAND,BAND,..."
        )
    record = SensorRecord(name, "digital_number", None, bands, (0.0,) * len(bands), (1.0,) * len(bands))
    square = math.isqrt(whole["pos_embed"].shape[1] - 1)
    tile = [shape.patch * side for side in grid or (square, square)]
    return Model(mae.eval(), (record,), {"tile": tile}), account


def _with_class_position(weights: dict[str, Tensor], grid: tuple[int, int] | None) -> dict[str, Tensor]:
    """Weights whose positions have one for the class token too: where it has none, zeros stand for it."""
    table = weights["pos_embed"]
    places = grid[0] * grid[1] if grid else math.isqrt(table.shape[1]) ** 2
    if table.shape[1] != places:
        return weights
    return weights | {"pos_embed": torch.nn.functional.pad(table, (0, 0, 1, 0))}


def _translate(weights: dict[str, Tensor], shape: Architecture, bare: bool) -> tuple[dict[str, Tensor], Account]:
    """The weights by our names, in our layout; `bare`: their positions had none for the class token."""
    state: dict[str, Tensor] = {}
    account = Account()
    renamed = RENAMED if "norm.weight" in weights else POOLED_NORM | RENAMED
    for key, value in weights.items():
        name = _rename(key, renamed)
        if name is None or (name.startswith("decoder.") and shape.decoder is None):
            account.left.append(key)
            continue
        adapted, how = _adapt(name, value.float(), shape)
        if adapted is not None:
            state[name] = adapted
        if key in POOLED_NORM:
            how = " (norms every token; timm norms the mean of the tokens, so pooled embeddings differ from timm's)"
        elif key == "pos_embed" and bare:
            how = f"{how[:-1]}; zeros for the class token)"
        (account.adapted if how else account.taken).append(f"{key}{how}")
    return state, account


def _rename(key: str, renamed: dict[str, str]) -> str | None:
    block = re.fullmatch(r"(decoder_)?blocks\.(.+)", key)
    if block:
        return f"{'decoder' if block[1] else 'encoder'}.blocks.{block[2]}"
    return renamed.get(key)


def _adapt(name: str, value: Tensor, shape: Architecture) -> tuple[Tensor | None, str]:
    """The value as our module stores it, and what was done to it ('' for nothing)."""
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
