"""Embeddings of patches and heads back to pixels: stacked, grouped (Cong et al. 2022) and spectral (any bands).

EMBEDDINGS is the registry: a new embedding is a layer, a head and an entry there (CONTRIBUTING.md).

B batch, N patches, C bands, F features of a band's code, R kernels of a basis, G groups, X = G * N tokens in the order
of the groups, P pixels of a patch in one band, D width
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from geomae.sensors import Band
from geomae.sensors.band import Groups

POLARISATIONS = ("VV", "VH", "HH", "HV")
PERIOD_DECADES = 8.0  # of wavelength, after which codes repeat; 0.3 um to radar spans less than six decades
RESOLUTION_DECADES = 0.03  # 7 %: closer wavelengths get similar codes, as bands of the same colour should
FREQUENCIES = 128  # enough for that resolution
WIDTH_FREQUENCIES = 8
WIDTH_WEIGHT = 0.15  # small, so that bands of the same centre and different widths have similar codes
CODE_FEATURES = 2 * (FREQUENCIES + WIDTH_FREQUENCIES) + len(POLARISATIONS)
HEAD_GAIN = 0.1  # small, so that predictions begin near the mean and not as noise of unit variance
SMALLEST_SUM = 0.5  # smallest divisor of tokens, for kernels that cancel and patches without a band
KERNELS = 48  # number R of kernels in the basis from which the kernel of a band is mixed


def band_codes(bands: Sequence[Band]) -> Tensor:
    """Codes (C, F) in float32; the inner product of two codes is the similarity of the bands.

    A code holds sines and cosines of the logarithm of the wavelength, weighted so that their inner product is a
    Gaussian of width RESOLUTION_DECADES (Rahimi and Recht 2007, on a grid of frequencies). So blue and green differ
    from the first step on, and red bands of two sensors are similar. The logarithm puts light, thermal infrared and
    radar on one scale. Further features encode bandwidth and polarisation.
    """
    rows = []
    for band in bands:
        centre = _waves(math.log10(band.wavelength_um), FREQUENCIES, RESOLUTION_DECADES)
        width = _waves(math.log10(band.fwhm_um), WIDTH_FREQUENCIES, 0.5)
        kind = torch.tensor([float(band.polarisation == name) for name in POLARISATIONS], dtype=torch.float64)
        rows.append(torch.cat([centre, width * WIDTH_WEIGHT**0.5, kind]))
    return torch.stack(rows).float()


def _waves(decades: float, frequencies: int, resolution: float) -> Tensor:
    """Features (2 * frequencies,) of unit norm in float64; their inner product is a Gaussian of the distance."""
    frequency = 2 * math.pi / PERIOD_DECADES * torch.arange(1, frequencies + 1, dtype=torch.float64)
    weight = torch.exp(-((frequency * resolution) ** 2) / 2)
    angle = frequency * decades
    return torch.cat([angle.sin(), angle.cos()]) * (weight / weight.sum()).sqrt().repeat(2)


class BandLayer(nn.Module):
    """Base of embeddings, which have `embed`, and of heads, which have `predict`."""

    @property
    def of_bands(self) -> nn.Module:
        """The weights of single bands, which updates of the blocks cannot replace: LoRA trains them in full."""
        return self


class StackedEmbedding(BandLayer):
    """One linear layer of all bands of a patch; with three bands, the weights of He et al. 2022 can be loaded."""

    def __init__(self, bands: int, pixels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(bands * pixels, width)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def embed(self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor) -> Tensor:
        """Tokens (B, N, D). Invalid pixels are set to 0, the mean of their band."""
        tokens: Tensor = self.proj(patches_BNCP.where(valid_BNCP, 0).flatten(2))
        return tokens


class StackedHead(BandLayer):
    """One linear layer from a decoder token to all bands of a patch."""

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
    """Generates the kernel of each band as a mixture of R learned kernels, linear in the band's code.

    DOFA (Xiong et al. 2024) introduced generated patch kernels; a shared basis is the simplest form. Any band of any
    sensor uses the same weights.
    """

    def __init__(self, rows: int, cols: int, gain: float = 1.0) -> None:
        super().__init__()
        self.mixture = nn.Linear(
            CODE_FEATURES, KERNELS, bias=False
        )  # linear, so that different bands keep different mixtures, which a deep network would not ensure
        self.kernels = nn.Parameter(torch.empty(KERNELS, rows, cols))
        limit = gain * math.sqrt(6 / (rows + cols))  # Xavier initialisation of one kernel ...
        nn.init.uniform_(self.kernels, -limit, limit)

    def forward(self, codes_CF: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels (C, rows, cols) and their mixtures (C, R) of unit norm, in float32."""
        with torch.autocast(codes_CF.device.type, enabled=False):  # float32 costs nothing for so few rows
            mixture_CR = nn.functional.normalize(self.mixture(codes_CF.float()), dim=-1)
            # ... whose variance a mixture of unit norm keeps.
            return torch.einsum("cr,rij->cij", mixture_CR, self.kernels.float()), mixture_CR


