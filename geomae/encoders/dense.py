"""Patch embeddings of whole scenes, without seams: from windows that overlap by half and fade towards their borders.

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
EXACT = 1e-9  # patches; more than rounding adds

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Lattice:
    """The patches of a scene, and how windows of `size` pixels with `patches` patches a side lie on them."""

    size: int
    patches: int

    @property
    def patch_px(self) -> float:
        """Side of a patch in pixels; whole unless the encoder resamples its tiles."""
        return self.size / self.patches

    @property
    def unit(self) -> int:
        """The fewest patches that are whole pixels: windows begin at multiples of them."""
        return self.patches // math.gcd(self.patches, self.size)

    @property
    def step(self) -> int:
        """Patches from one window to the next: half a window, or as near below as whole pixels allow."""
        return max(self.patches // self.unit // 2, 1) * self.unit

    def count(self, length: int) -> int:
        """Patches that cover `length` pixels; the last may reach beyond."""
        return math.ceil(length / self.patch_px - EXACT)

    def starts(self, length: int) -> list[int]:
        """First patch of each window along a side of `length` pixels; together they cover it."""
        last = math.ceil(max(self.count(length) - self.patches, 0) / self.unit) * self.unit
        return [*range(0, last, self.step), last]

    def weights(self) -> Floats:
        """What the patches (R, R) of a window count for: most in the middle, evenly less towards its border.

        Along a side, those of windows that follow each other by half add up to one, and what each counts for changes by
        the same amount from patch to patch, so that no border stands out.
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
    """Give the patch embeddings of a scene as `project` maps them, (Y, X, K), and which of them are valid, (Y, X).

    `project` takes embeddings (n, D) to a few components (n, K) and must be linear, up to a constant: it is its results
    that are averaged where windows overlap, so that no more than they are kept. A patch without a valid pixel is 0 and
    invalid. What a window lacks beyond the scene's border is invalid in it.
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
    """Windows with a valid pixel, some at a time: how many are done then, their places, pixels and validity."""
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
