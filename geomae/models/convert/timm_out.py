"""A stacked encoder as a vision transformer that timm builds, with the same features.

B batch, C bands, H W pixels of a tile, N patches, D width
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from geomae.errors import ModelError
from geomae.models.architecture import PRESETS
from geomae.models.convert.account import Account
from geomae.models.convert.grid import export_grid, position_table, random_tiles, scaled
from geomae.models.convert.transformer import transformer
from geomae.models.folder import Model
from geomae.models.standardise import standardise

TIMM_EPS = 1e-6  # of timm's vit_* models
LARGEST_DIFFERENCE = 1e-5  # of features, which are about 1 after the last norm
NAMES = {
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
    "large": "vit_large_patch16_224",
    "huge": "vit_huge_patch14_224",
}


@dataclass
class TimmWeights:
    """A state dict of timm's layout, and what `timm.create_model` needs to build the model it fits."""

    state: dict[str, Tensor]
    name: str
    arguments: dict[str, Any]
    norm_eps: float

    def build(self) -> nn.Module:
        """The model with these weights, loaded strictly, for evaluation."""
        norm: dict[str, Any] = (
            {} if self.norm_eps == TIMM_EPS else {"norm_layer": partial(nn.LayerNorm, eps=self.norm_eps)}
        )
        built: nn.Module = timm.create_model(self.name, pretrained=False, **self.arguments, **norm)
        built.load_state_dict(self.state, strict=True)
        return built.eval()

    def call(self) -> str:
        """The line of Python that builds the model."""
        arguments = [f"{key}={value!r}" for key, value in self.arguments.items()]
        if self.norm_eps != TIMM_EPS:
            arguments.append(f"norm_layer=functools.partial(torch.nn.LayerNorm, eps={self.norm_eps!r})")
        return f"timm.create_model({self.name!r}, {', '.join(arguments)})"


def timm_weights(model: Model, tile: int | None = None) -> tuple[TimmWeights, Account]:
    """The encoder in timm's layout, for tiles of `tile` pixels a side (None: those that the model knows).

    Raises ModelError for an embedding that timm has not, and where the size of the tiles is open.
    """
    transformer(model, "export to timm")
    mae, shape = model.mae, model.mae.architecture
    if shape.embedding != "stacked":
        what = (
            "makes its patch kernels from the wavelengths of the bands"
            if shape.embedding == "spectral"
            else "makes a token of each group of bands"
        )
        raise ModelError(
            f"timm cannot represent this model: a {shape.embedding} embedding {what}, and timm's vision transformers "
            "have one fixed kernel for all; use --to onnx or safetensors, or train with embedding=stacked"
        )
    rows, cols = export_grid(model, tile)
    state: dict[str, Tensor] = {"pos_embed": position_table(model, rows, cols)[None]}
    account = Account(notes=[f"tiles of {rows * shape.patch} x {cols * shape.patch} pixels"])
    for key, value in mae.state_dict().items():
        name = key.removeprefix("encoder.")
        if key.startswith("decoder."):
            account.left.append(key)
        elif key == "encoder.embedding.proj.weight":
            account.adapted.append(f"{key} (product as a convolution)")
            state["patch_embed.proj.weight"] = value.reshape(shape.width, shape.bands, shape.patch, shape.patch)
        elif key == "encoder.positions.table":
            account.adapted.append(f"{key} (pos_embed)")
        else:
            account.taken.append(key)
            state[name.replace("embedding.", "patch_embed.")] = value
    if shape.positions != "table":
        account.new.append(f"pos_embed (sines and cosines of {rows} x {cols} patches{scaled(model)})")
    preset = next((name for name, size in PRESETS.items() if size == (shape.width, shape.depth, shape.heads)), "base")
    arguments = {
        "img_size": (rows * shape.patch, cols * shape.patch),
        "patch_size": shape.patch,
        "in_chans": shape.bands,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "class_token": True,
        "num_classes": 0,
    }
    plain = {name: value.detach().float().cpu().contiguous() for name, value in state.items()}
    return TimmWeights(plain, NAMES[preset], arguments, shape.norm_eps), account


@torch.no_grad()
def check_timm(exported: TimmWeights, model: Model, embed: Callable[[Tensor], tuple[Tensor, Tensor]]) -> float:
    """The largest difference between patch features of timm's model and of `embed` (tiles in physical units to
    (tile_BD, patches_BND)) on random tiles. Raises ModelError where it is more than LARGEST_DIFFERENCE.
    """
    pixels_BCHW = random_tiles(model, 2, exported.arguments["img_size"])
    valid_BCHW = torch.ones_like(pixels_BCHW, dtype=torch.bool)
    ours = embed(pixels_BCHW)[1].cpu()
    theirs = exported.build().forward_features(standardise(pixels_BCHW, valid_BCHW, model.record))[:, 1:]  # type: ignore[operator]
    difference = float((ours - theirs).abs().max())
    if not difference <= LARGEST_DIFFERENCE * max(1.0, float(ours.abs().max())):
        raise ModelError(f"timm's features differ from the model's by {difference:.2g}; this is a defect of the export")
    return difference
