"""Baselines that take no training and no model: statistics of the bands, and the pixels themselves.

B tiles, C bands, H W pixels, h w cells or patches, N patches, D width
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from geomae.errors import ConfigError
from geomae.files import digest
from geomae.models.patches import patchify
from geomae.models.standardise import SensorRecord, standardise
from geomae.sensors import Band

CELLS = 8  # `pixels` are averaged to as many cells a side, so that the width does not depend on the size of the tile


@dataclass(frozen=True)
class Baseline:
    """What baselines share: the bands of the data set in their stored order, and patches of `patch` pixels.

    Where patches do not divide a tile, as many as fit are stretched over it.
    """

    text: str
    record: SensorRecord
    patch: int

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands of the data set."""
        return self.record.bands

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance of the data set, which has no influence."""
        return self.record.gsd_m

    @property
    def digest(self) -> str:
        """Names the kind, the size of its patches, bands and statistics."""
        return digest([self.text, self.patch, self.record.to_dict()])

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises ConfigError for a tile that is smaller than a patch."""
        if min(height, width) < self.patch:
            raise ConfigError(
                f"{self.text}: a tile of {height} x {width} pixels is smaller than a patch of {self.patch}"
            )
        return height // self.patch, width // self.patch


class StatisticsEncoder(Baseline):
    """Mean and standard deviation of each band over valid pixels, in physical units: all means, then all deviations."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What it takes."""
        return (
            f"mean, then standard deviation, of {', '.join(band.name for band in self.bands)} in {self.record.unit}; "
            "layer and pooling have no influence",
        )

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (B, 2 C) and (B, N, 2 C). A band without a valid pixel has the usual mean and deviation 0."""
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW
        # In float64 and as distance from the usual mean: a sum of squares would otherwise lose what the deviation is.
        usual_C11 = torch.tensor(self.record.mean_C, dtype=torch.float64, device=pixels_BCHW.device)[:, None, None]
        distance_BCHW = (pixels_BCHW.double() - usual_C11).where(valid_BCHW, 0)
        sums = (valid_BCHW.double(), distance_BCHW, distance_BCHW.square())

        def moments(rows: int, cols: int) -> Tensor:
            share, first, second = (adaptive_avg_pool2d(one, (rows, cols)) for one in sums)
            share = share.where(share > 0, 1)  # both sums are 0 there
            deviation = (second / share - (first / share).square()).clamp(min=0).sqrt()
            return torch.cat([first / share + usual_C11, deviation], dim=1).flatten(2).transpose(1, 2).float()

        return moments(1, 1)[:, 0], moments(*self.patch_grid(*pixels_BCHW.shape[-2:]))


class PixelsEncoder(Baseline):
    """The standardised pixels themselves, averaged to CELLS x CELLS cells per band in a tile and in a patch."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What it takes."""
        return (
            f"bands {', '.join(band.name for band in self.bands)}, standardised by the train split of the data set and "
            f"averaged to {CELLS} x {CELLS} cells; layer and pooling have no influence",
        )

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (B, C * 64) and (B, N, C * 64), band after band; a cell without a valid pixel is 0, the mean."""
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW
        standard_BCHW = standardise(pixels_BCHW, valid_BCHW, self.record)
        rows, cols = self.patch_grid(*pixels_BCHW.shape[-2:])

        def cells(height: int, width: int) -> Tensor:
            share_BChw = adaptive_avg_pool2d(valid_BCHW.float(), (height, width))
            return adaptive_avg_pool2d(standard_BCHW, (height, width)) / share_BChw.where(share_BChw > 0, 1)

        return cells(CELLS, CELLS).flatten(1), patchify(cells(rows * CELLS, cols * CELLS), CELLS).flatten(2)
