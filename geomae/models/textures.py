"""The loss term `textures`: predict fixed convolutional features of a whole tile from its visible patches.

The filters are small patches drawn from the imagery, centred and whitened, so that the components that all patches
share, above all slow changes of brightness, do not dominate (Coates et al. 2011). The features are the mean positive
and negative responses of each filter, as in random convolutional features, from which a linear model predicts land
cover (Rolf et al. 2021, MOSAIKS); to these come mean, standard deviation and a soft histogram of every band. Targets
are the whitened principal components of the features: each component has the same weight, however few features it
comes from. MaskFeat (Wei et al. 2022, arXiv 2112.09133) predicts fixed features of hidden patches instead of pixels;
here they are features of tiles, since encoders are evaluated on tiles. Where another date or sensor shows the same
ground, the features of that image are predicted. Filters and head are discarded after training.

B tiles, T tiles of a sample, C bands, H W pixels, L levels, K filters, F = 2 K + (2 + L) C features, P components,
D width; in `cut_filters` N cut patches and V = C * side * side values of a patch
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, max_pool2d

from geomae.models.blocks import start_linear

SIDES = (3, 5, 7)  # sides of the filters in pixels; those larger than a tile are left out
PER_SIDE = 32  # number of filters of each side
STRIDE = 2  # of the convolutions, since responses of neighbouring pixels are nearly equal
CUT = 4096  # number of patches from which the whitening is estimated
FLOOR = 0.3  # fraction of the mean variance added to each direction, so that whitening does not amplify noise
LEVELS = tuple(-1.6 + 3.2 * place / 7 for place in range(8))  # of standardised values
SOFT = 0.25  # width of the soft step at a level, in standard deviations
COMPONENTS = 96
SMALLEST = 1e-4  # the same for components, as a fraction of the largest variance
NOTHING = 1e-9  # fraction of the largest variance below which a component is rounding error
AT_ONCE = 64  # tiles of the sample that are filtered at once
HIDDEN = 512  # width of the head
LARGEST = 6.0  # standard deviations at which targets are clipped, so that one bright tile does not dominate a step


class TextureTargets(nn.Module):
    """The filters of one data set and the principal components of its features, from a sample of its tiles."""

    mean_F: Tensor
    basis_FP: Tensor

    def __init__(self, pixels_TCHW: Tensor, valid_TCHW: Tensor, rng: np.random.Generator) -> None:
        super().__init__()
        # The buffers are functions of the seed and the tiles, so checkpoints need not store them.
        self.sides = [side for side in SIDES if side <= min(pixels_TCHW.shape[2:])]
        for side in self.sides:
            filters = cut_filters(pixels_TCHW, valid_TCHW, side, rng)
            self.register_buffer(f"filters_{side}", filters, persistent=False)
        pairs = zip(torch.split(pixels_TCHW, AT_ONCE), torch.split(valid_TCHW, AT_ONCE), strict=True)
        features_TF, counted_T = (
            torch.cat(parts) for parts in zip(*(self._responses(*one) for one in pairs), strict=True)
        )
        known_TF = features_TF[counted_T] if bool(counted_T.any()) else features_TF
        self.register_buffer("mean_F", known_TF.mean(0), persistent=False)
        self.register_buffer("basis_FP", _whitening(known_TF), persistent=False)

    @torch.no_grad()
    def forward(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (B, P), and which tiles (B,) have one: those with a valid place for every size of filter."""
        features_BF, counted_B = self._responses(pixels_BCHW, valid_BCHW)
        with torch.autocast(pixels_BCHW.device.type, enabled=False):
            target_BP = ((features_BF - self.mean_F) @ self.basis_FP).clamp(-LARGEST, LARGEST)
        return target_BP.where(counted_B[:, None], 0), counted_B

    def _responses(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, F) of the valid pixels of standardised tiles, and which tiles have a place for each filter."""
        pixels_BCHW = pixels_BCHW.float().where(valid_BCHW, 0)
        gap_B1HW = (~valid_BCHW.all(1, keepdim=True)).float()
        count_BC = valid_BCHW.sum((2, 3)).clamp(min=1)
        mean_BC = pixels_BCHW.sum((2, 3)) / count_BC
        away_BCHW = (pixels_BCHW - mean_BC[..., None, None]).where(valid_BCHW, 0)
        features = [mean_BC, (away_BCHW.square().sum((2, 3)) / count_BC).sqrt()]
        for level in LEVELS:
            above_BCHW = ((pixels_BCHW - level) / SOFT).sigmoid().where(valid_BCHW, 0)
            features.append(above_BCHW.sum((2, 3)) / count_BC)
        counted_B = valid_BCHW.new_ones(len(valid_BCHW))
        with torch.autocast(pixels_BCHW.device.type, enabled=False):
            for side in self.sides:
                response_BKP = conv2d(pixels_BCHW, getattr(self, f"filters_{side}"), stride=STRIDE).flatten(2)
                fits_BP1 = (1 - max_pool2d(gap_B1HW, side, STRIDE)).flatten(2).transpose(1, 2)
                places_B1 = fits_BP1.sum(1)
                counted_B = counted_B & (places_B1[:, 0] > 0)
                whole_BK, above_BK = ((one @ fits_BP1)[..., 0] for one in (response_BKP, response_BKP.relu()))
                for sum_BK in (above_BK, (above_BK - whole_BK).clamp(min=0)):
                    features.append((sum_BK / places_B1.clamp(min=1)).sqrt())
        return torch.cat(features, dim=1), counted_B


class TextureHead(nn.Module):
    """Two layers from the mean of the visible tokens to the components, with a learned embedding of the data set."""

    def __init__(self, width: int, datasets: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, COMPONENTS)
        start_linear(self)
        self.code = nn.Embedding(datasets, HIDDEN)
        nn.init.zeros_(self.code.weight)

    def forward(self, pooled_BD: Tensor, dataset_B: Tensor) -> Tensor:
        """Predict the components (B, P) of each tile for the data set `dataset_B`, in float32."""
        predicted_BP: Tensor = self.out(gelu(self.hidden(pooled_BD) + self.code(dataset_B)))
        return predicted_BP.float()


def _whitening(features_TF: Tensor) -> Tensor:
    """The matrix (F, P) from centred features to principal components of variance at most 1; 0 for missing ones."""
    about_TF = (features_TF - features_TF.mean(0)).double()
    scale_F = about_TF.std(0, correction=0).clamp(min=1e-4)
    variance_P, turn_FP = torch.linalg.eigh((about_TF / scale_F).T @ (about_TF / scale_F) / len(about_TF))
    variance_P, turn_FP = variance_P.flip(0)[:COMPONENTS].clamp(min=0), turn_FP.flip(1)[:, :COMPONENTS]
    signs_P = turn_FP.gather(0, turn_FP.abs().argmax(0, keepdim=True)).sign()  # the sign of an eigenvector is arbitrary
    known_P = variance_P > NOTHING * variance_P[0]
    size_P = (variance_P + SMALLEST * variance_P[0]).clamp(min=1e-12).sqrt()
    basis_FP = torch.zeros(features_TF.shape[1], COMPONENTS, dtype=torch.float64)
    basis_FP[:, : len(size_P)] = (turn_FP * signs_P / size_P / scale_F[:, None]) * known_P
    return basis_FP.float()


def cut_filters(pixels_TCHW: Tensor, valid_TCHW: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Whitened filters (K, C, side, side) of length 1 from patches at random places of the tiles, valid ones first.

    The filter of a patch p is Z Z p, where Z is the whitening matrix of patches, so that its response to a patch q is
    proportional to the inner product of the whitened patches. Filters sum to zero: constant brightness gives 0.
    """
    T, C, H, W = pixels_TCHW.shape
    tile_N, row_N, col_N = (torch.from_numpy(rng.integers(high, size=CUT)) for high in (T, H - side + 1, W - side + 1))
    step = torch.arange(side)
    place = (tile_N[:, None, None], slice(None), (row_N[:, None] + step)[:, :, None], (col_N[:, None] + step)[:, None])
    cut_NCss = pixels_TCHW.where(valid_TCHW, 0)[place].permute(0, 3, 1, 2).double()
    order_N = (~valid_TCHW[place].flatten(1).all(1)).long().argsort(stable=True)
    patch_NV = cut_NCss.flatten(1)[order_N]
    patch_NV = patch_NV - patch_NV.mean(1, keepdim=True)
    size_N1 = patch_NV.norm(dim=1, keepdim=True)
    flat_N1 = size_N1 < 1e-3 * math.sqrt(patch_NV.shape[1])  # without texture: noise replaces it
    noise_NV = torch.from_numpy(rng.standard_normal(patch_NV[:PER_SIDE].shape))
    noise_NV -= noise_NV.mean(1, keepdim=True)
    chosen_KV = torch.where(flat_N1[:PER_SIDE], noise_NV, patch_NV[:PER_SIDE])
    variance_V, turn_VV = torch.linalg.eigh(patch_NV.T @ patch_NV / len(patch_NV))
    size_V = variance_V.clamp(min=0) + FLOOR * variance_V.mean().clamp(min=1e-6)
    filters_KV: Tensor = chosen_KV @ (turn_VV / size_V) @ turn_VV.T
    filters_KV /= filters_KV.norm(dim=1, keepdim=True)
    return filters_KV.float().reshape(PER_SIDE, C, side, side)
