"""Tiles of a block are drawn near each other, every tile once an epoch, whatever ranks, steps and restarts do.

T tiles, G groups
"""

import numpy as np
import pytest
import rasterio

import geomae
from geomae.models.masking import MaskRules
from geomae.tiles import draw_groups as module
from geomae.tiles.batches import BatchSpec, training_batch
from geomae.tiles.draw_groups import DrawGroups, draw_groups
from geomae.tiles.index import build_index
from geomae.tiles.reader import TileReader
from geomae.tiles.schedule import _permutation, schedule_batches
from geomae.tiles.views import ViewRules

BLOCK, TILE, SIDE = 64, 16, 256
CATALOG = """
version: 1
datasets:
  scene:
    path: scene.tif
    sensor: {{unit: reflectance, bands: [{{name: red, wavelength_um: 0.66, fwhm_um: 0.04}}]}}
    tile: {{size: {size}, stride: {stride}}}
"""
FORTY = DrawGroups(np.arange(240) // 6, in_turn=8)  # 40 groups of 6 tiles


def order_of(seed=3, steps=60, batch=12, groups=FORTY):
    """A schedule of one data set."""
    return schedule_batches(seed, (240,), batch, steps, groups=[groups])


def drawn(order, steps):
    """The positions of all tiles of some steps."""
    return [[position for _, position in order.tiles(step)[1]] for step in steps]


@pytest.fixture(scope="module")
def index_of(tmp_path_factory):
    """Tiles of a scene of 256 x 256 float32 in blocks of 64; all sizes and strides share the file."""
    folder = tmp_path_factory.mktemp("scene")
    profile = {"count": 1, "height": SIDE, "width": SIDE, "dtype": "float32", "tiled": True}
    place = rasterio.Affine(10, 0, 500_000, 0, -10, 5_300_000)
    with rasterio.open(
        folder / "scene.tif", "w", crs="EPSG:32633", transform=place, blockxsize=BLOCK, blockysize=BLOCK, **profile
    ) as target:
        target.write(np.random.default_rng(0).random((1, SIDE, SIDE), dtype=np.float32))

    def make(size=TILE, stride=TILE):
        (folder / "catalog.yaml").write_text(CATALOG.format(size=size, stride=stride))
        return build_index(geomae.open_catalog(folder / "catalog.yaml"), "scene")

    return make


@pytest.fixture
def small_memory(monkeypatch):
    """Four of the sixteen blocks are in turn, as if the scene were a large one."""
    monkeypatch.setattr(module, "IN_TURN_BYTES", 4 * BLOCK * BLOCK * 4)
    monkeypatch.setattr(module, "WHOLE", BLOCK)


def test_every_tile_comes_once_an_epoch_whatever_the_size_of_its_group():
    group_T = np.repeat(np.arange(30), np.arange(30) % 9 + 1)
    uneven = DrawGroups(group_T, in_turn=5)
    for epoch in range(5):
        order_T, turn_T = uneven.draw(np.random.default_rng(epoch))
        assert sorted(order_T.tolist()) == list(range(len(group_T)))
        assert set(turn_T.tolist()) == set(range(5))


def test_every_tile_is_equally_likely_in_a_run_that_ends_early():
    """Of 3,000 epochs a third is counted: each tile comes in a third of them, those of small groups too."""
    group_T = np.repeat(np.arange(12), [1, 2, 9] * 4)
    groups, epochs = DrawGroups(group_T, in_turn=4), 3000
    seen_T = np.zeros(len(group_T))
    for epoch in range(epochs):
        seen_T[groups.draw(np.random.default_rng(epoch))[0][: len(group_T) // 3]] += 1
    share = 1 / 3
    assert np.abs(seen_T / epochs - share).max() < 5 * np.sqrt(share * (1 - share) / epochs)


def test_a_group_stays_together_and_a_step_shows_many_groups():
    order, steps = order_of(), range(20)  # an epoch
    position_T = np.concatenate(drawn(order, steps))
    step_T = np.repeat(np.arange(20), 12)
    circle = np.array([np.sort(step_T[position_T // 6 == group]) for group in range(40)])
    gap_G = np.diff(np.column_stack([circle, circle[:, 0] + 20]), axis=1).max(1)
    # All of a group within the tiles of 16 groups, which are 8 steps: the longest time without it is the rest.
    assert (20 - gap_G <= 8 + 1).all()
    assert np.mean([len(set(np.array(step) // 6)) for step in drawn(order, steps)]) > 6
    one_by_one = np.mean([len(set(np.array(step) // 6)) for step in drawn(order_of(groups=None), steps)])
    assert one_by_one > 9  # what is given up: 12 tiles of 40 groups would show 10


def test_order_is_a_function_of_the_seed_and_the_step_alone():
    long = order_of(steps=600)
    expected = drawn(long, range(40, 60))
    _permutation.cache_clear()  # as after a restart
    assert drawn(order_of(), range(40, 60)) == expected
    assert drawn(order_of(seed=4), range(40, 60)) != expected
    pairs = [pair for step in range(60) for pair in order_of().tiles(step)[1]]
    assert sorted(k for k, _ in pairs) == list(range(720))  # every draw has a number of its own
    assert all(order_of().position(0, k) == position for k, position in pairs)


def test_a_group_is_read_by_few_ranks():
    """Each of four ranks reads its own groups, with some more where their number in a step changes."""
    read = [set() for _ in range(4)]
    for step in drawn(order_of(batch=48), range(5)):  # an epoch of 40 groups
        for rank in range(4):
            read[rank] |= {position // 6 for position in step[rank * 12 : rank * 12 + 12]}
    assert sum(map(len, read)) < 0.75 * 160


def test_groups_are_the_blocks_of_the_file(index_of, small_memory):
    index = index_of()
    groups = draw_groups(index)
    corner_T = [(row // BLOCK, col // BLOCK) for row, col in index.tiles[["row", "col"]].to_numpy().tolist()]
    assert groups.in_turn == 4
    assert len(set(zip(groups.group_T.tolist(), corner_T, strict=True))) == len(set(corner_T)) == 16
    some = groups.of(np.arange(120))
    assert some.group_T.max() + 1 == len(set(corner_T[:120]))
    assert groups.of(np.arange(0, 256, 5)) is None  # three tiles of each block


def test_tiles_that_cross_blocks_are_gathered_over_several(index_of, small_memory, monkeypatch):
    monkeypatch.setattr(module, "IN_TURN_BYTES", 16 * BLOCK * BLOCK * 4)
    index = index_of(size=24, stride=24)  # two and two thirds along a block
    groups = draw_groups(index)
    corner_T2 = index.tiles[["row", "col"]].to_numpy() // 128
    assert groups is None and len(np.unique(corner_T2, axis=0)) == 4  # no more groups than are in turn
    monkeypatch.setattr(module, "FEWEST_IN_TURN", 1)
    monkeypatch.setattr(module, "IN_TURN_BYTES", 4 * BLOCK * BLOCK * 4)
    assert np.unique(np.column_stack([draw_groups(index).group_T, corner_T2]), axis=0).shape == (4, 3)


def test_small_data_and_files_of_a_tile_are_drawn_one_by_one(index_of, small_memory, monkeypatch):
    assert draw_groups(index_of(size=BLOCK, stride=BLOCK)) is None  # a tile each block
    monkeypatch.undo()
    assert draw_groups(index_of()) is None  # all blocks stay in memory
    assert drawn(order_of(groups=None), range(60)) == drawn(schedule_batches(3, (240,), 12, 60), range(60))


@pytest.mark.parametrize("grouped", [True, False])
def test_views_stay_on_the_blocks_of_their_group(index_of, small_memory, monkeypatch, grouped):
    """Larger windows are moved inwards: else most blocks would be decoded for the edges of their neighbours, too."""
    reader, seen = TileReader(index_of()), []
    read = reader.window
    monkeypatch.setattr(reader, "window", lambda scene, window: seen.append(window) or read(scene, window))
    order = schedule_batches(0, (256,), 8, 32, groups=[reader.groups] if grouped else None)
    views = ViewRules((0.5, 1.5))
    spec = BatchSpec(seed=0, patch=4, rules=MaskRules(0.75), min_valid_patch=0.5, flips=True, views=views)
    for step in range(32):
        training_batch([reader], order, spec, step, 0, 1)
    crossing = [one.row % BLOCK + one.height > BLOCK or one.col % BLOCK + one.width > BLOCK for one in seen]
    assert len(seen) == 256
    assert len({one.height for one in seen}) > 10
    assert np.mean([one.height > TILE for one in seen]) == pytest.approx(np.log(1.5) / np.log(3), abs=0.1)
    assert any(crossing) == (not grouped)


def test_ranks_together_see_what_one_would(index_of, small_memory):
    reader = TileReader(index_of())
    order = schedule_batches(0, (256,), 8, 64, sides=[reader.side_T], groups=[reader.groups])
    spec = BatchSpec(seed=0, patch=4, rules=MaskRules(0.75), min_valid_patch=0.5, flips=True)
    for step in (0, 31, 32, 63):
        alone = training_batch([reader], order, spec, step, 0, 1)
        parts = [training_batch([reader], order, spec, step, rank, 4) for rank in range(4)]
        assert sum((part.tile_ids for part in parts), ()) == alone.tile_ids
        assert np.array_equal(np.concatenate([part.pixels_BCHW for part in parts]), alone.pixels_BCHW)
