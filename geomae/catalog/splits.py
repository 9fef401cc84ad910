"""Assign tiles to splits by spatial block, by group or individually, and hold tiles out for validation.

Units (blocks, groups, tiles) are ordered by a hash of (seed, purpose, unit). This permutation depends neither on the
order of rows nor on the version of a library. N is the number of tiles.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomae.errors import CatalogError
from geomae.randomness import key

Metres = NDArray[np.float64]
TRAIN = "train"
NO_SPLIT = "none"  # split of tiles in no polygon, where polygons define the splits
LEFT_OUT = ""  # split of a train tile that overlaps a tile of another split
LabelsN = NDArray[np.object_]  # name of the split of each tile


def block_splits(
    centre_m_N2: Metres, block_km: float, fractions: Mapping[str, float], seed: int
) -> tuple[LabelsN, LabelsN]:
    """Assign square blocks of side `block_km` to splits; returns split and block (N) of each tile.

    A tile belongs to the block that contains its centre, in metres of an equal-area grid (EPSG:6933). `fractions` are
    fractions of the blocks. Raises CatalogError where there are fewer blocks than splits.
    """
    cells_N2 = np.floor(centre_m_N2 / (block_km * 1000)).astype(np.int64)
    known_B2, block_N = np.unique(cells_N2, axis=0, return_inverse=True)
    blocks = np.array([f"{column},{row}" for column, row in known_B2.tolist()], dtype=object)[block_N.ravel()]
    remedy = f"make `block_km` smaller than {block_km:g}, or split by `group` or `random`"
    return _assign(blocks.tolist(), fractions, seed, "block", remedy), blocks


def group_splits(groups_N: ArrayLike, fractions: Mapping[str, float], seed: int) -> LabelsN:
    """Assign whole groups to splits; `fractions` are fractions of the groups, which may differ in size.

    Raises CatalogError where there are fewer groups than splits.
    """
    return _assign(_texts(groups_N), fractions, seed, "group", "use a finer group, or split by `random`")


def random_splits(ids_N: ArrayLike, fractions: Mapping[str, float], seed: int) -> LabelsN:
    """Assign single tiles to splits by their ids. Raises CatalogError where there are fewer tiles than splits."""
    return _assign(_texts(ids_N), fractions, seed, "tile", "name fewer splits, or add files")


def hold_out(units_N: ArrayLike, share: float, seed: int) -> NDArray[np.bool_]:
    """Mask (N) of the tiles to hold out of training: whole units, together at most the fraction `share` of the tiles.

    Units that are larger than the remaining number of tiles are skipped; that number is at least one at first. All
    False where every unit is larger than the fraction, or where there is only one tile.
    """
    names, unit_N, sizes = np.unique(np.asarray(_texts(units_N), dtype=object), return_inverse=True, return_counts=True)
    left = max(1, round(share * unit_N.size)) if unit_N.size > 1 else 0
    drawn = np.zeros(names.size, dtype=bool)
    for index in sorted(range(names.size), key=lambda unit: key(seed, "hold-out", str(names[unit]))):
        if sizes[index] <= left:
            drawn[index] = True
            left -= int(sizes[index])
    return np.asarray(drawn[unit_N], dtype=bool)


def _assign(units: list[str], fractions: Mapping[str, float], seed: int, what: str, remedy: str) -> LabelsN:
    """The split of each row's unit: each split gets its fraction of the permuted units, at least one."""
    distinct = sorted(set(units), key=lambda unit: (key(seed, f"split by {what}", unit), unit))
    if len(distinct) < len(fractions):
        count = f"there {'is' if len(distinct) == 1 else 'are'} {len(distinct)} {what}{'s' * (len(distinct) != 1)}"
        raise CatalogError(
            f"{count} for {len(fractions)} splits ({', '.join(fractions)}), which need at least one each; {remedy}"
        )
    names = np.repeat(np.array(list(fractions), dtype=object), _counts(len(distinct), list(fractions.values())))
    label_of = dict(zip(distinct, names.tolist(), strict=True))
    labels = np.empty(len(units), dtype=object)
    labels[:] = [label_of[unit] for unit in units]
    return labels


def _counts(total: int, fractions: list[float]) -> list[int]:
    """Integers near `fractions` of `total`, each at least 1, that sum to `total` (largest remainder method)."""
    shares = [fraction / sum(fractions) * total for fraction in fractions]
    counts = [max(1, int(share + 1e-9)) for share in shares]  # 0.7 + 0.2 + 0.1 is not quite 1 in floating point
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        movable = [index for index, count in enumerate(counts) if count + step >= 1]
        counts[max(movable, key=lambda index: step * (shares[index] - counts[index]))] += step
    return counts


def _texts(values: ArrayLike) -> list[str]:
    return [str(value) for value in np.asarray(values).tolist()]
