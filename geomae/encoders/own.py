"""Our own models as encoders.

B tiles, C bands, H W pixels, N patches, D width
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from geomae.errors import ConfigError, GeomaeError, nearest
from geomae.models.embedding import band_codes
from geomae.models.folder import Model, load_model
from geomae.models.patches import grid, patchify
from geomae.models.standardise import standardise
from geomae.sensors import Band

POOLINGS = ("mean", "cls", "mean-std")


@dataclass(frozen=True)
class Encoder:
    """A model and the choice of its layer (1 is after the first block; None the last, after its norm) and pooling."""

    model: Model
    layer: int | None = None
    pooling: str = "mean"

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that `embed` expects, in this order."""
        return self.model.record.bands

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance that the encoder was trained at."""
        return self.model.record.gsd_m

    def for_sensor(self, name: str, bands: tuple[str, ...] | None = None) -> "Encoder":
        """The same encoder for another sensor that the model knows, or for a subset of its bands."""
        return Encoder(self.model.for_sensor(name, bands), self.layer, self.pooling)

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (tile_BD, patches_BND) in float32 of tiles in physical units.

        Patches without a valid pixel are no attention keys and do not enter the pooled vector.
        """
        mae = self.model.mae
        device = next(mae.parameters()).device
        pixels_BCHW = pixels_BCHW.to(device)
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW.to(device)
        side = mae.architecture.patch
        patches_BNCP = patchify(standardise(pixels_BCHW, valid_BCHW, self.model.record), side)
        valid_BNCP = patchify(valid_BCHW, side)
        shape, scale = grid(pixels_BCHW, side), mae.architecture.position_scale(self.gsd_m)
        tokens = mae.encoder.layers(patches_BNCP, valid_BNCP, band_codes(self.bands).to(device), shape, scale)
        chosen = tokens[-1 if self.layer is None else self.layer - 1].float()
        cls_BD, tokens_BGND = chosen[:, 0], _by_group(chosen[:, 1:], mae.architecture.tokens)
        # Of several groups, a patch is the mean over those that have a valid pixel in it.
        usable_BGN = _by_group(mae.encoder.usable(valid_BNCP), mae.architecture.tokens)
        weight_BGN = usable_BGN / usable_BGN.sum(1, keepdim=True).clamp(min=1)
        patches_BND = (tokens_BGND * weight_BGN[..., None]).sum(1) if mae.architecture.groups else tokens_BGND[:, 0]
        return self._pool(cls_BD, patches_BND, valid_BNCP.flatten(2).any(-1)), patches_BND

    def _pool(self, cls_BD: Tensor, patches_BND: Tensor, usable_BN: Tensor) -> Tensor:
        if self.pooling == "cls":
            return cls_BD
        weight_BN1 = usable_BN[..., None] / usable_BN.sum(1)[:, None, None].clamp(min=1)
        mean_BD = (patches_BND * weight_BN1).sum(1)
        if self.pooling == "mean":
            return mean_BD
        spread_BD = ((patches_BND - mean_BD[:, None]).square() * weight_BN1).sum(1).sqrt()
        return torch.cat([mean_BD, spread_BD], dim=1)


def _by_group(values_BX: Tensor, groups: int) -> Tensor:
    """(B, G * N, ...) to (B, G, N, ...)."""
    return values_BX.reshape(len(values_BX), groups, -1, *values_BX.shape[2:])


def load_encoder(
    encoder: str | Path, layer: int | None = None, pooling: str | None = None, device: str | torch.device = "cpu"
) -> Encoder:
    """The encoder of a model folder, or of `mlflow:RUN_ID` or `models:/NAME/VERSION` in the tracking store in use.

    `layer` counts from 1; `pooling` is `mean` (default), `cls` or `mean-std` (twice as long).
    """
    pooling = pooling or "mean"
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling {pooling!r}: {nearest(pooling, POOLINGS)}")
    text = str(encoder)
    if text.startswith(("mlflow:", "models:/")):
        from geomae.tracking import download, resolve_uri

        folder = download(text, resolve_uri(None))
    elif Path(text).is_dir():
        folder = Path(text)
    else:
        raise GeomaeError(f"{text}: is neither a model folder nor an MLflow reference; check the path")
    model = load_model(folder, device)
    depth = model.mae.architecture.depth
    if layer is not None and not 1 <= layer <= depth:
        raise ConfigError(f"layer {layer}: the encoder has layers 1 to {depth}")
    return Encoder(model, layer, pooling)
