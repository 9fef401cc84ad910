"""Patch embeddings of whole scenes, without seams: windows overlap by half and are blended with tapering weights.

B windows, C bands, H W pixels, N = R x R patches of a window, Y X patches of a scene, D width, K components
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_max_pool2d

from geomae.catalog import Scene, Source
from geomae.encoders.interface import Encoder
from geomae.rasters import Grid, Window, read

BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**22, "mps": 2**20}
EXACT = 1e-9  # patches; larger than any rounding error

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Lattice:
    """The patch grid of a scene, and the windows on it, of `size` pixels and `patches` patches a side."""

    size: int
    patches: int

    @property
    def patch_px(self) -> float:
        """Side of a patch in pixels; an integer unless the encoder resamples its tiles."""
        return self.size / self.patches

    @property
    def unit(self) -> int:
        """The smallest number of patches that spans whole pixels: windows start at multiples of it."""
        return self.patches // math.gcd(self.patches, self.size)

    @property
    def step(self) -> int:
        """Stride of the windows in patches: half a window, rounded down to a multiple of `unit`; at least `unit`."""
        return max(self.patches // self.unit // 2, 1) * self.unit

    def count(self, length: int) -> int:
        """Return the number of patches that cover `length` pixels; the last may extend beyond."""
        return math.ceil(length / self.patch_px - EXACT)

    def starts(self, length: int) -> list[int]:
        """Return the first patch of each window along a side of `length` pixels; together the windows cover it."""
        last = math.ceil(max(self.count(length) - self.patches, 0) / self.unit) * self.unit
        return [*range(0, last, self.step), last]

    def weights(self) -> Floats:
        """Return the blending weights (R, R) of a window's patches: a triangular window in each direction.

        Where windows overlap by half, the weights along a side sum to one. They decrease linearly towards the border,
        so that no seam is visible.
        """
        across = 1 - np.abs(2 * np.arange(self.patches) + 1 - self.patches) / self.patches
        return np.outer(across, across).astype(np.float32)


def dense_scores(
    encoder: Encoder,
    source: Source,
    scene: Scene,
    grid: Grid,
    lattice: Lattice,
    project: Callable[[Floats], Floats],
    *,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the projected patch embeddings of a scene (Y, X, K), and which patches are valid (Y, X).

    `project` maps embeddings (n, D) to a few components (n, K). It must be affine, because its results, and not the
    much wider embeddings, are averaged where windows overlap. A patch without a valid pixel is 0 and invalid. Pixels
    of a window beyond the border of the scene are invalid.
    """
    rows, cols = lattice.count(grid.height), lattice.count(grid.width)
    places = [(row, col) for row in lattice.starts(grid.height) for col in lattice.starts(grid.width)]
    reach = max(row for row, _ in places) + lattice.patches, max(col for _, col in places) + lattice.patches
    weight_YX = np.zeros(reach, dtype=np.float32)
    sums_YXK: Floats | None = None
    weights_RR, side = lattice.weights(), lattice.patches
    for done, batch, pixels_BCHW, valid_BCHW in _batches(encoder, source, scene, grid, lattice, places, device.type):
        embedded_BND = encoder.embed(pixels_BCHW.to(device), valid_BCHW.to(device))[1]
        scores = project(embedded_BND.float().cpu().numpy().reshape(-1, embedded_BND.shape[-1]))
        usable_BRR = adaptive_max_pool2d(valid_BCHW.any(dim=1).float(), side).numpy() > 0
        if sums_YXK is None:
            sums_YXK = np.zeros((*reach, scores.shape[1]), dtype=np.float32)
        for (row, col), scores_RRK, usable_RR in zip(
            batch, scores.reshape(len(batch), side, side, -1), usable_BRR, strict=True
        ):
            here = np.s_[row : row + side, col : col + side]
            counted_RR = np.where(usable_RR, weights_RR, 0)
            weight_YX[here] += counted_RR
            sums_YXK[here] += counted_RR[..., None] * np.where(usable_RR[..., None], scores_RRK, 0)
        progress(done, len(places))
    assert sums_YXK is not None, "a scene whose tiles are embedded has a valid pixel"
    valid_YX = weight_YX > 0
    sums_YXK /= np.where(valid_YX, weight_YX, 1)[..., None]
    return sums_YXK[:rows, :cols], valid_YX[:rows, :cols]


def _batches(
    encoder: Encoder,
    source: Source,
    scene: Scene,
    grid: Grid,
    lattice: Lattice,
    places: list[tuple[int, int]],
    device: str,
) -> Iterator[tuple[int, list[tuple[int, int]], torch.Tensor, torch.Tensor]]:
    """Yield batches of windows that have a valid pixel: the count done so far, positions, pixels and validity."""
    stored = [band.name for band in source.bands]
    order = [stored.index(band.name) for band in encoder.bands]
    most = max(BATCH_PIXELS[device] // lattice.size**2, 1)
    batch: list[tuple[tuple[int, int], Any, Any]] = []
    for number, (row, col) in enumerate(places):
        top, left = (round(place * lattice.patch_px) for place in (row, col))
        height, width = min(lattice.size, grid.height - top), min(lattice.size, grid.width - left)
        pixels_CHW, valid_CHW = read(source, scene, Window(top, left, height, width))
        if valid_CHW[order].any():
            lacking = ((0, 0), (0, lattice.size - height), (0, lattice.size - width))
            batch.append(((row, col), np.pad(pixels_CHW[order], lacking), np.pad(valid_CHW[order], lacking)))
        if batch and (len(batch) == most or number == len(places) - 1):
            windows, pixels, valid = zip(*batch, strict=True)
            yield number + 1, list(windows), torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(valid))
            batch = []
