"""Random convolutional features (Rolf et al. 2021, MOSAIKS): what convolutions are worth that nobody trained.

B tiles, C bands, H W pixels, K kernels, h w rows and columns of patches, N patches, D width
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d

from geomae.encoders.baselines import Baseline
from geomae.errors import ConfigError
from geomae.models.standardise import standardise

FEATURES = 512  # two of each kernel: what it gives above and below zero
KERNEL = 3  # pixels a side; torchgeo's default
SEED = 1  # torchgeo takes 0 for no seed
LARGEST = 2**22  # values of all features that are held at a time: more would leave the cache


@dataclass(frozen=True)
class RandomFeaturesEncoder(Baseline):
    """torchgeo's RCF with Gaussian kernels on standardised pixels."""

    device: torch.device

    @property
    def notes(self) -> tuple[str, ...]:
        """What it takes."""
        return (
            f"{FEATURES} random convolutional features (Rolf et al. 2021; torchgeo's RCF, Gaussian kernels "
            f"of {KERNEL} x {KERNEL}, seed {SEED}) of {', '.join(band.name for band in self.bands)}, standardised by "
            "the train split of the data set; invalid pixels are the mean; layer and pooling have no influence",
        )

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises ConfigError for a tile that is smaller than a patch or a kernel."""
        if min(height, width) < KERNEL:
            raise ConfigError(f"{self.text}: a tile of {height} x {width} pixels is smaller than a kernel of {KERNEL}")
        return super().patch_grid(height, width)

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D) and (B, N, D): means over the places whose middle pixel is valid in any band."""
        pixels_BCHW = pixels_BCHW.to(self.device)
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW.to(self.device)
        standard_BCHW = standardise(pixels_BCHW, valid_BCHW, self.record)
        grid = self.patch_grid(*pixels_BCHW.shape[-2:])
        edge = KERNEL // 2
        counts_B1HW = valid_BCHW[..., edge:-edge, edge:-edge].any(1, keepdim=True).float()
        at_once = max(1, LARGEST // (FEATURES * math.prod(counts_B1HW.shape[-2:])))
        starts = range(0, len(standard_BCHW), at_once)
        parts = [(standard_BCHW[i : i + at_once], counts_B1HW[i : i + at_once]) for i in starts]
        tiles, patches = zip(*(self._features(*part, grid) for part in parts), strict=True)
        return torch.cat(tiles), torch.cat(patches)

    def _features(self, standard_BCHW: Tensor, counts_B1HW: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, enabled=False):  # one convolution: precision costs little here
            map_BKHW = conv2d(standard_BCHW, self._rcf.weights, self._rcf.biases)  # type: ignore[arg-type]
        above_BKHW = map_BKHW.relu()
        if not bool(counts_B1HW.all()):
            map_BKHW, above_BKHW = map_BKHW * counts_B1HW, above_BKHW * counts_B1HW

        def means(rows: int, cols: int) -> Tensor:
            share = adaptive_avg_pool2d(counts_B1HW, (rows, cols)).clamp(min=1e-9)
            above, both = (adaptive_avg_pool2d(one, (rows, cols)) / share for one in (above_BKHW, map_BKHW))
            return torch.cat([above, above - both], dim=1).flatten(2).transpose(1, 2)  # below zero: above - value

        return means(1, 1)[:, 0], means(*grid)

    @cached_property
    def _rcf(self) -> nn.Module:
        from torchgeo.models import RCF

        with torch.random.fork_rng(devices=[]):
            rcf: nn.Module = RCF(len(self.bands), features=FEATURES, kernel_size=KERNEL, seed=SEED, mode="gaussian")
        return rcf.to(self.device)
