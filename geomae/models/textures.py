"""The term `textures`: what fixed filters say of a whole tile is predicted from the patches of it that are visible.

The filters are small patches of the imagery itself without their mean (Coates et al. 2011). What they say of a tile is
how strongly they respond above and below zero on average: random convolutional features, of which a linear map tells
land cover (Rolf et al. 2021, MOSAIKS). Mean and deviation of every band stand beside them. All are turned to their
principal components and these brought to one size, so that what few filters say counts as much as what all say. To
predict fixed features of what is hidden instead of its pixels is the idea of MaskFeat (Wei et al. 2022, arXiv
2112.09133), there of patches: here of tiles, since tiles are what encoders are asked about. Where another date or
sensor shows the ground of a tile, what the filters say of that is predicted. Nothing of it is kept after training.

B tiles, T of a sample, C bands, H W pixels, K filters, F = 2 K + 2 C features, P components, D width
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, max_pool2d

from geomae.models.blocks import start_linear

SIDES = (3, 5, 7)  # of filters, in pixels; those that fit into a tile
PER_SIDE = 32  # filters of each side
STRIDE = 2  # of the convolutions: responses of neighbours say nearly the same
COMPONENTS = 96
SMALLEST = 1e-4  # share of the largest variance that is added to each: what is noise is not blown up
NOTHING = 1e-9  # share of it below which there is only rounding
AT_ONCE = 64  # tiles of the sample
HIDDEN = 512  # width of the head
LARGEST = 6.0  # deviations beyond which a target is cut: one bright tile must not rule a step


class TextureTargets(nn.Module):
    """The filters of one data set and the components of what they say, from a sample of its tiles."""

    mean_F: Tensor
    basis_FP: Tensor

    def __init__(self, pixels_TCHW: Tensor, valid_TCHW: Tensor, rng: np.random.Generator) -> None:
        super().__init__()
        # Functions of the seed and the tiles, and so no part of a checkpoint.
        self.sides = [side for side in SIDES if side <= min(pixels_TCHW.shape[2:])]
        for side in self.sides:
            self.register_buffer(f"filters_{side}", _cut_filters(pixels_TCHW, side, rng), persistent=False)
        pairs = zip(torch.split(pixels_TCHW, AT_ONCE), torch.split(valid_TCHW, AT_ONCE), strict=True)
        features_TF, counted_T = (
            torch.cat(parts) for parts in zip(*(self._responses(*one) for one in pairs), strict=True)
        )
        known_TF = features_TF[counted_T] if bool(counted_T.any()) else features_TF
        self.register_buffer("mean_F", known_TF.mean(0), persistent=False)
        self.register_buffer("basis_FP", _whitening(known_TF), persistent=False)

    @torch.no_grad()
    def forward(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (B, P) and which tiles (B,) have any: those between whose gaps every filter fits."""
        features_BF, counted_B = self._responses(pixels_BCHW, valid_BCHW)
        with torch.autocast(pixels_BCHW.device.type, enabled=False):
            target_BP = ((features_BF - self.mean_F) @ self.basis_FP).clamp(-LARGEST, LARGEST)
        return target_BP.where(counted_B[:, None], 0), counted_B

    def _responses(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, F) of standardised tiles over what is valid, and which tiles have a place for every filter."""
        pixels_BCHW = pixels_BCHW.float().where(valid_BCHW, 0)
        gap_B1HW = (~valid_BCHW.all(1, keepdim=True)).float()
        count_BC = valid_BCHW.sum((2, 3)).clamp(min=1)
        mean_BC = pixels_BCHW.sum((2, 3)) / count_BC
        away_BCHW = (pixels_BCHW - mean_BC[..., None, None]).where(valid_BCHW, 0)
        features = [mean_BC, (away_BCHW.square().sum((2, 3)) / count_BC).sqrt()]
        counted_B = valid_BCHW.new_ones(len(valid_BCHW))
        with torch.autocast(pixels_BCHW.device.type, enabled=False):
            for side in self.sides:
                response_BKhw = conv2d(pixels_BCHW, getattr(self, f"filters_{side}"), stride=STRIDE)
                fits_B1hw = 1 - max_pool2d(gap_B1HW, side, STRIDE)
                places_B1 = fits_B1hw.sum((2, 3))
                counted_B = counted_B & (places_B1[:, 0] > 0)
                for one in (response_BKhw.relu(), (-response_BKhw).relu()):
                    features.append(((one * fits_B1hw).sum((2, 3)) / places_B1.clamp(min=1)).sqrt())
        return torch.cat(features, dim=1), counted_B


class TextureHead(nn.Module):
    """Two layers from the mean of the visible tokens to the components; data sets differ by a learned code."""

    def __init__(self, width: int, datasets: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, COMPONENTS)
        start_linear(self)
        self.code = nn.Embedding(datasets, HIDDEN)
        nn.init.zeros_(self.code.weight)

    def forward(self, pooled_BD: Tensor, dataset_B: Tensor) -> Tensor:
        """Predictions (B, P) in float32, for each tile of what its data set says of it."""
        predicted_BP: Tensor = self.out(gelu(self.hidden(pooled_BD) + self.code(dataset_B)))
        return predicted_BP.float()


def _whitening(features_TF: Tensor) -> Tensor:
    """What turns features about their mean to components (F, P) of unit variance at most; zero where there are none."""
    about_TF = (features_TF - features_TF.mean(0)).double()
    scale_F = about_TF.std(0, correction=0).clamp(min=1e-4)
    variance_P, turn_FP = torch.linalg.eigh((about_TF / scale_F).T @ (about_TF / scale_F) / len(about_TF))
    variance_P, turn_FP = variance_P.flip(0)[:COMPONENTS].clamp(min=0), turn_FP.flip(1)[:, :COMPONENTS]
    signs_P = turn_FP.gather(0, turn_FP.abs().argmax(0, keepdim=True)).sign()  # which no library promises
    known_P = variance_P > NOTHING * variance_P[0]
    size_P = (variance_P + SMALLEST * variance_P[0]).clamp(min=1e-12).sqrt()
    basis_FP = torch.zeros(features_TF.shape[1], COMPONENTS, dtype=torch.float64)
    basis_FP[:, : len(size_P)] = (turn_FP * signs_P / size_P / scale_F[:, None]) * known_P
    return basis_FP.float()


def _cut_filters(pixels_TCHW: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Filters (K, C, side, side) cut from random places of the tiles, each without its mean and of length 1."""
    T, C, H, W = pixels_TCHW.shape
    tile, row, col = (rng.integers(high, size=PER_SIDE) for high in (T, H - side + 1, W - side + 1))
    cut = [
        pixels_TCHW[t, :, y : y + side, x : x + side].float()
        for t, y, x in zip(tile.tolist(), row.tolist(), col.tolist(), strict=True)
    ]
    centred = torch.stack(cut)
    centred = centred - centred.mean((1, 2, 3), keepdim=True)
    length = centred.flatten(1).norm(dim=1)
    flat = length < 1e-3 * math.sqrt(C * side * side)  # of no texture: noise stands in for it
    noise = torch.from_numpy(rng.standard_normal(centred.shape).astype(np.float32))
    centred = torch.where(flat[:, None, None, None], noise, centred)
    filters: Tensor = centred / centred.flatten(1).norm(dim=1)[:, None, None, None]
    return filters
