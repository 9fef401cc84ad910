"""One mask for models of different patch sizes: what is visible is visible to all, what is hidden is hidden from all.

N cells of the common grid of a tile, C bands, H W pixels
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from geomae.errors import ModelError
from geomae.models.masking import MaskRules, draw_mask, usable_patches, visible_count
from geomae.randomness import generator

LEAST_VALID = 0.5  # share of valid pixels that a visible cell needs, as in training unless told otherwise
KINDS = ("random", "block", "grid")


def common_cell(patch_sizes: Mapping[str, int], tile: int) -> int:
    """The side in pixels of the cells that every model, by its label, can hide whole: the least common multiple.

    Raises ModelError where it does not divide the tile, or leaves a single cell, which cannot be visible and hidden.
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
    valid_CHW: NDArray[np.bool_], cell: int, ratio: float, kind: str, seed: int, tile_id: str
) -> NDArray[np.bool_] | None:
    """Which cells (N,) of a tile are visible: a function of the seed, the tile, the ratio and the kind alone.

    None where too few cells have enough valid pixels. All tiles of a size show the same number.
    """
    usable_N = usable_patches(valid_CHW, cell, LEAST_VALID)
    shape = (valid_CHW.shape[1] // cell, valid_CHW.shape[2] // cell)
    count = visible_count(len(usable_N), ratio)
    if usable_N.sum() < count:
        return None
    rng = generator(seed, "comparison mask", tile_id, repr(float(ratio)), kind)
    order_N, _ = draw_mask(usable_N, shape, len(valid_CHW), MaskRules(ratio, kind), rng)
    visible_N = np.zeros(len(usable_N), dtype=bool)
    visible_N[order_N[:count]] = True
    return visible_N


def complementary_cells(
    usable_N: NDArray[np.bool_], ratio: float, rng: np.random.Generator
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks (visible_N, predicted_N) such that every cell is predicted by one of them, while it is hidden.

    Each hides the share `ratio`, as far as counts allow. Cells that are not usable are hidden where the counts let them
    be. The parts that are predicted are dealt at random, so that each prediction sees a fair share of its surroundings.
    """
    count = len(usable_N)
    visible = visible_count(count, ratio)
    parts = math.ceil(count / (count - visible))
    dealt = rng.permutation(count)
    masks = []
    for part in range(parts):
        predicted_N = np.zeros(count, dtype=bool)
        predicted_N[dealt[part::parts]] = True
        others = rng.permutation(np.flatnonzero(~predicted_N))
        others = others[np.argsort(~usable_N[others], kind="stable")]
        visible_N = np.zeros(count, dtype=bool)
        visible_N[others[:visible]] = True
        masks.append((visible_N, predicted_N))
    return masks


def to_pixels(cells_N: NDArray[np.bool_], height: int, width: int, cell: int) -> NDArray[np.bool_]:
    """Flags of cells (..., N), row by row, as flags of pixels (..., H, W)."""
    laid = cells_N.reshape(*cells_N.shape[:-1], height // cell, width // cell)
    pixels: NDArray[np.bool_] = laid.repeat(cell, axis=-2).repeat(cell, axis=-1)
    return pixels


def for_patches(cells_BN: NDArray[np.bool_], shape: tuple[int, int], cell: int, patch: int) -> NDArray[np.bool_]:
    """Flags of cells (B, N) as flags of the smaller patches of a model; `shape` is rows and columns of cells."""
    laid = cells_BN.reshape(len(cells_BN), *shape)
    times = cell // patch
    patches: NDArray[np.bool_] = laid.repeat(times, axis=1).repeat(times, axis=2).reshape(len(cells_BN), -1)
    return patches
