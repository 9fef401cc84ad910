"""Which tiles of two selections share pixels."""

import numpy as np
from tile_indexes import grid, regular, tile_index

from geomae.tiles.selection import overlapping

FILES = ["a.tif", "b.tif"]


def drawn(seed, count, size):
    """Tiles at random places of two scenes, of 90 x 70 and of 64 x 64 pixels."""
    rng = np.random.default_rng(seed)
    scene_T = rng.integers(0, 2, count)
    tiles_T4 = np.stack([scene_T, *rng.integers(0, 64 - size, (2, count)), np.full(count, size)], axis=1)
    return tile_index([grid(90, 70), grid(64, 64)], tiles_T4, files=FILES)


def test_tiles_overlap_where_pixel_by_pixel_they_do():
    one, other = drawn(0, 60, 7), drawn(1, 20, 11)
    seen = np.zeros((2, 90, 70), dtype=bool)
    for scene, row, col, size in other.tiles[["scene", "row", "col", "size"]].to_numpy().tolist():
        seen[scene, row : row + size, col : col + size] = True
    expected = [
        seen[scene, row : row + size, col : col + size].any()
        for scene, row, col, size in one.tiles[["scene", "row", "col", "size"]].to_numpy().tolist()
    ]
    assert overlapping(one, other).tolist() == expected and 5 < sum(expected) < 55


def test_neighbours_touch_and_do_not_overlap_on_whatever_grid_of_the_file():
    left = tile_index([grid(90, 90)], [one for one in regular(90, 90, 10, 10) if one[2] < 30], files=["a.tif"])
    right = tile_index([grid(90, 90)], [one for one in regular(90, 90, 10, 10) if one[2] >= 30], files=["a.tif"])
    coarse = tile_index([grid(30, 30)], [(0, 0, 10, 20)], files=["a.tif"])  # from the column 30 of the others on
    elsewhere = tile_index([grid(90, 90)], [(0, 0, 0, 90)], files=["b.tif"])
    assert not overlapping(left, right).any() and overlapping(left, left).all()
    assert not overlapping(left, coarse).any() and overlapping(right, coarse).sum() == 6 * 6
    assert not overlapping(left, elsewhere).any()


def test_many_tiles_are_compared_without_every_pair_of_them():
    one, other = drawn(2, 10_000, 1), drawn(3, 10_000, 1)  # 1e8 pairs, of which 1 in 8,000 meets
    assert 0.6 < overlapping(one, other).mean() < 0.8
