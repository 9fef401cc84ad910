"""Rows of a comparison, its cover of scenes and its anomalies.

T tiles, C bands, H W pixels
"""

import csv

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from geomae.evaluation.reconstruction_comparison import COLUMNS, DIFFERENCE_COLUMNS, TileTable, rows
from geomae.evaluation.reconstruction_maps import UsualErrors
from geomae.evaluation.reconstruction_masks import masked_windows, starts, to_pixels
from geomae.metrics.reconstruction import ErrorSums
from geomae.sensors import sensor

BANDS = tuple(sensor("naip").bands)[:2]
ABOUT = {"masking": "random", "mask_ratio": 0.75, "pixels": "masked"}


def tiles(groups, count=24):
    group = np.array([f"g{number % groups:02d}" for number in range(count)], dtype=object)
    domain = np.array(["dry" if number % groups < groups // 2 else "wet" for number in range(count)], dtype=object)
    split = np.array(["test"] * count, dtype=object)
    return TileTable("data", split, domain, group, BANDS, "reflectance", np.array([1.0, 2.0]))


def sums(seed, level, count=24):
    """Sums as of 100 pixels a tile with an error near `level`."""
    error = np.random.default_rng(seed).normal(level, 0.02, (count, 2))
    hundred, one = np.full((count, 2), 100.0), np.full((count, 1), 100.0)
    nothing = np.zeros((count, 0))
    per_band = (hundred, 100 * error, 100 * abs(error), 100 * error**2, hundred, hundred / 2, hundred)
    return ErrorSums(*per_band, one, one, *([nothing] * 4))


def find(table, **fixed):
    (row,) = [row for row in table if all(row[key] == value for key, value in fixed.items())]
    return row


def test_rows_have_the_columns_of_the_contract():
    values, differences = rows(tiles(12), {"a": sums(0, 0.2), "b": sums(1, 0.3)}, ABOUT, 0)
    assert {tuple(row) for row in values} == {tuple(values[0])}
    assert set(values[0]) == set(COLUMNS)
    assert all(set(row) == set(DIFFERENCE_COLUMNS) for row in differences)
    assert {row["domain"] for row in values} == {"all", "dry", "wet"}
    assert {row["metric"] for row in values} >= {"rmse", "mae", "bias", "psnr", "ssim", "spectral_angle", "ergas"}
    assert find(values, model="a", domain="all", metric="psnr", band="all")["unit"] == "dB"


def test_ten_groups_carry_intervals_and_paired_ones_are_narrower():
    values, differences = rows(tiles(12), {"a": sums(0, 0.2), "b": sums(0, 0.21)}, ABOUT, 0)
    mine = find(values, model="b", domain="all", metric="rmse", band="all")
    assert mine["low"] < mine["value"] < mine["high"]
    assert (mine["n_tiles"], mine["n_groups"]) == (24, 12)
    apart = find(differences, model="b", domain="all", metric="rmse", band="all")
    assert apart["reference"] == "a" and apart["group"] == "all"
    assert 0 < apart["low"] <= apart["difference"] <= apart["high"]
    assert apart["high"] - apart["low"] < (mine["high"] - mine["low"]) / 5
    half = find(values, model="b", domain="dry", metric="rmse", band="all")
    assert half["low"] is None and half["n_groups"] == 6


def test_few_groups_are_compared_one_by_one():
    values, differences = rows(tiles(4), {"a": sums(0, 0.2), "b": sums(1, 0.3)}, ABOUT, 0)
    assert all(row["low"] is None and row["high"] is None for row in values + differences)
    mine = [row for row in differences if (row["metric"], row["domain"]) == ("rmse", "all") and row["band"] == "all"]
    assert [row["group"] for row in mine] == ["all", "g00", "g01", "g02", "g03"]
    assert all(row["difference"] == pytest.approx(0.1, abs=0.03) for row in mine)


def test_windows_cover_a_length_and_end_with_it():
    assert starts(64, 64) == [0]
    assert starts(150, 64) == [0, 64, 86]
    assert starts(128, 64) == [0, 64]


@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.2])
def test_every_pixel_of_a_scene_is_taken_once_while_hidden(ratio):
    valid = np.ones((2, 40, 51), dtype=bool)
    valid[:, :16, :16] = False  # nothing to see: this window is left out
    taken = np.zeros((40, 51), dtype=int)
    for row, done in ((0, 0), (16, 0), (24, 8)):
        for look in masked_windows(valid[:, row : row + 16], 4, ratio, 0, "scene", row, done):
            taken[row : row + 16, look.col : look.col + 16] += look.taken_HW
            assert not (to_pixels(look.visible_N, 16, 16, 4) & look.taken_HW).any()
    assert (taken[:16, :16] == 0).all()
    assert (np.delete(taken.ravel(), np.flatnonzero(~valid[0].ravel())) == 1).all()


def test_nothing_is_predicted_from_what_is_mostly_invalid():
    valid = np.zeros((2, 16, 16), dtype=bool)
    valid[:, :4, :4] = True  # one cell of sixteen
    assert not list(masked_windows(valid, 4, 0.75, 0, "scene", 0, 0))


def test_usual_errors_are_the_same_from_parts():
    error_SC = np.random.default_rng(0).normal(3, 2, (500, 3)) @ np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 0.1]])
    parts = UsualErrors.none(3)
    for part_SC in np.split(error_SC, [0, 7, 300]):
        parts = parts.joined(part_SC)
    assert parts.pixels == 500
    np.testing.assert_allclose(parts.mean_C, error_SC.mean(0))
    np.testing.assert_allclose(parts.scatter_CC / 500, np.cov(error_SC.T, bias=True))


def test_anomalies_are_standardised_and_find_spectra_from_elsewhere():
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 5.0]])
    usual = UsualErrors.none(3).joined(rng.normal(size=(5000, 3)) @ mixing + [1, 2, 3])
    error = np.moveaxis(rng.normal(size=(30, 30, 3)) @ mixing + [1, 2, 3], -1, 0)
    anomaly = usual.anomaly(error)
    assert anomaly.shape == (4, 30, 30) and anomaly.dtype == np.float32
    assert np.abs(anomaly[1:].mean((1, 2))).max() < 0.1
    np.testing.assert_allclose(anomaly[1:].std((1, 2)), 1, atol=0.1)
    assert np.sqrt((anomaly[0] ** 2).mean()) == pytest.approx(1, abs=0.05)
    error[:, 10:15, 10:15] += np.array([1.0, -1.0, 0.0])[:, None, None]  # against how the bands usually go together
    elsewhere = np.zeros((30, 30), dtype=bool)
    elsewhere[10:15, 10:15] = True
    assert roc_auc_score(elsewhere.ravel(), usual.anomaly(error)[0].ravel()) > 0.95
    error[1, 0, 0] = np.nan
    assert np.isnan(usual.anomaly(error)[[0, 2], 0, 0]).all()


def test_a_band_whose_error_never_varies_does_not_break_the_distance():
    usual = UsualErrors.none(2).joined(np.array([[0.0, 1.0], [0.0, -1.0]]))
    assert np.isfinite(usual.anomaly(np.zeros((2, 3, 3)))).all()


def test_rows_go_to_csv_and_unknown_is_empty(tmp_path):
    from geomae.files import write_csv

    values, _ = rows(tiles(4), {"a": sums(0, 0.2)}, ABOUT, 0)
    write_csv(tmp_path / "r.csv", COLUMNS, values)
    with (tmp_path / "r.csv").open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(values)
    assert read[0]["low"] == "" and float(read[0]["value"]) == values[0]["value"]
