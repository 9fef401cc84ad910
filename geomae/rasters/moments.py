"""Moments of windows over their valid pixels, from which every statistic is merged.

C bands, T windows of one size, H W pixels, P = H x W
"""

import numpy as np
from numpy.typing import NDArray


def moments(pixels_CTHW: NDArray[np.float32], valid_CTHW: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Of each window the valid share (T), and per band (T, C) count, mean, sum of squares about it, minimum and maximum
    (infinite where empty).
    """
    shape_CTP = (*pixels_CTHW.shape[:2], -1)
    flat = pixels_CTHW.reshape(shape_CTP).astype(np.float64, order="C")  # so that each sum is in the order of pixels
    ok = np.ascontiguousarray(valid_CTHW.reshape(shape_CTP))
    count = ok.sum(2).astype(np.float64)
    if ok.all():  # the same figures, without a choice at each pixel
        mean = flat.sum(2) / np.maximum(count, 1)
        low, high = flat.min(2), flat.max(2)
        squares = np.square(np.subtract(flat, mean[:, :, None], out=flat), out=flat).sum(2)
    else:
        mean = np.where(ok, flat, 0).sum(2) / np.maximum(count, 1)
        squares = np.where(ok, (flat - mean[:, :, None]) ** 2, 0).sum(2)
        low, high = np.where(ok, flat, np.inf).min(2), np.where(ok, flat, -np.inf).max(2)
    return ok.mean(axis=(0, 2)), count.T, mean.T, squares.T, low.T, high.T
