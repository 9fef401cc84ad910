"""Windows that are drawn, what they are brought to, and what second views share with the first."""

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

import geomae
from geomae.config import Objective
from geomae.models.masking import MaskRules
from geomae.rasters import Window, read
from geomae.tiles.batches import BatchSpec, fixed_batches, training_batch
from geomae.tiles.index import build_index
from geomae.tiles.places import find_partners
from geomae.tiles.reader import TileReader
from geomae.tiles.schedule import schedule_batches
from geomae.tiles.views import Frame, ViewRules, draw_partner, draw_view, resize, shared

SIZE, PATCH = 16, 4
CATALOG = """
version: 1
datasets:
  early: &data
    path: 'early*.tif'
    sensor:
      unit: digital_number
      bands:
        - {name: red, wavelength_um: 0.66, fwhm_um: 0.04}
        - {name: nir, wavelength_um: 0.86, fwhm_um: 0.04}
    nodata: -1
    tile: {size: 16, stride: 8, min_valid: 0.1}
  late:
    path: 'late*.tif'
    sensor:
      unit: digital_number
      bands:
        - {name: green, wavelength_um: 0.56, fwhm_um: 0.04}
    nodata: -1
    tile: {size: 16, stride: 8, min_valid: 0.1}
"""


def write(path, bands, gsd_m, seed, gaps=0.0):
    """64 x 64 pixels of 10 m, or 32 x 32 of 20 m, over the same ground."""
    side = round(640 / gsd_m)
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 20, (bands, side, side)).astype(np.float32)
    pixels[rng.random(pixels.shape) < gaps] = -1
    place = Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_300_000)
    profile = {"count": bands, "height": side, "width": side, "dtype": "float32", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", driver="GTiff", transform=place, **profile) as target:
        target.write(pixels)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Two dates of one sensor, of which one has gaps, and one of a coarser sensor."""
    folder = tmp_path_factory.mktemp("views")
    write(folder / "early0.tif", 2, 10, 0)
    write(folder / "early1.tif", 2, 10, 1, gaps=0.1)
    write(folder / "late0.tif", 1, 20, 2)
    (folder / "catalog.yaml").write_text(CATALOG)
    catalog = geomae.open_catalog(folder / "catalog.yaml")
    return [TileReader(build_index(catalog, name), 2**20) for name in ("early", "late")]


def spec(places=True, scales=(0.5, 1.5), seed=3):
    rules = ViewRules(scales, paired=True, places=places, gain=0.2, offset=0.1)
    return BatchSpec(seed, PATCH, MaskRules(0.5), 0.5, flips=True, views=rules)


def order_of(readers, batch=8, steps=12, places=True, seed=3):
    partners = find_partners([one.index for one in readers])
    return schedule_batches(seed, tuple(map(len, readers)), batch, steps, partners=partners, places=places)


@pytest.mark.parametrize("length", [5, 16, 23, 40])
def test_a_window_is_brought_to_size_by_its_definition(length):
    rng = np.random.default_rng(0)
    pixels, valid = rng.normal(5, 1, (2, length, length)).astype(np.float32), rng.random((2, length, length)) > 0.3
    found, known = resize(pixels, valid, SIZE)
    ratio = length / SIZE
    reach = max(ratio, 1)
    for c, row, col in ((0, 0, 0), (1, 7, 9), (0, 15, 3)):
        weights = np.zeros((length, length))
        for y in range(length):
            for x in range(length):
                away = [abs((place + 0.5) * ratio - at - 0.5) / reach for place, at in ((row, y), (col, x))]
                weights[y, x] = max(1 - away[0], 0) * max(1 - away[1], 0)
        share = weights[valid[c]].sum() / weights.sum()
        assert known[c, row, col] == (share >= 0.5)
        if known[c, row, col]:
            wanted = (weights * pixels[c])[valid[c]].sum() / weights[valid[c]].sum()
            assert found[c, row, col] == pytest.approx(wanted, rel=1e-5)
        else:
            assert found[c, row, col] == 0


def test_values_of_invalid_pixels_do_not_leak_into_a_resized_window():
    pixels, valid = np.ones((1, 24, 24), np.float32), np.ones((1, 24, 24), bool)
    pixels[0, :10, :10], valid[0, :10, :10] = np.nan, False
    found, known = resize(pixels, valid, SIZE)
    assert not known[0, 0, 0] and np.isfinite(found).all()
    assert np.allclose(found[known], 1)


def test_a_tile_as_it_is_stays_as_it_is():
    pixels, valid = np.random.default_rng(0).normal(size=(1, SIZE, SIZE)), np.ones((1, SIZE, SIZE), bool)
    found, known = resize(pixels, valid, SIZE)
    assert found is pixels and known is valid


def test_drawn_windows_lie_on_training_ground_and_hold_the_tile_or_lie_in_it(readers):
    reader, rng = readers[0], np.random.default_rng(0)
    part = TileReader(reader.index.take(np.arange(9)))  # a corner of the first scene
    sides = []
    for position in range(len(part)):
        for _ in range(20):
            tile = part.frame(position)
            window = draw_view(tile, (0.5, 1.5), PATCH, part.ground, rng)
            assert part.ground.holds(tile.scene, window.row, window.col, window.height)
            assert 8 <= window.height == window.width <= 24
            sides.append(window.height)
    assert min(sides) <= 9 and max(sides) >= 23 and len(set(sides)) > 10


def test_ground_without_room_gives_the_tile_itself(readers):
    one = TileReader(readers[0].index.take(np.array([0])))
    tile = one.frame(0)
    assert draw_view(tile, (1.4, 1.5), PATCH, one.ground, np.random.default_rng(0)) == tile.window()


def test_partners_share_half_of_the_ground_at_least(readers):
    ground, rng = readers[0].ground, np.random.default_rng(0)
    around = Frame(1, 30.5, 28.0, 16.0)
    drawn = [draw_partner(around, ground, rng) for _ in range(200)]
    shares = [shared(around, one) for one in drawn]
    assert min(shares) >= 0.5 and min(shares) < 0.6 and max(shares) > 0.95
    sides = [one.height for one in drawn]
    assert min(sides) == 13 and max(sides) == 20
    assert draw_partner(Frame(1, 0.0, 0.0, 16.0), ground, rng) is None  # three quarters of it lie outside


def test_the_share_of_a_frame_that_a_window_covers():
    frame = Frame(0, 10, 10, 10)
    assert shared(frame, Window(5, 5, 10, 10)) == 1
    assert shared(frame, Window(10, 5, 10, 10)) == pytest.approx(0.5)
    assert shared(frame, Window(10, 10, 10, 10)) == pytest.approx(0.25)
    assert shared(frame, Window(20, 20, 4, 4)) == 0


def test_ranks_together_see_what_one_rank_would(readers):
    order, draw = order_of(readers), spec()
    streams = set()
    for step in range(12):
        whole = training_batch(readers, order, draw, step, 0, 1)
        parts = [training_batch(readers, order, draw, step, rank, 4) for rank in range(4)]
        streams.add((whole.dataset, whole.second.dataset))
        for which in (lambda one: one, lambda one: one.second):
            for name in ("pixels_BCHW", "valid_BCHW", "hidden_B", "zoom_B"):
                assert torch.equal(torch.cat([getattr(which(one), name) for one in parts]), getattr(which(whole), name))
            for number in range(2):
                altered = torch.cat([which(one).altered[number] for one in parts])
                assert torch.equal(altered, which(whole).altered[number])
            assert torch.equal(torch.cat([which(one).mask.order_BX for one in parts]), which(whole).mask.order_BX)
        assert torch.equal(torch.cat([one.negatives.negative_BG for one in parts]), whole.negatives.negative_BG)
        assert torch.equal(torch.cat([one.negatives.counted_B for one in parts]), whole.negatives.counted_B)
        assert [one.negatives.start for one in parts] == [0, 2, 4, 6]
    assert [(one.dataset, one.partner) for one in order.streams] == [(0, 0), (1, 1), (0, 1), (1, 0)]
    assert streams >= {
        (0, 0),
        (0, 1),
        (1, 0),
    }  # each sensor with itself and with the other


def test_a_step_is_the_same_whatever_came_before(readers):
    order = order_of(readers)
    first, again = (training_batch(readers, order, spec(), 7, 0, 1) for _ in range(2))
    assert torch.equal(first.second.pixels_BCHW, again.second.pixels_BCHW)
    other = training_batch(readers, order_of(readers, seed=4), spec(seed=4), 7, 0, 1)
    assert other.tile_ids != first.tile_ids or not torch.equal(other.pixels_BCHW, first.pixels_BCHW)


def test_tiles_of_overlapping_ground_are_no_negatives(readers):
    order = order_of(readers)
    for step in range(12):
        batch = training_batch(readers, order, spec(scales=(1.0, 1.0)), step, 0, 1)
        reader = readers[batch.dataset]
        frames = [reader.frame(reader.tile_ids.index(name)) for name in batch.tile_ids]
        for i, one in enumerate(frames):
            for j, other in enumerate(frames):  # both scenes of a data set show the same ground
                overlap = max(abs(one.row - other.row), abs(one.col - other.col)) < SIZE
                assert bool(batch.negatives.negative_BG[i, j]) == (not overlap)


def test_contrast_alone_takes_both_views_from_one_scene(readers):
    order = order_of(readers, places=False)
    assert [(one.dataset, one.partner) for one in order.streams] == [(0, 0), (1, 1)]
    draw = spec(places=False, scales=(1.0, 1.0))
    plain = BatchSpec(3, PATCH, MaskRules(0.5), 0.5, flips=False, views=draw.views)
    batch = training_batch(readers, order, plain, 0, 0, 1)
    assert torch.equal(batch.pixels_BCHW, batch.second.pixels_BCHW)
    assert not torch.equal(batch.mask.order_BX, batch.second.mask.order_BX)
    assert not torch.equal(batch.altered[0], batch.second.altered[0])


def test_gains_and_offsets_keep_their_bounds(readers):
    batch = training_batch(readers, order_of(readers), spec(), 0, 0, 1)
    gain, offset = batch.altered
    assert 0.8 <= gain.min() < 0.9 and 1.1 < gain.max() <= 1.2 and -0.1 <= offset.min() < 0 < offset.max() <= 0.1


def test_any_window_is_read_as_the_file_has_it(readers):
    reader = readers[0]
    window = Window(3, 5, 31, 31)
    wanted = read(reader.index.source, reader.index.source.scenes[1], window)
    for one in (reader, TileReader(reader.index, 0)):  # kept in memory, and not
        found = one.window(1, window)
        assert np.array_equal(found[0], wanted[0]) and np.array_equal(found[1], wanted[1])


def test_validation_compares_held_out_tiles_with_their_own_ground(readers):
    reader = readers[0]
    partners = find_partners([reader.index])
    batches = list(fixed_batches(reader, 0, range(len(reader)), spec(), 8, partners=partners))
    again = list(fixed_batches(reader, 0, range(len(reader)), spec(), 8, partners=partners))
    assert sum(len(one.tile_ids) for one, _ in batches) == len(reader)
    for (one, _), (other, _) in zip(batches, again, strict=True):
        assert torch.equal(one.second.pixels_BCHW, other.second.pixels_BCHW)
        assert one.altered is None and bool(one.negatives.counted_B.all())
        assert not one.negatives.negative_BG.diagonal().any()


def test_weights_name_the_terms():
    assert Objective().weights() == {"pixels": 1.0}
    assert Objective(pixels=0.5, places=2).weights() == {"pixels": 0.5, "places": 2.0}
