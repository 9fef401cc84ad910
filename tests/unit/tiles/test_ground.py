"""The ground of the training tiles against a painting of it, pixel by pixel."""

import numpy as np
import pytest
from tiles.tile_indexes import covered, grid, painted, regular, tile_index

from geomae.randomness import generator
from geomae.rasters import Window
from geomae.tiles.ground import TrainingGround, draw_window, starts, window_around

RNG = np.random.default_rng(0)


def scattered(count=40):
    """Scenes with tiles of several sizes at any pixel; the third has none."""
    tiles = [
        (scene, int(RNG.integers(0, 60 - size)), int(RNG.integers(0, 45 - size)), size)
        for scene, size in zip(RNG.choice([0, 1, 3], count), RNG.choice([5, 8, 13], count), strict=True)
    ]
    return tile_index([grid(60, 45)] * 4, sorted((int(a), b, c, int(d)) for a, b, c, d in tiles))


def gaps():
    """Regular tiles of 16, stride 8, of which a third is held out."""
    tiles = regular(64, 64, 16, 8) + regular(64, 64, 16, 8, scene=1)
    return tile_index([grid(64, 64)] * 2, [tile for tile in tiles if RNG.random() > 0.33])


@pytest.mark.parametrize("index", [scattered(), scattered(3), gaps()], ids=["scattered", "few", "gaps"])
def test_windows_are_on_the_ground_where_every_pixel_is(index):
    ground, masks = TrainingGround(index), painted(index)
    count = 4000
    scene_N = RNG.integers(0, len(masks), count)
    row_N, col_N = RNG.integers(-4, 62, count), RNG.integers(-4, 62, count)
    height_N, width_N = RNG.integers(0, 14, count), RNG.integers(0, 14, count)
    held_N = ground.holds_each(scene_N, row_N, col_N, height_N, width_N)
    direct_N = [
        covered(masks[scene], *box)
        for scene, *box in zip(*(v.tolist() for v in (scene_N, row_N, col_N, height_N, width_N)), strict=True)
    ]
    assert held_N.tolist() == direct_N
    assert 0 < held_N.sum() < count
    for n in range(0, count, 40):
        window = Window(int(row_N[n]), int(col_N[n]), int(height_N[n]), int(width_N[n]))
        assert ground.window_within(int(scene_N[n]), window) == direct_N[n]
        side = int(height_N[n])
        square = covered(masks[scene_N[n]], window.row, window.col, side, side)
        assert ground.holds(int(scene_N[n]), window.row, window.col, side) == square


def test_a_large_scene_takes_little_memory():
    index = tile_index([grid(10_980, 10_980)] * 2, regular(10_980, 10_980, 64, 32, scene=1))
    ground = TrainingGround(index)
    assert ground._table.nbytes < 1e6
    assert ground.holds(1, 3, 5, 10_900)
    assert not ground.holds(1, 0, 0, 10_980)  # the remainder is no tile
    assert not ground.holds(0, 0, 0, 1)


def test_drawn_windows_stay_near_and_on_the_ground():
    index = gaps()
    ground, masks = TrainingGround(index), painted(index)
    found, around = 0, []
    for number in range(300):
        rng = generator(0, "test", number)
        scene, side = number % 2, int(rng.integers(6, 24))
        row, col = rng.uniform(0, 64, 2)
        window = draw_window(ground, scene, row, col, side, 5.5, rng)
        again = generator(0, "test", number)
        again.integers(6, 24), again.uniform(0, 64, 2)
        assert draw_window(ground, scene, row, col, side, 5.5, again) == window
        if window is None:
            around.append(covered(masks[scene], *_middle(row, col, side)))
            continue
        found += 1
        assert (window.height, window.width) == (side, side)
        assert covered(masks[scene], window.row, window.col, side, side)
        assert abs(window.row + side / 2 - row) <= 5.5 and abs(window.col + side / 2 - col) <= 5.5
    assert 50 < found < 300
    assert not any(around)  # where the window around the centre itself is good, there is one


def _middle(row, col, side):
    window = window_around(row, col, side)
    return window.row, window.col, side, side


def test_all_windows_within_reach_are_drawn():
    ground = TrainingGround(tile_index([grid(40, 40)], [(0, 0, 0, 40)]))
    drawn = [draw_window(ground, 0, 20.0, 20.5, 8, 2.0, generator(1, "w", n)) for n in range(600)]
    assert {one.row for one in drawn} == {14, 15, 16, 17, 18}
    assert {one.col for one in drawn} == {15, 16, 17, 18}  # half pixels off: 18.5 would be out of reach
    counts = np.bincount([5 * (one.row - 14) + one.col - 15 for one in drawn])
    assert counts[counts > 0].min() > 10


def test_without_reach_the_nearest_window_is_taken():
    ground = TrainingGround(tile_index([grid(40, 40)], [(0, 8, 8, 16)]))
    for row, first in ((16.0, 12), (16.4, 12), (16.6, 13)):
        assert draw_window(ground, 0, row, 16.0, 8, 0.0, generator(0, "x", 0)) == Window(first, 12, 8, 8)
        assert window_around(row, 16.0, 8) == Window(first, 12, 8, 8)
        assert starts(np.array([row]), np.array([8])).tolist() == [first]
    assert draw_window(ground, 0, 16.0, 16.0, 17, 3.0, generator(0, "x", 0)) is None
