"""Dealing tiles to splits: by spatial block, by group, or one by one, and holding tiles out for validation.

Units (blocks, groups, tiles) are ordered by a hash of (seed, purpose, unit): a permutation that depends neither on the
order of rows nor on the version of a library. N is the number of tiles.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomae.errors import CatalogError
from geomae.randomness import key

TOUCHING = 1e-3  # share of a tile's side: an overlap below it is rounding of the reprojected corners
Metres = NDArray[np.float64]
TRAIN = "train"
LEFT_OUT = ""  # label of a train tile that overlaps a tile of another split
LabelsN = NDArray[np.object_]  # name of the split per tile


def overlapping(bounds_m: Metres, chosen_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each chosen tile, in turn, whether its inside meets the inside of a tile that is not chosen.

    `bounds_m` are boxes (N, 4) as left, bottom, right, top, or convex corners (N, 4, 2) in turn.
    """
    corners_N42 = bounds_m if bounds_m.ndim == 3 else bounds_m[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    hit_N = np.zeros(len(corners_N42), dtype=bool)
    for index, candidates in _near(corners_N42, chosen_N):
        hit_N[index] = _meets(corners_N42[index], corners_N42[candidates])
    return hit_N[chosen_N]


def block_splits(
    x_m_N: ArrayLike,
    y_m_N: ArrayLike,
    bounds_m: ArrayLike,
    block_km: float,
    fractions: Mapping[str, float],
    seed: int,
) -> tuple[LabelsN, dict[str, int]]:
    """Deal square blocks of `block_km`, each with the tiles whose centre lies in it.

    `x_m_N`, `y_m_N` are the centres and `bounds_m` the footprints, in metres of an equal-area grid (EPSG:6933): boxes
    (N, 4) as left, bottom, right, top, or corners (N, 4, 2) in turn, which are exact where a tile's own grid is rotated
    against the equal-area one. Tiles of `train` that overlap another split's are left out, with the label `''`.

    Gives the labels and the number of tiles per label. Raises CatalogError when there are fewer blocks than splits.
    """
    centres_m = np.stack([np.asarray(x_m_N, np.float64), np.asarray(y_m_N, np.float64)], axis=-1)
    if not np.isfinite(centres_m).all():
        raise CatalogError("a split by `block_km` needs a CRS in every file; split by `group` instead")
    blocks = np.floor(centres_m / (block_km * 1000)).astype(np.int64)
    units = [f"{column},{row}" for column, row in blocks.tolist()]
    remedy = f"make `block_km` smaller than {block_km:g}, or split by `group` or `random`"
    labels = _assign(units, fractions, seed, "block", remedy)
    train = labels == TRAIN
    labels[np.flatnonzero(train)[overlapping(np.asarray(bounds_m, np.float64), train)]] = LEFT_OUT
    return labels, {name: int((labels == name).sum()) for name in (*fractions, LEFT_OUT)}


def group_splits(groups_N: ArrayLike, fractions: Mapping[str, float], seed: int) -> LabelsN:
    """Deal whole groups; `fractions` are shares of the groups, so that tiles per split follow the groups' sizes.

    Raises CatalogError when there are fewer groups than splits.
    """
    return _assign(_texts(groups_N), fractions, seed, "group", "use a finer group, or split by `random`")


def random_splits(ids_N: ArrayLike, fractions: Mapping[str, float], seed: int) -> LabelsN:
    """Deal single tiles by their ids. Raises CatalogError when there are fewer tiles than splits."""
    return _assign(_texts(ids_N), fractions, seed, "tile", "name fewer splits, or add files")


def hold_out(units_N: ArrayLike, share: float, seed: int) -> NDArray[np.bool_]:
    """Mask of the tiles to hold out of training: whole units, in all at most `share` of them (at least one).

    A unit that is larger than what is still wanted is passed over. All False when every unit is larger than the share,
    or when there is only one tile: hold out by a smaller unit then.
    """
    names, unit_N, sizes = np.unique(np.asarray(_texts(units_N), dtype=object), return_inverse=True, return_counts=True)
    left = max(1, round(share * unit_N.size)) if unit_N.size > 1 else 0
    drawn = np.zeros(names.size, dtype=bool)
    for index in sorted(range(names.size), key=lambda unit: key(seed, "hold-out", str(names[unit]))):
        if sizes[index] <= left:
            drawn[index] = True
            left -= int(sizes[index])
    return np.asarray(drawn[unit_N], dtype=bool)


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
        near = [other for right, up in neighbours for other in others.get((column + right, row + up), ())]
        if near:
            yield index, np.array(near, dtype=np.int64)


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


def _assign(units: list[str], fractions: Mapping[str, float], seed: int, what: str, remedy: str) -> LabelsN:
    """The label of each row's unit: each split gets its share of the permuted units, and at least one."""
    distinct = sorted(set(units), key=lambda unit: (key(seed, f"split by {what}", unit), unit))
    if len(distinct) < len(fractions):
        count = f"there {'is' if len(distinct) == 1 else 'are'} {len(distinct)} {what}{'s' * (len(distinct) != 1)}"
        raise CatalogError(
            f"{count} for {len(fractions)} splits ({', '.join(fractions)}), which need one each; {remedy}"
        )
    names = np.repeat(np.array(list(fractions), dtype=object), _counts(len(distinct), list(fractions.values())))
    label_of = dict(zip(distinct, names.tolist(), strict=True))
    labels = np.empty(len(units), dtype=object)
    labels[:] = [label_of[unit] for unit in units]
    return labels


def _counts(total: int, fractions: list[float]) -> list[int]:
    """Whole numbers near `fractions` of `total`, each at least 1, that sum to `total` (largest remainders)."""
    shares = [fraction / sum(fractions) * total for fraction in fractions]
    counts = [max(1, int(share + 1e-9)) for share in shares]  # 0.7 + 0.2 + 0.1 is not quite 1 in floating point
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        movable = [index for index, count in enumerate(counts) if count + step >= 1]
        counts[max(movable, key=lambda index: step * (shares[index] - counts[index]))] += step
    return counts


def _texts(values: ArrayLike) -> list[str]:
    return [str(value) for value in np.asarray(values).tolist()]
