"""Which tile stands where: epochs are permutations, and tile k depends on the seed and k alone."""

import numpy as np
import pytest

from geomae.tiles.batches import augment
from geomae.tiles.schedule import _permutation, schedule_batches


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (7, 7), (5, 12), (1, 3)])
def test_each_epoch_is_a_permutation_of_its_own(size, batch):
    epochs = 4
    one = schedule_batches(3, (size,), batch, -(-epochs * size // batch))
    listed = [pair for step in range(len(one.stream_S)) for pair in one.tiles(step)[1]]
    assert [k for k, _ in listed] == list(range(len(listed)))
    seen = [tuple(place for _, place in listed[e * size : (e + 1) * size]) for e in range(epochs)]
    assert all(sorted(epoch) == list(range(size)) for epoch in seen)
    if size > 4:
        assert len(set(seen)) == epochs


def test_a_tile_depends_on_the_seed_and_its_number_alone():
    short, long = schedule_batches(3, (50, 20), 4, 10), schedule_batches(3, (50, 20), 4, 1000)
    for step in range(10):
        assert short.tiles(step) == long.tiles(step)
    # Whoever asks for one tile in the middle, with nothing cached, gets what the whole run would see.
    expected = [long.position(1, k) for k in range(100, 110)]
    _permutation.cache_clear()
    assert [long.position(1, k) for k in reversed(range(100, 110))] == expected[::-1]
    assert [schedule_batches(4, (50, 20), 4, 10).position(0, k) for k in range(50)] != [
        short.position(0, k) for k in range(50)
    ]
    # The batch decides how tiles are grouped, not which tile is the k-th.
    assert [schedule_batches(3, (50,), 5, 10).position(0, k) for k in range(50)] == [
        short.position(0, k) for k in range(50)
    ]


def test_data_sets_are_drawn_by_their_share_and_none_skips_a_tile():
    sizes, batch = (300, 100, 4), 2
    mixed = schedule_batches(0, sizes, batch, 4000)
    drawn = np.bincount(mixed.stream_S, minlength=3)
    assert drawn.sum() == 4000
    for count, size in zip(drawn, sizes, strict=True):
        share = size / sum(sizes)
        assert abs(count - 4000 * share) < 5 * np.sqrt(4000 * share * (1 - share))
    taken = [0, 0, 0]
    for step in range(4000):
        dataset, tiles = mixed.tiles(step)
        assert [k for k, _ in tiles] == list(range(taken[dataset], taken[dataset] + batch))
        assert all(0 <= place < sizes[dataset] for _, place in tiles)
        taken[dataset] += batch


def test_eight_orientations():
    pixels = np.arange(2 * 4 * 4).reshape(2, 4, 4)
    turned = [augment(pixels, which) for which in range(8)]
    np.testing.assert_array_equal(turned[0], pixels)
    assert len({one.tobytes() for one in turned}) == 8
    for one in turned:
        np.testing.assert_array_equal(np.sort(one[0].ravel()), np.arange(16))  # no pixel leaves its band
        np.testing.assert_array_equal(one[1] - one[0], np.full((4, 4), 16))  # bands turn together
    # The eight are a group: turning any of them again gives one of them.
    assert {augment(one, which).tobytes() for one in turned for which in range(8)} == {one.tobytes() for one in turned}


def test_validity_travels_along():
    rng = np.random.default_rng(0)
    pixels, valid = rng.random((3, 8, 8)), rng.random((3, 8, 8)) > 0.4
    pixels[~valid] = -1
    for which in range(8):
        np.testing.assert_array_equal(augment(pixels, which) >= 0, augment(valid, which))


def test_a_share_of_the_steps_is_a_function_of_the_seed_and_the_step():
    """Replay: so many steps take tiles of the source, however many tiles there are."""
    sizes, shares = (1000, 10), (0.75, 0.25)
    short, long = schedule_batches(3, sizes, 4, 10, shares), schedule_batches(3, sizes, 4, 4000, shares)
    assert short.stream_S.tolist() == long.stream_S[:10].tolist()
    assert np.bincount(long.stream_S)[1] / 4000 == pytest.approx(0.25, abs=0.02)
    assert set(schedule_batches(3, sizes, 4, 500, (1.0, 0.0)).stream_S.tolist()) == {0}
    assert (
        schedule_batches(4, sizes, 4, 50, shares).stream_S.tolist()
        != schedule_batches(3, sizes, 4, 50, shares).stream_S.tolist()
    )


def test_a_step_takes_tiles_of_one_size_and_all_are_seen_equally_often():
    sides = [np.array([64] * 30 + [48] * 10), np.full(20, 32)]
    order = schedule_batches(3, (40, 20), 4, 3000, sides=sides)
    seen = [np.zeros(len(one)) for one in sides]
    for step in range(3000):
        stream, tiles = order.tiles(step)
        dataset = order.streams[stream].dataset
        assert len({int(sides[dataset][place]) for _, place in tiles}) == 1
        for _, place in tiles:
            seen[dataset][place] += 1
    for count in (seen[0][:30], seen[0][30:], seen[1]):
        assert abs(count.mean() / 200 - 1) < 0.15
    # Where all tiles of a data set are alike, nothing depends on their size.
    alike = schedule_batches(3, (40, 20), 4, 50, sides=[np.full(40, 64), np.full(20, 32)])
    assert [alike.tiles(step) for step in range(50)] == [
        schedule_batches(3, (40, 20), 4, 50).tiles(step) for step in range(50)
    ]
