"""One token per patch and group of bands, with a kernel and a head of its own for each group (Cong et al. 2022).

B batch, N patches, C bands, G groups, X = G * N tokens in the order of the groups, P pixels of a patch, D width
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geomae.sensors import Band
from geomae.sensors.band import Groups

POLARISATIONS = ("VV", "VH", "HH", "HV")
PERIOD_DECADES = 8.0  # of wavelength, after which codes repeat: from 0.3 um to radar are less than six
RESOLUTION_DECADES = 0.03  # 7 %: closer wavelengths count as alike, as neighbouring bands of one colour are
FREQUENCIES = 128  # as many as that resolution asks for
WIDTH_FREQUENCIES = 8
WIDTH_WEIGHT = 0.15  # bands of one centre but unlike widths are still much alike
CODE_FEATURES = 2 * (FREQUENCIES + WIDTH_FREQUENCIES) + len(POLARISATIONS)
HEAD_GAIN = 0.1  # predictions begin near the mean: noise of unit size would first have to be unlearned
SMALLEST_SUM = 0.5  # where kernels cancel or no band is present, tokens must not be blown up
KERNELS = 48  # size R of the basis from which the kernel of a band is mixed


def band_codes(bands: Sequence[Band]) -> Tensor:
    """Codes (C, F) in float32 whose products say how alike bands are.

    Sines and cosines of the logarithm of the wavelength, weighted so that their product is a Gaussian of
    RESOLUTION_DECADES (Rahimi and Recht 2007, on a grid of frequencies): blue and green are told apart from the first
    step, and red of one sensor meets red of another. The logarithm puts light, thermal infrared and radar on one scale.
    Width and polarisation add to it.
    """
    rows = []
    for band in bands:
        centre = _waves(math.log10(band.wavelength_um), FREQUENCIES, RESOLUTION_DECADES)
        width = _waves(math.log10(band.fwhm_um), WIDTH_FREQUENCIES, 0.5)
        kind = torch.tensor([float(band.polarisation == name) for name in POLARISATIONS], dtype=torch.float64)
        rows.append(torch.cat([centre, width * WIDTH_WEIGHT**0.5, kind]))
    return torch.stack(rows).float()


def _waves(decades: float, frequencies: int, resolution: float) -> Tensor:
    """Features of unit norm (2 * frequencies,) whose product is a Gaussian of the distance, in float64."""
    frequency = 2 * math.pi / PERIOD_DECADES * torch.arange(1, frequencies + 1, dtype=torch.float64)
    weight = torch.exp(-((frequency * resolution) ** 2) / 2)
    angle = frequency * decades
    return torch.cat([angle.sin(), angle.cos()]) * (weight / weight.sum()).sqrt().repeat(2)


class StackedEmbedding(nn.Module):
    """One linear map of all bands of a patch; with three bands that of He et al. 2022, whose weights fit."""

    def __init__(self, bands: int, pixels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(bands * pixels, width)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def embed(self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor) -> Tensor:
        """Tokens (B, N, D). Invalid pixels count as the mean of their band, which is zero here."""
        tokens: Tensor = self.proj(patches_BNCP.where(valid_BNCP, 0).flatten(2))
        return tokens


class StackedHead(nn.Module):
    """One linear map from a decoder token to all bands of a patch."""

    def __init__(self, bands: int, pixels: int, width: int) -> None:
        super().__init__()
        self.bands = bands
        self.proj = nn.Linear(width, bands * pixels)
        nn.init.xavier_uniform_(self.proj.weight, gain=HEAD_GAIN)
        nn.init.zeros_(self.proj.bias)

    def predict(self, tokens_BND: Tensor, codes_CF: Tensor) -> Tensor:
        """Predictions (B, N, C, P)."""
        flat: Tensor = self.proj(tokens_BND)
        return flat.reshape(*flat.shape[:2], self.bands, -1)


class KernelBasis(nn.Module):
    """Mixes the kernel of each band from R learned kernels; the mixture is a function of the band's code.

    The idea of generated patch kernels is that of DOFA (Xiong et al. 2024); a shared basis is its smallest form: any
    band of any sensor goes through the same weights.
    """

    def __init__(self, rows: int, cols: int, gain: float = 1.0) -> None:
        super().__init__()
        self.mixture = nn.Linear(
            CODE_FEATURES, KERNELS, bias=False
        )  # keeps unlike bands unlike, as a deep map would not
        self.kernels = nn.Parameter(torch.empty(KERNELS, rows, cols))
        limit = gain * math.sqrt(6 / (rows + cols))  # Xavier of one kernel ...
        nn.init.uniform_(self.kernels, -limit, limit)

    def forward(self, codes_CF: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels (C, rows, cols) and the mixtures (C, R) of unit norm that made them, in float32."""
        with torch.autocast(codes_CF.device.type, enabled=False):  # a few rows: precision is free here
            mixture_CR = nn.functional.normalize(self.mixture(codes_CF.float()), dim=-1)
            # ... kept by a mixture of unit norm.
            return torch.einsum("cr,rij->cij", mixture_CR, self.kernels.float()), mixture_CR


