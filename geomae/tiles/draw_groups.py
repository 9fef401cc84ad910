"""Tiles that lie in the same blocks of a file are drawn near each other, so that a block is decoded once for them all.

T tiles, G groups, S scenes
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomae.rasters.grids import Axis, scene_layout
from geomae.tiles.index import TileIndex

IN_TURN_BYTES = 384 * 1024**2  # decoded blocks of the groups that are drawn from at a time
MOST_IN_TURN = 256  # groups: more than tiles of a usual batch, so that most of these come from groups of their own
FEWEST_IN_TURN = 4  # with fewer a batch would show too few places
FEWEST_TILES = 4  # of a group on average; with fewer there is little to gain
WHOLE = 512  # pixels: a scene whose tiles lie in such a square is a group
CROSSING = 0.25  # share of a scene's tiles that may reach beyond their group before groups are made larger
ACROSS = 4  # tiles along a side of such a group

Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DrawGroups:
    """The group of each tile, from 0, and of how many groups tiles are drawn at a time."""

    group_T: Whole
    in_turn: int

    def of(self, tiles: Whole) -> "DrawGroups | None":
        """The groups among some of the tiles; None where too little is left of them."""
        return _grouped(self.group_T[tiles], self.in_turn)

    def draw(self, rng: np.random.Generator) -> tuple[Whole, Whole]:
        """The tiles of an epoch in their order (T), and for each of them the place of its group among those in turn.

        Groups come in a drawn order, one after the other, and each tile a drawn time after its group, of at most
        `in_turn` groups; what would come after the end of the epoch comes at its beginning. So every tile comes once,
        at any time of the epoch with the same probability, the tiles of a step come from about `in_turn` groups, and
        those of a group lie within the tiles of at most 2 x `in_turn` groups. The place stays while a group is in turn.
        """
        count = int(self.group_T.max()) + 1
        place_T = rng.permutation(count)[self.group_T]
        time_T = (place_T + self.in_turn * rng.random(len(place_T))) % count
        order_T = np.argsort(time_T, kind="stable")
        return order_T, place_T[order_T] % self.in_turn


def draw_groups(index: TileIndex) -> DrawGroups | None:
    """The groups of tiles that share blocks, a function of the tiles and the blocks of their files.

    None where tiles are drawn one by one: a group would have few of them, as with files that hold a tile each; or the
    decoded blocks of all are little enough to stay in memory in any order.
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
    """The groups, numbered without gaps, where there are more of them than are in turn, and enough tiles in each."""
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
    """Rows and columns of a scene in which tiles of a group begin, whole blocks of its finest file; bytes a pixel."""
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
    """Pixels of the grid along a block of a file."""
    return max(round(length / axis.scale), 1)


def _whole_blocks(block_2: Whole, least: int) -> Whole:
    """Rows and columns of the fewest blocks that are at least so many pixels."""
    return block_2 * -(-least // block_2)
