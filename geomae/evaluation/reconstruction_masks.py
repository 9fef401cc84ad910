"""Masks for comparisons of reconstructions: common to models of different patch sizes, and windows that cover a scene.

C bands, H W pixels of a tile or of a strip, which is as high as a window and as wide as its scene; N cells of the
common grid of a tile or window
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomae.errors import ModelError
from geomae.models.masking import MaskRules, draw_mask, usable_patches, visible_count
from geomae.randomness import generator

LEAST_VALID = 0.5  # share of valid pixels that a visible cell needs, the default of training
KINDS = ("random", "block", "grid")


@dataclass(frozen=True)
class MaskKind:
    """The kind of a mask and the share of cells that it hides."""

    kind: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.kind} {self.ratio:g}"


@dataclass(frozen=True)
class MaskedWindow:
    """A window of a strip under one mask: its first column, what is visible, and which pixels are predicted by it."""

    col: int
    visible_N: NDArray[np.bool_]
    taken_HW: NDArray[np.bool_]


def common_cell(patch_sizes: Mapping[str, int], tile: int) -> int:
    """The side in pixels of cells of whole patches of every model: the least common multiple of the patch sizes.

    Raises ModelError where it does not divide the tile, or where the tile would be a single cell.
    """
    cell = math.lcm(*patch_sizes.values())
    if tile % cell == 0 and tile > cell:
        return cell
    sizes = ", ".join(f"{size} ({label})" for label, size in patch_sizes.items())
    raise ModelError(
        f"patches of {sizes} pixels have no common grid in a tile of {tile} pixels, so that no pixel can be hidden "
        f"from all: cells of {cell} do not divide it into several; compare models whose patches fit, or cut other tiles"
    )


def visible_cells(
    valid_CHW: NDArray[np.bool_], cell: int, mask: MaskKind, seed: int, tile_id: str
) -> NDArray[np.bool_] | None:
    """The visible cells (N,) of a tile, a function of only the seed, the tile and the mask's kind and ratio.

    None where too few cells have enough valid pixels. Tiles of one size have equally many visible cells.
    """
    usable_N = usable_patches(valid_CHW, cell, LEAST_VALID)
    shape = (valid_CHW.shape[1] // cell, valid_CHW.shape[2] // cell)
    count = visible_count(len(usable_N), mask.ratio)
    if usable_N.sum() < count:
        return None
    rng = generator(seed, "comparison mask", tile_id, repr(float(mask.ratio)), mask.kind)
    order_N, _ = draw_mask(usable_N, shape, len(valid_CHW), MaskRules(mask.ratio, mask.kind), rng)
    visible_N = np.zeros(len(usable_N), dtype=bool)
    visible_N[order_N[:count]] = True
    return visible_N


def complementary_cells(
    usable_N: NDArray[np.bool_], ratio: float, rng: np.random.Generator
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks (visible_N, predicted_N) such that every cell is hidden and predicted in exactly one of them.

    Each hides the share `ratio`, up to rounding. Cells that are not usable are hidden if possible. The predicted cells
    of a mask are drawn at random, so that each has visible cells around it.
    """
    count = len(usable_N)
    visible = visible_count(count, ratio)
    parts = math.ceil(count / (count - visible))
    shuffled = rng.permutation(count)
    masks = []
    for part in range(parts):
        predicted_N = np.zeros(count, dtype=bool)
        predicted_N[shuffled[part::parts]] = True
        others = rng.permutation(np.flatnonzero(~predicted_N))
        others = others[np.argsort(~usable_N[others], kind="stable")]
        visible_N = np.zeros(count, dtype=bool)
        visible_N[others[:visible]] = True
        masks.append((visible_N, predicted_N))
    return masks


def to_pixels(cells_N: NDArray[np.bool_], height: int, width: int, cell: int) -> NDArray[np.bool_]:
    """Flags of cells (..., N), row by row, as flags of pixels (..., H, W)."""
    grid = cells_N.reshape(*cells_N.shape[:-1], height // cell, width // cell)
    pixels: NDArray[np.bool_] = grid.repeat(cell, axis=-2).repeat(cell, axis=-1)
    return pixels


def for_patches(cells_BN: NDArray[np.bool_], shape: tuple[int, int], cell: int, patch: int) -> NDArray[np.bool_]:
    """Flags of cells (B, N) as flags of the smaller patches of a model; `shape` is rows and columns of cells."""
    grid = cells_BN.reshape(len(cells_BN), *shape)
    times = cell // patch
    patches: NDArray[np.bool_] = grid.repeat(times, axis=1).repeat(times, axis=2).reshape(len(cells_BN), -1)
    return patches


def starts(length: int, tile: int) -> list[int]:
    """Starts of windows that cover `length` pixels; the last one is moved back to end with the scene."""
    return list(dict.fromkeys([*range(0, length - tile + 1, tile), length - tile]))


def masked_windows(
    valid_CHW: NDArray[np.bool_], cell: int, ratio: float, seed: int, scene: str, row: int, done: int
) -> Iterator[MaskedWindow]:
    """All masked windows of the strip from `row` of a scene on, whose first `done` rows are in the previous strip.

    The masks are a function of seed, scene and position. A pixel is predicted by at most one masked window, in which it
    is hidden; where windows overlap, by the first. Windows with less than half of the visible cells usable are skipped.
    """
    _, tile, W = valid_CHW.shape
    free_HW = np.ones((tile, W), dtype=bool)
    free_HW[:done] = False
    for col in starts(W, tile):
        window = np.s_[:, col : col + tile]
        usable_N = usable_patches(valid_CHW[:, :, col : col + tile], cell, LEAST_VALID)
        rng = generator(seed, "map mask", scene, row, col)
        for visible_N, predicted_N in complementary_cells(usable_N, ratio, rng):
            taken_HW = to_pixels(predicted_N, tile, tile, cell) & free_HW[window]
            if taken_HW.any() and usable_N[visible_N].mean() >= LEAST_VALID:
                yield MaskedWindow(col, visible_N, taken_HW)
        free_HW[window] = False
