"""Figures of tiles in a mapped file: what is written is read, by threads and through any opening."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from geomae.rasters import figure_rows
from geomae.rasters.figure_rows import FIGURES, FigureRows, Scratch, as_rows, row_type


def random_rows(tiles, bands, seed=0):
    rng = np.random.default_rng(seed)
    return as_rows([rng.integers(1, 99, (tiles, bands)).astype(kind) for kind in FIGURES.values()])


def same(one, other):
    return all((one[name] == other[name]).all() for name in FIGURES)


@pytest.mark.parametrize("bands", [1, 3])
def test_rows_of_several_reservations_are_kept_apart(bands):
    scratch = Scratch()
    written = {tiles: random_rows(tiles, bands, tiles) for tiles in (1, 700, 0, 5000)}
    room = {tiles: scratch.reserve(tiles, bands) for tiles in written}
    for tiles, rows in room.items():
        order_T = np.random.default_rng(1).permutation(tiles)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda some, rows=rows, tiles=tiles: rows.put(some, written[tiles][some]),
                          np.array_split(order_T, 9)))  # fmt: skip
    for tiles, rows in room.items():
        some_U = np.random.default_rng(2).integers(0, max(tiles, 1), min(tiles, 50))
        assert same(rows.take(some_U), written[tiles][some_U])
        assert same(rows.open(tiles // 3, tiles), written[tiles][tiles // 3 :])


def test_rows_that_were_copied_do_not_change_and_rows_that_are_open_do():
    rows = Scratch().reserve(10, 2)
    copied, opened = rows.take(np.arange(3)), rows.open(0, 3)
    rows.put(np.arange(10), random_rows(10, 2))
    assert not copied["count"].any()
    assert same(opened, random_rows(10, 2)[:3])


def test_without_room_on_the_disk_rows_are_in_memory(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure_rows, "_unnamed", full)
    rows = Scratch().reserve(100, 2)
    rows.put(np.arange(100), random_rows(100, 2))
    assert same(rows.take(np.array([7, 3])), random_rows(100, 2)[[7, 3]])


def test_a_row_takes_28_bytes_of_each_band():
    assert row_type(12).itemsize == 28 * 12
    assert FigureRows(0, 12).take(np.zeros(0, dtype=np.int64)).shape == (0,)
