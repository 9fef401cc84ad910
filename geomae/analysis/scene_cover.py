"""Covering a scene with windows and complementary masks, so that every pixel is predicted once while it is hidden.

C bands, H W pixels of a strip of the scene, as high as a window and as wide as the scene; N cells of a window
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.shared_masks import LEAST_VALID, complementary_cells, to_pixels
from geomae.models.masking import usable_patches
from geomae.randomness import generator


@dataclass(frozen=True)
class Look:
    """A window of a strip under one mask: where it lies, what is visible, and which of its pixels are taken from it."""

    col: int
    visible_N: NDArray[np.bool_]
    taken_HW: NDArray[np.bool_]


def starts(length: int, tile: int) -> list[int]:
    """First pixels of windows that cover `length` pixels; the last reaches back so that it ends with the scene."""
    return list(dict.fromkeys([*range(0, length - tile + 1, tile), length - tile]))


def looks(
    valid_CHW: NDArray[np.bool_], cell: int, ratio: float, seed: int, scene: str, row: int, done: int
) -> Iterator[Look]:
    """All looks at the strip that begins in `row` of a scene, whose first `done` rows an earlier strip has.

    The masks are a function of seed, scene and place. A pixel is taken from at most one look, in which it is hidden;
    where windows overlap, from the first. Where less than half of what would be visible is valid, none is taken.
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
                yield Look(col, visible_N, taken_HW)
        free_HW[window] = False
