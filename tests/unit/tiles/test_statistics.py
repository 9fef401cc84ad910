"""Statistics from the figures of tiles that lie in a file, and the cache of these."""

import numpy as np
import pytest
from helpers import changed_catalog, survey_columns, write_catalog, write_scenes

from geomae.catalog import open_catalog
from geomae.files import cache_folder
from geomae.rasters.figure_rows import as_rows
from geomae.tiles import statistics
from geomae.tiles.index import build_index
from geomae.tiles.statistics import Survey, merge_moments


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / "cache"))


def made_survey(tiles, bands):
    rng = np.random.default_rng(tiles)
    kept = Survey.empty(tiles, bands, "made", with_pixels=False)
    count_TC = rng.integers(0, 256, (tiles, bands)).astype(np.int32)
    mean_TC, squares_TC = rng.normal(0.2, 0.1, (2, tiles, bands))
    low_TC, high_TC = rng.normal(0, 1, (2, tiles, bands)).astype(np.float32)
    kept.rows.put(np.arange(tiles), as_rows([count_TC, mean_TC, squares_TC, low_TC, high_TC]))
    return kept, (count_TC, mean_TC, squares_TC), (low_TC, high_TC)


@pytest.mark.parametrize("bands", [1, 2, 3, 12])
@pytest.mark.parametrize("chosen", ["all", "some", "shuffled"])
def test_statistics_in_pieces_are_to_the_bit_those_at_once(monkeypatch, bands, chosen):
    monkeypatch.setattr(statistics, "ROWS_AT_ONCE", 1000)
    kept, moments, (low_TC, high_TC) = made_survey(30_011, bands)
    positions = np.arange(len(kept))
    if chosen != "all":
        positions = np.flatnonzero(np.random.default_rng(1).random(len(kept)) < 0.6)
    if chosen == "shuffled":
        positions = np.random.default_rng(2).permutation(positions)
    count_C, mean_C, variance_C = merge_moments(*(one[positions] for one in moments))
    for found in (
        kept.statistics([f"b{n}" for n in range(bands)], positions),
        kept.take(positions).statistics([f"b{n}" for n in range(bands)], np.arange(len(positions))),
    ):
        assert (found.count_C == count_C).all()
        assert (found.mean_C == mean_C).all()
        assert (found.std_C == np.sqrt(variance_C)).all()
        assert (found.min_C == low_TC[positions].min(0)).all()
        assert (found.max_C == high_TC[positions].max(0)).all()


def test_a_choice_of_a_choice_has_the_figures_of_its_tiles():
    kept, _, _ = made_survey(300, 2)
    once, then = np.arange(0, 300, 3), np.array([70, 2, 41])
    taken = kept.take(once).take(then)
    for mine, other in zip(survey_columns(taken), survey_columns(kept), strict=True):
        np.testing.assert_array_equal(mine, other[once[then]])


@pytest.mark.parametrize("harm", ["cut", "changed", "longer"])
def test_a_damaged_survey_is_measured_again(tmp_path, monkeypatch, harm):
    write_scenes(tmp_path / "scenes", scenes=1, side=48)
    write_catalog(tmp_path, changed_catalog("tile: {size: 16}", "tile: {size: 16, stride: 8}"))

    def columns():
        return survey_columns(build_index(open_catalog(tmp_path / "data_catalog.yaml"), "tiny").survey)

    once = columns()
    (stored,) = (cache_folder() / "survey").iterdir()
    content = bytearray(stored.read_bytes())
    if harm == "changed":
        content[40] ^= 1
    stored.write_bytes(content[:-9] if harm == "cut" else content + b"1" * (harm == "longer"))
    for mine, other in zip(once, columns(), strict=True):
        np.testing.assert_array_equal(mine, other)
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "read", None)  # stored again, and read from there
        columns()
