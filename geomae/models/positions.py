"""Fixed two-dimensional sine and cosine positions.

Source: the fixed 2-D positions of He et al. 2022; each half of the width encodes one axis as in Vaswani et al. 2017.
"""

from functools import lru_cache

import torch
from torch import Tensor


def sincos_positions(
    rows: int, cols: int, width: int, device: torch.device | str = "cpu", scale: float = 1.0
) -> Tensor:
    """Positions (N, D) in float32 of a grid of rows x cols patches, N = rows * cols in row-major order.

    The first half of the D features encodes the column, the second the row: the order of the published weights.
    Row and column are multiplied by `scale`: gsd_m / reference_gsd_m, so that a distance on the ground looks the same
    to a model at every resolution (Reed et al. 2023, Scale-MAE, section 3).
    """
    return _sincos(rows, cols, width, torch.device(device), scale)


@lru_cache(maxsize=32)
def _sincos(rows: int, cols: int, width: int, device: torch.device, scale: float) -> Tensor:
    if width % 4:
        raise ValueError(f"positions need a width that is a multiple of 4, not {width}")
    # In float64: frequencies over a wide grid lose digits in float32.
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    halves = []
    for axis in (col, row):
        angle = axis.reshape(-1, 1).double() * (scale * frequency)
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=1).float().to(device)
