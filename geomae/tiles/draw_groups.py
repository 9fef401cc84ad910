"""Groups of tiles that share blocks of a file: they are drawn close together, so that a block is decoded once.

T tiles, G groups, S scenes
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomae.rasters.grids import Axis, scene_layout
from geomae.tiles.index import TileIndex

IN_TURN_BYTES = 384 * 1024**2  # limit on the decoded blocks of the groups that tiles are drawn from at a time
MOST_IN_TURN = 256  # groups: more than a usual batch has tiles, so that most of these are of different groups
FEWEST_IN_TURN = 4  # with fewer a batch would show too few places
FEWEST_TILES = 4  # per group on average; with fewer, grouping saves little
WHOLE = 512  # pixels: a scene whose tiles lie in a square of this side is one group
CROSSING = 0.25  # share of a scene's tiles that may reach beyond their group before groups are made larger
ACROSS = 4  # tiles along a side of a larger group

Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DrawGroups:
    """The group of each tile, from 0, and the number of groups that tiles are drawn from at a time."""

    group_T: Whole
    in_turn: int

    def of(self, tiles: Whole) -> "DrawGroups | None":
        """The groups of a subset of the tiles; None where they become too few or too small."""
        return _grouped(self.group_T[tiles], self.in_turn)

    def draw(self, rng: np.random.Generator) -> tuple[Whole, Whole]:
        """The tiles of an epoch in their order (T), and for each tile the slot of its group, 0 to `in_turn` - 1 (T).

        Groups start in random order, one per unit of time. Each tile follows the start of its group after a random
        delay of at most `in_turn` units; times beyond the end of the epoch wrap around to its beginning. So every tile
        occurs once, at any time of the epoch with equal probability; the tiles of a step are of about `in_turn` groups;
        and the tiles of a group are spread over those of at most 2 x `in_turn` groups. A group keeps its slot.
        """
        count = int(self.group_T.max()) + 1
        place_T = rng.permutation(count)[self.group_T]
        time_T = (place_T + self.in_turn * rng.random(len(place_T))) % count
        order_T = np.argsort(time_T, kind="stable")
        return order_T, place_T[order_T] % self.in_turn


def draw_groups(index: TileIndex) -> DrawGroups | None:
    """The groups of tiles that share blocks, a function of the tiles and the blocks of their files.

    None where grouping saves little: groups would have few tiles (as with one file per tile), or all decoded blocks
    fit in memory.
    """
    place_T4 = index.tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
    scenes, scene_T = np.unique(place_T4[:, 0], return_inverse=True)
    bands = len(index.source.bands)
    if len(place_T4) < FEWEST_TILES * len(scenes) or (place_T4[:, 3] ** 2).sum() * bands <= IN_TURN_BYTES // 4:
        return None
    start_S2, extent_S2 = _extents(place_T4, scene_T)
    cell_S2, origin_S2 = extent_S2.copy(), start_S2.copy()
    bytes_S = extent_S2.prod(axis=1) * bands * 4
    order_T = np.argsort(scene_T, kind="stable")
    ends_S = np.searchsorted(scene_T[order_T], np.arange(len(scenes) + 1))
    for one in np.flatnonzero(extent_S2.max(axis=1) > WHOLE).tolist():
        tiles = order_T[ends_S[one] : ends_S[one + 1]]
        cell_S2[one], pixel_bytes = _cell(index, int(scenes[one]), place_T4[tiles, 1:])
        origin_S2[one] = 0
        bytes_S[one] = cell_S2[one].prod() * pixel_bytes
    cell_T2 = (place_T4[:, 1:3] - origin_S2[scene_T]) // cell_S2[scene_T]
    group_T = np.unique(np.column_stack([scene_T, cell_T2]), axis=0, return_inverse=True)[1].reshape(-1)
    in_turn = min(IN_TURN_BYTES // int(bytes_S.max()), MOST_IN_TURN)
    return _grouped(group_T, in_turn) if in_turn >= FEWEST_IN_TURN else None


def _grouped(group_T: Whole, in_turn: int) -> DrawGroups | None:
    """The groups, numbered without gaps; None where there are at most `in_turn` of them, or too few tiles in each."""
    known, number_T = np.unique(group_T, return_inverse=True)
    if len(known) <= in_turn or len(group_T) < FEWEST_TILES * len(known):
        return None
    return DrawGroups(number_T.reshape(-1), in_turn)


def _extents(place_T4: Whole, scene_T: Whole) -> tuple[Whole, Whole]:
    """The rectangle of each scene's tiles: its first row and column, and its height and width (S, 2)."""
    start_T2 = place_T4[:, 1:3]
    end_T2 = start_T2 + place_T4[:, 3:]
    shape = int(scene_T.max()) + 1, 2
    start_S2, end_S2 = np.full(shape, np.iinfo(np.int64).max), np.zeros(shape, dtype=np.int64)
    np.minimum.at(start_S2, scene_T, start_T2)
    np.maximum.at(end_S2, scene_T, end_T2)
    return start_S2, end_S2 - start_S2


def _cell(index: TileIndex, scene: int, tile_T3: Whole) -> tuple[Whole, int]:
    """Rows and columns of the cell in which a group's tiles begin, whole blocks of the finest file; bytes per pixel."""
    layout = scene_layout(index.source, index.source.scenes[scene])
    part = max(layout.parts, key=lambda one: one.header.height * one.header.width)
    block_2 = np.array([_on_grid(part.rows, part.header.block_height), _on_grid(part.cols, part.header.block_width)])
    side = int(tile_T3[:, 2].max())
    cell_2 = _whole_blocks(block_2, side)
    crossing_T = (tile_T3[:, :2] % cell_2 + tile_T3[:, 2:] > cell_2).any(axis=1)
    if crossing_T.mean() > CROSSING:
        cell_2 = _whole_blocks(block_2, ACROSS * side)
    return cell_2, sum(len(one.indexes) for one in layout.parts) * max(one.itemsize for one in layout.parts)


def _on_grid(axis: Axis, length: int) -> int:
    """The length of a file's block in pixels of the grid."""
    return max(round(length / axis.scale), 1)


def _whole_blocks(block_2: Whole, least: int) -> Whole:
    """Rows and columns of the smallest number of whole blocks that are at least `least` pixels long."""
    return block_2 * -(-least // block_2)
