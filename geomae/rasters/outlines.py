"""From pixels to shapes: the outlines of the areas of one code."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import Affine

Ring = list[tuple[float, float]]


def outlines(
    codes_HW: NDArray[np.uint8], where_HW: NDArray[np.bool_], transform: Sequence[float]
) -> Iterator[tuple[int, list[Ring]]]:
    """Code and rings of each area whose pixels have one code and touch along their sides; the outer ring is the first.

    They run along the sides of the pixels, in the CRS of `transform` (a, b, c, d, e, f: x = a col + b row + c).
    """
    found: Iterator[tuple[dict[str, Any], float]] = shapes(codes_HW, where_HW, 4, Affine(*transform))
    for shape, code in found:
        yield int(code), shape["coordinates"]
