"""Outlines of areas with one code, and the reverse: shapes burnt into pixels."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes
from rasterio.transform import Affine

from geomae.rasters.grids import Window

Ring = list[tuple[float, float]]


def outlines(
    codes_HW: NDArray[np.uint8], where_HW: NDArray[np.bool_], transform: Sequence[float]
) -> Iterator[tuple[int, list[Ring]]]:
    """Code and rings of each area of 4-connected pixels with one code; the outer ring is the first.

    Rings follow the edges of the pixels, in the CRS of `transform` (a, b, c, d, e, f: x = a col + b row + c).
    """
    found: Iterator[tuple[dict[str, Any], float]] = shapes(codes_HW, where_HW, 4, Affine(*transform))
    for shape, code in found:
        yield int(code), shape["coordinates"]


def burn(
    shapes_M: Sequence[Any], value_M: Sequence[int], window: Window, *, fill: int, all_touched: bool
) -> NDArray[np.int32]:
    """The value (H, W) of the last shape that contains the centre of each pixel; `fill` where none does.

    With `all_touched`, shapes that touch the pixel count. Shapes are in pixels (column, row) of the window's grid, and
    none is empty.
    """
    if not len(shapes_M):
        return np.full((window.height, window.width), fill, dtype=np.int32)
    return np.asarray(
        rasterize(
            zip(shapes_M, value_M, strict=True),
            out_shape=(window.height, window.width),
            transform=Affine.translation(window.col, window.row),
            fill=fill,
            all_touched=all_touched,
            dtype="int32",
        )
    )
