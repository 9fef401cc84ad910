"""Batches of real small rasters: the same for any number of ranks, threads and steps before.

C bands, H W pixels, T tiles
"""

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

import geomae
from geomae.models.masking import MaskRules
from geomae.models.patches import patchify, take
from geomae.rasters import read
from geomae.tiles.batches import BatchSpec, augment, fixed_batches, read_ahead, training_batch
from geomae.tiles.index import build_index
from geomae.tiles.reader import TileReader
from geomae.tiles.schedule import schedule_batches
from geomae.tiles.statistics import merge_moments

CATALOG = """
version: 1
datasets:
  fields:
    path: fields*.tif
    sensor:
      unit: digital_number
      bands:
        - {name: red, wavelength_um: 0.66, fwhm_um: 0.04}
        - {name: nir, wavelength_um: 0.86, fwhm_um: 0.04}
    nodata: -1
    tile: {size: 8, min_valid: 0.1}
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Two scenes of 24 x 32 pixels in tiles of 8, one band far from zero, gaps of their own in each band."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    for number in range(2):
        pixels = rng.normal([[[100.0]], [[1e6]]], [[[20.0]], [[3.0]]], (2, 24, 32)).astype(np.float32)
        pixels[rng.random(pixels.shape) < 0.15] = -1
        pixels[:, :8, :8] = np.where(rng.random((2, 8, 8)) < 0.5, -1, pixels[:, :8, :8])
        profile = {"count": 2, "height": 24, "width": 32, "dtype": "float32", "crs": "EPSG:32633"}
        place = Affine(10, 0, 500_000, 0, -10, 5_300_000 - 10_000 * number)
        with rasterio.open(folder / f"fields{number}.tif", "w", driver="GTiff", transform=place, **profile) as target:
            target.write(pixels)
    (folder / "catalog.yaml").write_text(CATALOG)
    return build_index(geomae.open_catalog(folder / "catalog.yaml"), "fields")


DRAW = BatchSpec(seed=5, patch=2, rules=MaskRules(0.75), min_valid_patch=0.25, flips=True)


def same(one, two):
    """Whether two batches agree in every bit."""
    tensors = ("pixels_BCHW", "valid_BCHW", "hidden_B")
    plain = [(batch.dataset, batch.tile_ids, batch.mask.visible) for batch in (one, two)]
    alike = torch.equal(one.mask.order_BX, two.mask.order_BX)
    return (
        alike and plain[0] == plain[1] and all(torch.equal(getattr(one, name), getattr(two, name)) for name in tensors)
    )


def readers_of(index):
    return [TileReader(index, 2**20), TileReader(index.take(np.arange(5)), 0, ["nir", "red"])]


def test_ranks_together_see_what_one_rank_would(index):
    readers = readers_of(index)
    order = schedule_batches(5, tuple(map(len, readers)), 8, 12)
    for step in range(12):
        whole = training_batch(readers, order, DRAW, step, 0, 1)
        for ranks in (2, 4):
            parts = [training_batch(readers, order, DRAW, step, rank, ranks) for rank in range(ranks)]
            assert sum((part.tile_ids for part in parts), ()) == whole.tile_ids
            for name in ("pixels_BCHW", "valid_BCHW", "hidden_B"):
                assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
            assert torch.equal(torch.cat([part.mask.order_BX for part in parts]), whole.mask.order_BX)
        passes = whole.split(4)
        assert [len(part.tile_ids) for part in passes] == [2] * 4
        assert torch.equal(torch.cat([part.mask.order_BX for part in passes]), whole.mask.order_BX)


def test_threads_and_restarts_change_nothing(index):
    order = schedule_batches(5, (len(index), 5), 4, 30)
    plain = list(read_ahead(readers_of(index), order, DRAW, range(30), 0, 1, 0, False))
    assert len(plain) == 30
    for threads in (1, 3):
        ahead = list(read_ahead(readers_of(index), order, DRAW, range(30), 0, 1, threads, False))
        assert all(map(same, plain, ahead))
    later = list(read_ahead(readers_of(index), order, DRAW, range(17, 30), 0, 1, 2, False))
    assert all(map(same, plain[17:], later))
    other = training_batch(readers_of(index), schedule_batches(6, (len(index), 5), 4, 30), DRAW, 0, 0, 1)
    assert not same(plain[0], other)


def test_leaving_early_leaves_no_thread_at_work(index):
    batches = read_ahead(
        readers_of(index), schedule_batches(5, (len(index), 5), 4, 10_000), DRAW, range(10_000), 0, 1, 2, False
    )
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_an_error_in_a_thread_reaches_the_step(index):
    reader = TileReader(index.take(np.arange(len(index))))
    reader.tile_ids.pop()  # the last tile has no name: whoever reads it fails
    with pytest.raises(IndexError):
        list(read_ahead([reader], schedule_batches(5, (len(index),), 4, 12), DRAW, range(12), 0, 1, 2, False))


def test_pixels_validity_and_masks_belong_together(index):
    readers = readers_of(index)
    order = schedule_batches(5, (len(index), 5), 8, 6)
    turns = set()
    for step in range(6):
        batch = training_batch(readers, order, DRAW, step, 0, 1)
        dataset, tiles = order.tiles(step)
        for b, (_, position) in enumerate(tiles):
            assert batch.tile_ids[b] == readers[dataset].tile_ids[position]
            pixels, valid = readers[dataset].read(position)
            fits = [
                which
                for which in range(8)
                if np.array_equal(augment(pixels, which), batch.pixels_BCHW[b].numpy())
                and np.array_equal(augment(valid, which), batch.valid_BCHW[b].numpy())
            ]
            assert len(fits) == 1
            turns.update(fits)
        share = patchify(batch.valid_BCHW, 2).float().mean((2, 3))
        assert (take(share, batch.mask.order_BX[:, : batch.mask.visible]) >= 0.25).all()
        hidden = take(patchify(batch.valid_BCHW, 2), batch.mask.order_BX[:, batch.mask.visible :])
        assert torch.equal(batch.hidden_B, hidden.sum((1, 2, 3)))
    assert len(turns) == 8


def test_without_flips_tiles_stay_as_they_are(index):
    reader = TileReader(index)
    still = BatchSpec(5, 2, MaskRules(0.75), 0.25, False)
    batch = training_batch([reader], schedule_batches(5, (len(index),), 4, 1), still, 0, 0, 1)
    places = [reader.tile_ids.index(name) for name in batch.tile_ids]
    pixels, valid = reader.many(places)
    np.testing.assert_array_equal(batch.pixels_BCHW.numpy(), pixels)
    np.testing.assert_array_equal(batch.valid_BCHW.numpy(), valid)


def test_a_reader_keeps_tiles_up_to_its_memory_and_gives_bands_by_name(index):
    tile_bytes = 2 * 8 * 8 * (4 + 1)
    reader = TileReader(index, 3 * tile_bytes)
    first = [reader.read(position)[0] for position in range(5)]
    again = [reader.read(position)[0] for position in range(5)]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, True, True, False, False]
    swapped, valid = TileReader(index, 0, ["nir", "red"]).read(0)
    np.testing.assert_array_equal(swapped, first[0][::-1])
    np.testing.assert_array_equal(valid, reader.read(0)[1][::-1])


def test_tiles_that_are_read_together_have_the_bits_of_those_read_alone(index, monkeypatch):
    reads = []
    monkeypatch.setattr("geomae.tiles.reader.read", lambda *asked: reads.append(asked) or read(*asked))
    for bands in (None, ["nir", "red"]):
        reader = TileReader(index, bands=bands)
        for positions, windows in ((range(12), 1), (range(20), 2), ([0, 5, 10], 3), ([3, 2, 1, 0], 1), ([7, 7], 1)):
            reads.clear()
            together = reader.many(positions)
            assert len(reads) == windows, positions
            alone = zip(*(reader.read(position) for position in positions), strict=True)
            for found, expected in zip(together, alone, strict=True):
                np.testing.assert_array_equal(found, np.stack(expected))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_fixed_batches_cover_each_tile_once_under_its_own_mask(index, ranks):
    reader, positions = TileReader(index), range(len(index))
    shares = [list(fixed_batches(reader, 0, positions, DRAW, 5, rank, ranks)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1  # some strategies talk in every forward pass
    counted = [batch for share in shares for batch, counts in share if counts]
    assert sorted(name for batch in counted for name in batch.tile_ids) == sorted(reader.tile_ids)
    masks = {
        name: order.tolist()
        for batch in counted
        for name, order in zip(batch.tile_ids, batch.mask.order_BX, strict=True)
    }
    alone = [next(fixed_batches(reader, 3, [position], DRAW, 1))[0] for position in positions]
    assert masks == {batch.tile_ids[0]: batch.mask.order_BX[0].tolist() for batch in alone}
    pixels, _ = reader.read(2)
    np.testing.assert_array_equal(alone[2].pixels_BCHW[0].numpy(), pixels)  # unturned
    other_seed = next(fixed_batches(reader, 0, positions, BatchSpec(6, 2, MaskRules(0.75), 0.25, True), 5))[0]
    assert not torch.equal(
        other_seed.mask.order_BX, next(fixed_batches(reader, 0, positions, DRAW, 5))[0].mask.order_BX
    )


def pooled(index, positions):
    """All valid pixels of some tiles, per band, in float64."""
    reader = TileReader(index)
    tiles = [reader.read(int(position)) for position in positions]
    return [np.concatenate([pixels[c][valid[c]] for pixels, valid in tiles]).astype(np.float64) for c in range(2)]


@pytest.mark.parametrize("positions", [range(24), range(0, 24, 3), [7], [20, 3, 11]])
def test_statistics_are_those_of_all_valid_pixels_together(index, positions):
    """Merged from moments of single tiles; the second band lies at a million with a deviation of 3."""
    found = index.survey.statistics(["red", "nir"], np.array(positions))
    for c, values in enumerate(pooled(index, positions)):
        assert found.count_C[c] == len(values)
        assert found.mean_C[c] == pytest.approx(values.mean(), rel=1e-13)
        assert found.std_C[c] == pytest.approx((values - values.mean()).std(), rel=1e-10)
        assert (found.min_C[c], found.max_C[c]) == (values.min(), values.max())
    assert found.std_C[1] == pytest.approx(3, rel=0.3)


def test_statistics_are_named_by_content_and_choice(index):
    def name(positions):
        return index.survey.statistics(["red", "nir"], np.array(positions)).digest

    assert name([1, 2, 3]) == name([3, 1, 2])
    assert name([1, 2, 3]) != name([1, 2, 4])
    values = index.survey.statistics(["red", "nir"], np.arange(24)).to_dict()
    assert list(values["bands"]) == ["red", "nir"]
    assert set(values["bands"]["red"]) == {"count", "mean", "std", "min", "max"}


def test_a_survey_of_a_choice_is_the_choice_of_the_survey(index):
    chosen = np.array([4, 9, 2])
    taken = index.survey.take(chosen).statistics(["red", "nir"], np.arange(3))
    direct = index.survey.statistics(["red", "nir"], chosen)
    np.testing.assert_array_equal(taken.mean_C, direct.mean_C)
    np.testing.assert_array_equal(taken.std_C, direct.std_C)
    reader = TileReader(index)
    shares = [reader.read(position)[1].mean() for position in range(24)]
    np.testing.assert_allclose(index.survey.valid_share_T, shares, rtol=1e-12)


def test_moments_of_parts_are_those_of_all_pixels():
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e4, 1, (n, 3)) for n in (5, 1, 40)]
    moments = [(np.full(3, len(one)), one.mean(0), ((one - one.mean(0)) ** 2).sum(0)) for one in parts]
    count_C, mean_C, variance_C = merge_moments(*(np.stack(column) for column in zip(*moments, strict=True)))
    whole = np.concatenate(parts)
    assert count_C.tolist() == [46] * 3
    np.testing.assert_allclose(mean_C, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance_C, whole.var(0), rtol=1e-9)
