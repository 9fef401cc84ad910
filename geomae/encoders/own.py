"""Our own models as encoders.

B tiles, C bands, H W pixels, N patches, F features of a band's code, D width
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from geomae.encoders.digests import weights_digest
from geomae.encoders.pooling import pool
from geomae.errors import ConfigError, ModelError
from geomae.files import digest
from geomae.models.embedding import band_codes
from geomae.models.folder import Model
from geomae.models.patches import grid, patchify
from geomae.models.standardise import standardise
from geomae.sensors import Band


@dataclass(frozen=True)
class OwnEncoder:
    """A model and the choice of its layer (1 is after the first block; None the last, after its norm) and pooling."""

    model: Model
    layer: int | None = None
    pooling: str = "mean"
    text: str = "model"
    adapted: tuple[str, ...] = ()

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that `embed` expects, in this order."""
        return self.model.record.bands

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance that the encoder takes the pixels for."""
        return self.model.record.gsd_m

    @property
    def depth(self) -> int:
        """The number of blocks to choose a layer from."""
        return self.model.mae.architecture.depth

    @cached_property
    def digest(self) -> str:
        """Names weights, architecture, layer, pooling, bands and statistics."""
        shape = self.model.mae.architecture.model_dump(mode="json", exclude={"decoder", "target"})
        weights = weights_digest(self.model.mae.encoder.state_dict())
        return digest(["own", weights, shape, self.layer, self.pooling, self.model.record.to_dict()])

    @property
    def notes(self) -> tuple[str, ...]:
        """How it standardises, which layer is taken, how it is pooled, and what was adapted."""
        record = self.model.record
        which = f"layer {self.layer} of {self.depth}" if self.layer else f"the last of {self.depth} layers, normed"
        return (
            f"bands {', '.join(band.name for band in record.bands)}, standardised by the statistics of {record.name}",
            f"{which}, pooled by {self.pooling}",
            *self.adapted,
        )

    def for_sensor(self, name: str, bands: tuple[str, ...] | None = None) -> "OwnEncoder":
        """The same encoder for another sensor that the model knows, or for a subset of its bands."""
        return replace(self, model=self.model.for_sensor(name, bands))

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises ConfigError for a tile that patches or stored positions do not fit."""
        shape = self.model.mae.architecture
        try:
            found = grid(torch.empty(1, 1, height, width, device="meta"), shape.patch)
        except ModelError as error:
            raise ConfigError(f"{self.text}: {error}") from error
        if shape.positions == "table" and found != shape.grid:
            sides = " x ".join(str(side * shape.patch) for side in shape.grid or ())
            raise ConfigError(
                f"{self.text}: takes tiles of {sides} pixels only, not of {height} x {width}; cut tiles to them"
            )
        return found

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (tile_BD, patches_BND) in float32 of tiles in physical units.

        Patches without a valid pixel are no attention keys and do not enter the pooled vector.
        """
        mae = self.model.mae
        codes_CF = self._codes_CF
        pixels_BCHW = pixels_BCHW.to(codes_CF.device)
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW.to(codes_CF.device)
        side = mae.architecture.patch
        patches_BNCP = patchify(standardise(pixels_BCHW, valid_BCHW, self.model.record), side)
        valid_BNCP = patchify(valid_BCHW, side)
        shape, scale = grid(pixels_BCHW, side), mae.architecture.position_scale(self.gsd_m)
        tokens = mae.encoder.whole(patches_BNCP, valid_BNCP, codes_CF, shape, scale, self.layer).float()
        cls_BD, tokens_BGND = tokens[:, 0], _by_group(tokens[:, 1:], mae.architecture.tokens)
        if mae.architecture.groups:
            # Of several groups, a patch is the mean over those that have a valid pixel in it.
            usable_BGN = _by_group(mae.encoder.usable(valid_BNCP), mae.architecture.tokens)
            weight_BGN = usable_BGN / usable_BGN.sum(1, keepdim=True).clamp(min=1)
            patches_BND = (tokens_BGND * weight_BGN[..., None]).sum(1)
        else:
            patches_BND = tokens_BGND[:, 0]
        return pool(self.pooling, cls_BD, patches_BND, valid_BNCP.flatten(2).any(-1)), patches_BND

    @cached_property
    def _codes_CF(self) -> Tensor:
        """Codes of the bands, on the device of the model."""
        return band_codes(self.bands).to(next(self.model.mae.parameters()).device)


def _by_group(values_BX: Tensor, groups: int) -> Tensor:
    """(B, G * N, ...) to (B, G, N, ...)."""
    return values_BX.reshape(len(values_BX), groups, -1, *values_BX.shape[2:])