class SpectralEmbedding(nn.Module):
    """Tokens from any set of bands: the sum over the bands that a patch has, each through its generated kernel.

    Bands are much alike, so the sum of n of them is between sqrt(n) and n times as large as one, depending on how
    alike their kernels are. It is divided by what the mixtures say it is for equal bands: a subset of the bands gives
    tokens of the same magnitude. A band without a valid pixel in a patch takes no part in that patch.
    """

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.basis = KernelBasis(pixels + 1, width)  # the last row is the bias of the band

    def embed(self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor) -> Tensor:
        """Tokens (B, N, D), the same for every order of the bands."""
        kernels_CPD, mixture_CR = self.basis(codes_CF)
        pixels_BNCP = patches_BNCP.where(valid_BNCP, 0)
        present_BNC = valid_BNCP.any(-1).to(pixels_BNCP.dtype)
        # One product over bands and pixels; the presence of a band multiplies its bias.
        tokens_BND = torch.cat([pixels_BNCP, present_BNC[..., None]], dim=-1).flatten(2) @ kernels_CPD.flatten(0, 1)
        with torch.autocast(codes_CF.device.type, enabled=False):
            size_BN = (present_BNC.float() @ mixture_CR).norm(dim=-1)
        scaled_BND: Tensor = tokens_BND / size_BN.clamp(min=SMALLEST_SUM)[..., None]
        return scaled_BND


class SpectralHead(nn.Module):
    """Predicts any band, also one that was never an input, through a generated kernel."""

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.basis = KernelBasis(width + 1, pixels, HEAD_GAIN)

    def predict(self, tokens_BND: Tensor, codes_CF: Tensor) -> Tensor:
        """Predictions (B, N, C, P) of the bands in `codes_CF`."""
        kernels_CDP, _ = self.basis(codes_CF)
        weight_DX = kernels_CDP[:, :-1].permute(1, 0, 2).flatten(1)
        flat = nn.functional.linear(tokens_BND, weight_DX.T, kernels_CDP[:, -1].flatten())
        return flat.reshape(*flat.shape[:2], len(codes_CF), -1)


class GroupedEmbedding(nn.Module):
    """A linear map of the bands of each group, as `StackedEmbedding` has one of all."""

    stored_C: Tensor

    def __init__(self, groups: Groups, pixels: int, width: int) -> None:
        super().__init__()
        self.sizes = [len(group) for group in groups]
        stored = [band for group in groups for band in group]
        # On the device: a list of Python's would be copied there in every step, and waited for.
        self.register_buffer("stored_C", torch.tensor(stored), persistent=False)
        self.proj = _maps([(len(group) * pixels, width) for group in groups], 1.0)

    def embed(self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor) -> Tensor:
        """Tokens (B, X, D). Invalid pixels count as the mean of their band, which is zero here."""
        clean_BNCP = patches_BNCP.where(valid_BNCP, 0).index_select(2, self.stored_C)
        parts = zip(self.proj, torch.split(clean_BNCP, self.sizes, dim=2), strict=True)
        return torch.cat([proj(bands.flatten(2)) for proj, bands in parts], dim=1)


class GroupedHead(nn.Module):
    """A linear map from the token of each group to the bands of that group."""

    natural_C: Tensor

    def __init__(self, groups: Groups, pixels: int, width: int) -> None:
        super().__init__()
        self.groups = groups
        self.proj = _maps([(width, len(group) * pixels) for group in groups], HEAD_GAIN)
        stored = [band for group in groups for band in group]
        natural = sorted(range(len(stored)), key=stored.__getitem__)  # place of each band among the groups' bands
        self.register_buffer("natural_C", torch.tensor(natural), persistent=False)

    def predict(self, tokens_BXD: Tensor, codes_CF: Tensor) -> Tensor:
        """Predictions (B, N, C, P), bands in the model's own order: a group's head is scored against its bands only."""
        parts = tokens_BXD.chunk(len(self.groups), dim=1)
        predicted = [
            proj(part).unflatten(-1, (len(group), -1))
            for proj, part, group in zip(self.proj, parts, self.groups, strict=True)
        ]
        return torch.cat(predicted, dim=2).index_select(2, self.natural_C)


def _maps(shapes: list[tuple[int, int]], gain: float) -> nn.ModuleList:
    maps = nn.ModuleList()
    for inputs, outputs in shapes:
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight, gain=gain)
        nn.init.zeros_(linear.bias)
        maps.append(linear)
    return maps
