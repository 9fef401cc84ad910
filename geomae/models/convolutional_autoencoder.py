"""A convolutional encoder and decoder in the form of a U-Net, in place of a masked autoencoder's transformers.

Hidden pixels are set to 0, the mean of their band; a second input channel per band marks the visible pixels. Context
encoders (Pathak et al. 2016) introduced filling hidden regions from their surroundings by convolutions. Stages that
each halve the resolution, with skip connections, are those of the U-Net (Ronneberger et al. 2015). About half of the
computation is in residual blocks (He et al. 2016) at the lowest resolution, where a layer of given width costs least.

B batch, C bands, H W pixels, N patches, P pixels of a patch in one band, V visible patches, M wanted patches, Y X cells
of a feature map, D width
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from geomae.models.architecture import Architecture
from geomae.models.band_embedding import HEAD_GAIN
from geomae.models.patches import patchify, take, unpatchify

STAGES = 4  # each halves the side
STRIDE = 2**STAGES  # side in pixels of a cell of the last map; tiles of other sizes are padded with hidden pixels


class ConvolutionalEncoder(nn.Module):
    """Four stages down to a sixteenth of the side, then `depth` residual blocks. Has the interface of `Encoder`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.patch = architecture.patch
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(before, after, stride=2), Residual(architecture, after))
            for before, after in pairwise((2 * architecture.bands, *_widths(architecture)))
        )
        self.blocks = nn.ModuleList(Residual(architecture, architecture.width) for _ in range(architecture.depth))
        self.norm = _norm(architecture, architecture.width)

    def forward(
        self,
        patches_BNCP: Tensor,
        valid_BNCP: Tensor,
        codes_CF: Tensor,
        seen_BV: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor = 1.0,
    ) -> list[Tensor]:
        """Encode the patches `seen_BV`: input channels and the map of each stage, the last after blocks and norm."""
        seen_BN = torch.zeros_like(valid_BNCP[:, :, 0, 0]).scatter(1, seen_BV, True)
        maps = self._down(patches_BNCP, valid_BNCP & seen_BN[:, :, None, None], shape)
        for block in self.blocks:
            maps[-1] = block(maps[-1])
        return [*maps[:-1], self.norm(maps[-1])]

    def whole(
        self,
        patches_BNCP: Tensor,
        valid_BNCP: Tensor,
        codes_CF: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor = 1.0,
        layer: int | None = None,
    ) -> Tensor:
        """Embeddings (B, 1 + N, D) of whole tiles after block `layer`, from 1; with None after the last and its norm.

        A patch is the mean of the cells that it overlaps, weighted by area. The first token, where a transformer has
        its class token, is the mean over the patches.
        """
        cells_BDYX = self._down(patches_BNCP, valid_BNCP, shape)[-1]
        count = len(self.blocks) if layer is None else layer
        for block in self.blocks[:count]:
            cells_BDYX = block(cells_BDYX)
        if count == len(self.blocks):
            cells_BDYX = self.norm(cells_BDYX)
        rows_RY, cols_LX = (
            _overlap(patches, self.patch, cells).to(cells_BDYX)
            for patches, cells in zip(shape, cells_BDYX.shape[2:], strict=True)
        )
        tokens_BND = torch.einsum("bdyx,ry,lx->brld", cells_BDYX, rows_RY, cols_LX).flatten(1, 2)
        return torch.cat([tokens_BND.mean(1, keepdim=True), tokens_BND], dim=1)

    def usable(self, valid_BNCP: Tensor) -> Tensor:
        """Select the patches (B, N) of whole tiles that have a valid pixel."""
        return valid_BNCP.flatten(2).any(-1)

    def _down(self, patches_BNCP: Tensor, seen_BNCP: Tensor, shape: tuple[int, int]) -> list[Tensor]:
        """The input channels (B, 2C, H, W), padded to whole cells, and the map of each stage."""
        # Replaced, not multiplied by zero, since hidden pixels may be NaN.
        planes_BNKP = torch.cat([patches_BNCP.where(seen_BNCP, 0), seen_BNCP.to(patches_BNCP.dtype)], dim=2)
        planes_BKHW = unpatchify(planes_BNKP, *shape)
        height, width = planes_BKHW.shape[2:]
        padded = nn.functional.pad(planes_BKHW, (0, -width % STRIDE, 0, -height % STRIDE))
        maps = [padded.contiguous(memory_format=torch.channels_last)]  # the layout in which CPUs convolve fastest
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class ConvolutionalDecoder(nn.Module):
    """Upsample back to pixels; each stage joins the encoder's map of the same size (skip connection)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        widths = _widths(architecture)
        self.patch = architecture.patch
        self.blocks = nn.ModuleList(
            Joined(architecture, below, here) for here, below in reversed(list(pairwise(widths)))
        )
        self.grow = nn.ConvTranspose2d(widths[0], widths[0], 2, stride=2)
        self.head = _conv(widths[0] + 2 * architecture.bands, architecture.bands)
        nn.init.xavier_uniform_(self.head.weight, gain=HEAD_GAIN)

    def forward(
        self,
        maps: list[Tensor],
        codes_CF: Tensor,
        order_BX: Tensor,
        wanted_BM: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """Predict the wanted patches (B, M, C, P) from the maps of the encoder."""
        planes_BKHW, *sides, x = maps
        for block, side in zip(self.blocks, reversed(sides), strict=True):
            x = block(x, side)
        pixels_BCHW = self.head(torch.cat([self.grow(x), planes_BKHW], dim=1))
        rows, cols = shape
        pixels_BCHW = pixels_BCHW[:, :, : rows * self.patch, : cols * self.patch]  # without the padding
        return take(patchify(pixels_BCHW, self.patch), wanted_BM)


class Residual(nn.Module):
    """A pre-activation residual block: x + conv(gelu(norm(x))) (He et al. 2016, identity mappings)."""

    def __init__(self, architecture: Architecture, width: int) -> None:
        super().__init__()
        self.norm = _norm(architecture, width)
        self.conv = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, Y, X) to the same shape."""
        out: Tensor = x + self.conv(nn.functional.gelu(self.norm(x)))
        return out


class Joined(nn.Module):
    """Upsample a map by 2 and join it with the encoder's map of that size."""

    def __init__(self, architecture: Architecture, below: int, here: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(below, here, 2, stride=2)
        self.conv = _conv(2 * here, here)
        self.norm = _norm(architecture, here)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        """Map (B, 2D, Y, X) and the encoder's map `side` (B, D, 2Y, 2X) to (B, D, 2Y, 2X)."""
        out: Tensor = nn.functional.gelu(self.norm(self.conv(torch.cat([self.grow(x), side], dim=1))))
        return out


def _widths(architecture: Architecture) -> tuple[int, ...]:
    """The width of each stage: twice that of the stage before; the last has the model's."""
    return tuple(architecture.width >> stage for stage in reversed(range(STAGES)))


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


def _norm(architecture: Architecture, width: int) -> nn.GroupNorm:
    """Group norm (Wu and He 2018): statistics of one tile, so that it does not depend on the rest of the batch."""
    return nn.GroupNorm(architecture.heads, width, eps=architecture.norm_eps)


def _overlap(patches: int, side: int, cells: int) -> Tensor:
    """Fraction of each patch that lies in each cell, along one axis: (patches, cells)."""
    start, cell = torch.arange(patches)[:, None] * side, torch.arange(cells) * STRIDE
    return (torch.minimum(start + side, cell + STRIDE) - torch.maximum(start, cell)).clamp(min=0) / side
