"""Which tiles overlap a tile of another set; N tiles with four corners each, in metres."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TOUCHING = 1e-3  # share of a tile's side: an overlap below it is rounding of the reprojected corners

Metres = NDArray[np.float64]


def overlapping(bounds_m: Metres, chosen_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each chosen tile, in turn, whether its inside meets the inside of a tile that is not chosen.

    `bounds_m` are boxes (N, 4) as left, bottom, right, top, or convex corners (N, 4, 2) in turn.
    """
    corners_N42 = bounds_m if bounds_m.ndim == 3 else bounds_m[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    hit_N = np.zeros(len(corners_N42), dtype=bool)
    for index, candidates in _near(corners_N42, chosen_N):
        hit_N[index] = _meets(corners_N42[index], corners_N42[candidates])
    return hit_N[chosen_N]


def _near(corners_N42: Metres, chosen_N: NDArray[np.bool_]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each chosen tile that may overlap others, with these others: tiles whose cell is the same or a neighbour.

    Cells are as large as the largest tile, so that overlapping tiles have centres at most one cell apart.
    """
    if not chosen_N.any() or chosen_N.all():
        return
    low_N2, high_N2 = corners_N42.min(axis=1), corners_N42.max(axis=1)
    side_m = max(float((high_N2 - low_N2).max()), 1e-9)
    cells_N2 = np.floor((low_N2 + high_N2) / 2 / side_m).astype(np.int64).tolist()
    others: dict[tuple[int, int], list[int]] = {}
    for index in np.flatnonzero(~chosen_N).tolist():
        others.setdefault(tuple(cells_N2[index]), []).append(index)
    neighbours = [(right, up) for right in (-1, 0, 1) for up in (-1, 0, 1)]
    for index in np.flatnonzero(chosen_N).tolist():
        column, row = cells_N2[index]
        found = [other for right, up in neighbours for other in others.get((column + right, row + up), ())]
        if found:
            yield index, np.array(found, dtype=np.int64)


def _meets(tile_42: Metres, others_M42: Metres) -> bool:
    """Whether a convex quadrilateral overlaps any of M others: no edge of either separates them (separating axes)."""
    edges_42 = np.roll(tile_42, -1, axis=0) - tile_42
    own_M42 = np.broadcast_to(edges_42, others_M42.shape)
    edges_M82 = np.concatenate([own_M42, np.roll(others_M42, -1, axis=1) - others_M42], axis=1)
    lengths_M8 = np.maximum(np.linalg.norm(edges_M82, axis=-1), 1e-12)
    axes_M82 = np.stack([-edges_M82[..., 1], edges_M82[..., 0]], axis=-1) / lengths_M8[..., None]
    origin_2 = tile_42[0]  # coordinates of millions of metres would cost digits
    mine_M84 = np.einsum("mak,ck->mac", axes_M82, tile_42 - origin_2)
    theirs_M84 = np.einsum("mak,mck->mac", axes_M82, others_M42 - origin_2)
    overlap_M8 = np.minimum(mine_M84.max(-1), theirs_M84.max(-1)) - np.maximum(mine_M84.min(-1), theirs_M84.min(-1))
    return bool((overlap_M8 > TOUCHING * lengths_M8.max(axis=1, keepdims=True)).all(axis=1).any())
