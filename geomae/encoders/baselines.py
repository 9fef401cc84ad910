"""Baselines without training: band statistics, pixels, random convolutional features, and untrained encoders.

B tiles, C bands, H W pixels, K kernels, h w rows and columns of cells or patches, N patches, D width
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d

from geomae.encoders.interface import Encoder, Layer, Tokens
from geomae.encoders.own_models import own_encoder
from geomae.encoders.specification import Reference
from geomae.errors import ConfigError, ModelError
from geomae.files import digest
from geomae.models.architecture import Architecture, architecture
from geomae.models.folder import Model, standardise
from geomae.models.mae import MaskedAutoencoder
from geomae.models.patches import patchify
from geomae.randomness import key
from geomae.sensors import Band
from geomae.sensors.record import SensorRecord

CELLS = 8  # cells per side to which `pixels` are averaged, so that the width does not depend on the tile size
FEATURES = 512  # two per kernel: the positive and the negative part of its response
KERNEL = 3  # pixels per side; torchgeo's default
SEED = 1  # torchgeo treats 0 as no seed
LARGEST = 2**22  # feature values computed at a time: more would not fit into the cache
TINY_PATCH = 8  # of configs/pretrain/tiny.yaml


def baseline_encoder(
    reference: Reference,
    layer: Layer,
    pooling: str,
    imagery: SensorRecord,
    device: str | torch.device,
    like: Model | None = None,
) -> Encoder:
    """Return a baseline encoder for the data set that `imagery` describes.

    Its patch size, and the architecture of `baseline:random`, are those of the model `like`, or of the configuration
    `tiny` without one.
    """
    patch = TINY_PATCH if like is None else like.mae.architecture.patch
    if reference.name == "random":
        model = untrained(int(reference.options.get("seed", 0)), like, imagery)
        model.mae.to(device)
        return own_encoder(reference, layer, pooling, imagery, model)
    if reference.name == "statistics":
        return StatisticsEncoder(reference.text, imagery, patch)
    if reference.name == "pixels":
        return PixelsEncoder(reference.text, imagery, patch)
    return RandomFeaturesEncoder(reference.text, imagery, patch, torch.device(device))


@dataclass(frozen=True)
class Baseline:
    """Common part of the baselines: all bands of the data set in stored order, and patches of `patch` pixels a side.

    Where the patch size does not divide the tile, as many patches as fit are stretched to cover the tile.
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
        """The ground sample distance of the data set, in metres; it does not affect the embeddings."""
        return self.record.gsd_m

    @property
    def digest(self) -> str:
        """Hex digest of the kind of baseline, its patch size, and the bands and statistics of the data set."""
        return digest([self.text, self.patch, self.record.to_dict()])

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises ConfigError for a tile that is smaller than a patch."""
        if min(height, width) < self.patch:
            raise ConfigError(
                f"{self.text}: a tile of {height} x {width} pixels is smaller than a patch of {self.patch}"
            )
        return height // self.patch, width // self.patch

    def tokens(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tokens:
        """Raise ModelError: a baseline has no weights to train."""
        raise ModelError(
            f"{self.text}: has no weights to train; use embed, or train a model folder, a timm: or torchgeo: model, or "
            "baseline:random"
        )


class StatisticsEncoder(Baseline):
    """Means of all bands, then their standard deviations, over valid pixels in physical units."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The features, bands and unit, in words."""
        return (
            f"mean, then standard deviation, of {', '.join(band.name for band in self.bands)} in {self.record.unit}; "
            "layer and pooling have no influence",
        )

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings of tiles (B, 2 C) and of patches (B, N, 2 C).

        A band without a valid pixel gets the mean of the data set and deviation 0.
        """
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW
        # Float64 differences from the data set's mean: the difference of two large sums of squares would cancel.
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
    """Standardised pixels, averaged to CELLS x CELLS cells per band in each tile and in each patch."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The bands and their normalisation, in words."""
        return (
            f"bands {', '.join(band.name for band in self.bands)}, standardised by the train split of the data set and "
            f"averaged to {CELLS} x {CELLS} cells; layer and pooling have no influence",
        )

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings of tiles (B, C * 64) and patches (B, N, C * 64), band by band.

        A cell without a valid pixel is 0, the mean of its band.
        """
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW
        standard_BCHW = standardise(pixels_BCHW, valid_BCHW, self.record)
        rows, cols = self.patch_grid(*pixels_BCHW.shape[-2:])

        def averages(height: int, width: int) -> Tensor:
            share_BChw = adaptive_avg_pool2d(valid_BCHW.float(), (height, width))
            return adaptive_avg_pool2d(standard_BCHW, (height, width)) / share_BChw.where(share_BChw > 0, 1)

        return averages(CELLS, CELLS).flatten(1), patchify(averages(rows * CELLS, cols * CELLS), CELLS).flatten(2)


@dataclass(frozen=True)
class RandomFeaturesEncoder(Baseline):
    """Random convolutional features (Rolf et al. 2021): torchgeo's RCF with Gaussian kernels on standardised pixels."""

    device: torch.device

    @property
    def notes(self) -> tuple[str, ...]:
        """The features, bands and their normalisation, in words."""
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
        """Return embeddings of tiles (B, D) and patches (B, N, D).

        Features are averaged over kernel positions whose centre pixel is valid in at least one band.
        """
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
        with torch.autocast(self.device.type, enabled=False):  # float32 costs little for a single convolution
            map_BKHW = conv2d(standard_BCHW, self._rcf.weights, self._rcf.biases)  # type: ignore[arg-type]
        above_BKHW = map_BKHW.relu()
        if not bool(counts_B1HW.all()):
            map_BKHW, above_BKHW = map_BKHW * counts_B1HW, above_BKHW * counts_B1HW

        def means(rows: int, cols: int) -> Tensor:
            share = adaptive_avg_pool2d(counts_B1HW, (rows, cols)).clamp(min=1e-9)
            above, both = (adaptive_avg_pool2d(one, (rows, cols)) / share for one in (above_BKHW, map_BKHW))
            return torch.cat([above, above - both], dim=1).flatten(2).transpose(1, 2)  # relu(-x) = relu(x) - x

        return means(1, 1)[:, 0], means(*grid)

    @cached_property
    def _rcf(self) -> nn.Module:
        from torchgeo.models import RCF

        with torch.random.fork_rng(devices=[]):
            rcf: nn.Module = RCF(len(self.bands), features=FEATURES, kernel_size=KERNEL, seed=SEED, mode="gaussian")
        return rcf.to(self.device)


def untrained(seed: int, like: Model | None, imagery: SensorRecord) -> Model:
    """Return a model without decoder whose weights are drawn from `seed`.

    Its architecture is that of `like`, else of `tiny`. It has the sensors of `like`, so that only the weights differ.
    """
    shape = tiny_shape(imagery)
    sensors: tuple[SensorRecord, ...] = (imagery,)
    if like is not None:
        shape, sensors = like.mae.architecture.model_copy(update={"decoder": None}), like.sensors
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "baseline:random") % 2**63)
        mae = MaskedAutoencoder(shape)
    return Model(mae.eval(), sensors)


def tiny_shape(imagery: SensorRecord) -> Architecture:
    """Return the architecture of the encoder of the configuration `tiny`, for the bands of `imagery`."""
    return architecture("tiny", bands=len(imagery.bands), patch=TINY_PATCH, decoder=None)
