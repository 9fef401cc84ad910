"""Export a stacked encoder as a vision transformer of timm with the same features.

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
from geomae.models.blocks import sincos_positions
from geomae.models.convert.state_dicts import ConversionReport
from geomae.models.encoder import Encoder
from geomae.models.folder import Model, standardise

TIMM_EPS = 1e-6  # of timm's vit_* models
LARGEST_DIFFERENCE = 1e-5  # of features, whose magnitude is about 1 after the last norm
NAMES = {
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
    "large": "vit_large_patch16_224",
    "huge": "vit_huge_patch14_224",
}


def transformer(model: Model, what: str) -> Encoder:
    """The transformer encoder of a model. Raises ModelError for a convolutional one, which does not support `what`."""
    encoder = model.mae.encoder
    if not isinstance(encoder, Encoder):
        raise ModelError(
            f"this model is a convolutional autoencoder, which does not support {what}; take a masked autoencoder "
            "(--config tiny)"
        )
    return encoder


def export_grid(model: Model, tile: int | None) -> tuple[int, int]:
    """Rows and columns of patches: those of stored positions, else of `tile` (side in pixels), else of training tiles.

    Raises ModelError where the size of tiles is unknown, or patches do not divide it.
    """
    shape = model.mae.architecture
    if shape.positions == "table" and shape.grid is not None:
        height, width = (shape.patch * side for side in shape.grid)
        if tile not in (None, height) or (tile is not None and height != width):
            raise ModelError(
                f"--tile-size {tile}: the model has positions for tiles of {height} x {width} only; leave it out"
            )
        return shape.grid
    recorded = model.provenance.get("tile")
    sides = [tile, tile] if tile is not None else [recorded, recorded] if isinstance(recorded, int) else recorded
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ModelError(
            "an export is for one size of tiles, and the model does not record the size that it was trained on; give "
            "--tile-size PIXELS"
        )
    height, width = sides
    if height < 1 or width < 1 or height % shape.patch or width % shape.patch:
        raise ModelError(
            f"a patch of {shape.patch} pixels does not divide a tile of {height} x {width}; give --tile-size as a "
            f"multiple of {shape.patch}"
        )
    return height // shape.patch, width // shape.patch


def random_tiles(model: Model, tiles: int, size: tuple[int, int]) -> Tensor:
    """Random tiles (B, C, H, W) in physical units, the same in each call; for checks of an export."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.record.mean_C, model.record.std_C))
    rng = torch.Generator().manual_seed(0)
    return (mean + std * torch.randn(tiles, len(mean), *size, generator=rng)).float()


def scaled(model: Model) -> str:
    """A remark on positions that are scaled by the ground sample distance; empty for others."""
    return f" of {model.record.gsd_m:g} m" if model.mae.architecture.positions == "gsd" else ""


def position_table(model: Model, rows: int, cols: int) -> Tensor:
    """Positions (1 + N, D) that the encoder adds to the class token and to each patch."""
    shape = model.mae.architecture
    if shape.positions == "table":
        table: Tensor = model.mae.state_dict()["encoder.positions.table"]
        return table.float()
    scale = shape.position_scale(model.record.gsd_m)
    assert isinstance(scale, float)  # of one sensor
    return torch.cat([torch.zeros(1, shape.width), sincos_positions(rows, cols, shape.width, scale=scale)])


@dataclass
class TimmWeights:
    """A state dict in timm's layout, and the arguments of `timm.create_model` for a model that it fits."""

    state: dict[str, Tensor]
    name: str
    arguments: dict[str, Any]
    norm_eps: float

    def build(self) -> nn.Module:
        """Build timm's model with these weights, loaded strictly, in evaluation mode."""
        norm: dict[str, Any] = (
            {} if self.norm_eps == TIMM_EPS else {"norm_layer": partial(nn.LayerNorm, eps=self.norm_eps)}
        )
        built: nn.Module = timm.create_model(self.name, pretrained=False, **self.arguments, **norm)
        built.load_state_dict(self.state, strict=True)
        return built.eval()

    def call(self) -> str:
        """The Python expression that builds the model."""
        arguments = [f"{key}={value!r}" for key, value in self.arguments.items()]
        if self.norm_eps != TIMM_EPS:
            arguments.append(f"norm_layer=functools.partial(torch.nn.LayerNorm, eps={self.norm_eps!r})")
        return f"timm.create_model({self.name!r}, {', '.join(arguments)})"


def timm_weights(model: Model, tile: int | None = None) -> tuple[TimmWeights, ConversionReport]:
    """Convert the encoder to timm's layout for tiles of side `tile` pixels (None: see `export_grid`).

    Raises ModelError for an embedding that timm does not have, and where the size of the tiles is unknown.
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
    report = ConversionReport(notes=[f"tiles of {rows * shape.patch} x {cols * shape.patch} pixels"])
    for key, value in mae.state_dict().items():
        name = key.removeprefix("encoder.")
        if key.startswith("decoder."):
            report.left.append(key)
        elif key == "encoder.embedding.proj.weight":
            report.adapted.append(f"{key} (product as a convolution)")
            state["patch_embed.proj.weight"] = value.reshape(shape.width, shape.bands, shape.patch, shape.patch)
        elif key == "encoder.positions.table":
            report.adapted.append(f"{key} (pos_embed)")
        else:
            report.taken.append(key)
            state[name.replace("embedding.", "patch_embed.")] = value
    if shape.positions != "table":
        report.new.append(f"pos_embed (sines and cosines of {rows} x {cols} patches{scaled(model)})")
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
    return TimmWeights(plain, NAMES[preset], arguments, shape.norm_eps), report


@torch.no_grad()
def check_timm(exported: TimmWeights, model: Model, embed: Callable[[Tensor], tuple[Tensor, Tensor]]) -> float:
    """Largest difference between patch features of timm's model and of `embed` on random tiles.

    `embed` maps tiles in physical units to (tile_BD, patches_BND). Raises ModelError where the difference exceeds
    LARGEST_DIFFERENCE times the largest feature (at least 1).
    """
    pixels_BCHW = random_tiles(model, 2, exported.arguments["img_size"])
    valid_BCHW = torch.ones_like(pixels_BCHW, dtype=torch.bool)
    ours = embed(pixels_BCHW)[1].cpu()
    theirs = exported.build().forward_features(standardise(pixels_BCHW, valid_BCHW, model.record))[:, 1:]  # type: ignore[operator]
    difference = float((ours - theirs).abs().max())
    if not difference <= LARGEST_DIFFERENCE * max(1.0, float(ours.abs().max())):
        raise ModelError(f"timm's features differ from the model's by {difference:.2g}; this is a defect of the export")
    return difference