class SpectralEmbedding(BandLayer):
    """Tokens from any set of bands: each band passes through its generated kernel, and the results are summed.

    Bands are correlated, so the sum of n bands is between sqrt(n) and n times as large as that of one, depending on the
    similarity of their kernels. It is divided by the norm of the summed mixtures, its size for equal bands, so that a
    subset of bands gives tokens of the same magnitude. A band without a valid pixel in a patch is left out there.
    """

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.basis = KernelBasis(pixels + 1, width)  # the last row is the bias of the band

    @property
    def of_bands(self) -> nn.Module:
        """The mixtures; the kernels themselves are shared by all bands."""
        return self.basis.mixture

    def embed(self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor) -> Tensor:
        """Tokens (B, N, D), independent of the order of the bands."""
        kernels_CPD, mixture_CR = self.basis(codes_CF)
        pixels_BNCP = patches_BNCP.where(valid_BNCP, 0)
        present_BNC = valid_BNCP.any(-1).to(pixels_BNCP.dtype)
        # One product over bands and pixels; the presence of a band is the input of its bias.
        tokens_BND = torch.cat([pixels_BNCP, present_BNC[..., None]], dim=-1).flatten(2) @ kernels_CPD.flatten(0, 1)
        with torch.autocast(codes_CF.device.type, enabled=False):
            size_BN = (present_BNC.float() @ mixture_CR).norm(dim=-1)
        scaled_BND: Tensor = tokens_BND / size_BN.clamp(min=SMALLEST_SUM)[..., None]
        return scaled_BND


class SpectralHead(BandLayer):
    """Predicts any band by its generated kernel, including bands that are not among the inputs."""

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.basis = KernelBasis(width + 1, pixels, HEAD_GAIN)

    @property
    def of_bands(self) -> nn.Module:
        """The mixtures; the kernels themselves are shared by all bands."""
        return self.basis.mixture

    def predict(self, tokens_BND: Tensor, codes_CF: Tensor) -> Tensor:
        """Predictions (B, N, C, P) of the bands in `codes_CF`."""
        kernels_CDP, _ = self.basis(codes_CF)
        weight_DX = kernels_CDP[:, :-1].permute(1, 0, 2).flatten(1)
        flat = nn.functional.linear(tokens_BND, weight_DX.T, kernels_CDP[:, -1].flatten())
        return flat.reshape(*flat.shape[:2], len(codes_CF), -1)


class GroupedEmbedding(BandLayer):
    """One linear layer per group of bands; a patch gets one token per group."""

    stored_C: Tensor

    def __init__(self, groups: Groups, pixels: int, width: int) -> None:
        super().__init__()
        self.sizes = [len(group) for group in groups]
        stored = [band for group in groups for band in group]
        # A buffer lies on the device; a Python list would be copied there, synchronously, in every step.
        self.register_buffer("stored_C", torch.tensor(stored), persistent=False)
        self.proj = _maps([(len(group) * pixels, width) for group in groups], 1.0)

    def embed(self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor) -> Tensor:
        """Tokens (B, X, D). Invalid pixels are set to 0, the mean of their band."""
        clean_BNCP = patches_BNCP.where(valid_BNCP, 0).index_select(2, self.stored_C)
        parts = zip(self.proj, torch.split(clean_BNCP, self.sizes, dim=2), strict=True)
        return torch.cat([proj(bands.flatten(2)) for proj, bands in parts], dim=1)


class GroupedHead(BandLayer):
    """One linear layer per group, from the group's token to its bands."""

    natural_C: Tensor

    def __init__(self, groups: Groups, pixels: int, width: int) -> None:
        super().__init__()
        self.groups = groups
        self.proj = _maps([(width, len(group) * pixels) for group in groups], HEAD_GAIN)
        stored = [band for group in groups for band in group]
        natural = sorted(range(len(stored)), key=stored.__getitem__)  # index of each band in group order
        self.register_buffer("natural_C", torch.tensor(natural), persistent=False)

    def predict(self, tokens_BXD: Tensor, codes_CF: Tensor) -> Tensor:
        """Predictions (B, N, C, P) with bands in the model's order, each from the token of its group."""
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


class Shape(Protocol):
    """What layers of bands need of an `Architecture`."""

    @property
    def bands(self) -> int:
        """Number of bands."""

    @property
    def groups(self) -> Groups | None:
        """Bands of each token of a grouped embedding."""

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""

    @property
    def width(self) -> int:
        """Width of the encoder's tokens."""


class BandEmbedding(NamedTuple):
    """How bands become tokens and tokens pixels again; `any_bands`: weights belong to no fixed set of bands.

    `layer` is called with the architecture, `head` with the architecture and the width of the decoder. What they return
    has `embed` of StackedEmbedding, or `predict` of StackedHead.
    """

    layer: Callable[[Shape], Any]
    head: Callable[[Shape, int], Any]
    any_bands: bool = False


EMBEDDINGS: Mapping[str, BandEmbedding] = {
    "stacked": BandEmbedding(
        lambda shape: StackedEmbedding(shape.bands, shape.patch**2, shape.width),
        lambda shape, width: StackedHead(shape.bands, shape.patch**2, width),
    ),
    "grouped": BandEmbedding(
        lambda shape: GroupedEmbedding(shape.groups or (), shape.patch**2, shape.width),
        lambda shape, width: GroupedHead(shape.groups or (), shape.patch**2, width),
    ),
    "spectral": BandEmbedding(
        lambda shape: SpectralEmbedding(shape.patch**2, shape.width),
        lambda shape, width: SpectralHead(shape.patch**2, width),
        any_bands=True,
    ),
}
