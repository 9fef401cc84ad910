"""Validation: errors per band in physical units, the same for any share of the batches, next to the baselines.

B tiles, C bands, N patches
"""

import pytest
import torch
from tiny_models import RECORD, SIDE, TARGETS, orders, tiles, tiny_mae

from geomae.models.masking import Mask
from geomae.models.patches import unpatchify
from geomae.tiles.batches import Batch
from geomae.training.validation import ValidationScores, evaluate

STD = torch.tensor(RECORD.std_C)[:, None, None]
VISIBLE = 3


def batch_of(count, seed, gaps=0.2):
    pixels, valid = tiles(count, seed=seed, gaps=gaps)
    pixels = pixels.masked_fill(~valid, torch.nan)
    names = tuple(f"{seed}:{i}" for i in range(count))
    return Batch(0, names, pixels, valid, Mask(orders(count, 12, seed), VISIBLE), torch.zeros(count))


def hidden_pixels(batch):
    """Where pixels are hidden and valid: (B, C, H, W)."""
    shown = torch.zeros(len(batch.tile_ids), 12, dtype=torch.bool).scatter(1, batch.mask.seen_BV, True)
    return unpatchify(~shown[:, :, None, None].expand(-1, -1, 1, SIDE**2), 4, 3) & batch.valid_BCHW


def score(mae, batches, predict=None, reduce=lambda values: values, baselines=True):
    return evaluate(predict or mae.predict, mae, RECORD, batches, reduce, baselines=baselines)


def test_errors_are_root_mean_squares_in_the_unit_of_the_data():
    """A prediction that is one standard deviation off in each band is off by that deviation in reflectance."""
    mae, batches = tiny_mae(), [(batch_of(3, 0), True), (batch_of(2, 1), True)]

    def off_by_one(patches, shown, codes, mask, wanted, shape, gsd_m):
        truth = torch.stack([tile[places] for tile, places in zip(patches, wanted, strict=True)])
        return truth + 1

    scores = score(mae, batches, off_by_one)
    assert scores.rmse["model"] == pytest.approx(RECORD.std_C, rel=1e-5)
    assert scores.loss == pytest.approx(1, rel=1e-5)
    assert (scores.tiles, scores.bands) == (5, ("B02", "B04", "B8A", "B11"))
    assert scores.mean("model") == pytest.approx(sum(RECORD.std_C) / 4, rel=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_only_hidden_valid_pixels_count(target):
    mae, one = tiny_mae("stacked", target), batch_of(3, 0)
    scores = score(mae, [(one, True)])
    zero = score(mae, [(one, True)], lambda patches, *rest: torch.zeros_like(patches[:, : 12 - VISIBLE]))
    if target == "none":  # zeros are the mean of the band: the error is that of the mean
        mean = torch.tensor(RECORD.mean_C)[:, None, None]
        chosen = hidden_pixels(one)
        for c in range(4):
            expected = (one.pixels_BCHW - mean)[:, c][chosen[:, c]].square().mean().sqrt()
            assert zero.rmse["model"][c] == pytest.approx(float(expected), rel=1e-5)
    assert scores.rmse["model"] != zero.rmse["model"]
    assert scores.rmse["baseline:mean"] == zero.rmse["baseline:mean"]
    assert all(value > 0 for values in scores.rmse.values() for value in values)


def test_any_share_of_the_batches_adds_to_the_same_scores():
    mae = tiny_mae()
    batches = [(batch_of(3, 0), True), (batch_of(2, 1), True), (batch_of(4, 2), True)]
    whole = score(mae, batches)
    sums = []

    def keep(values):
        sums.append(values)
        return values

    score(mae, [batches[0], (batch_of(3, 0), False)], reduce=keep)  # a repeated batch does not count
    score(mae, batches[1:], reduce=keep)
    added = iter([sums[0] + sums[2], sums[1] + sums[3]])
    together = score(mae, batches[:1], reduce=lambda values: next(added))
    assert together.tiles == whole.tiles == 9
    assert together.loss == pytest.approx(whole.loss, rel=1e-6)
    for name, values in whole.rmse.items():
        assert together.rmse[name] == pytest.approx(values, rel=1e-6), name


def test_the_mean_of_the_visible_pixels_beside_a_loop():
    mae, one = tiny_mae(), batch_of(2, 0)
    scores = score(mae, [(one, True)])
    chosen = hidden_pixels(one)
    shown = one.valid_BCHW & ~chosen
    for c in range(4):
        errors = []
        for b in range(2):
            mean = one.pixels_BCHW[b, c][shown[b, c]].mean()
            errors.append((one.pixels_BCHW[b, c][chosen[b, c]] - mean).square())
        expected = torch.cat(errors).mean().sqrt()
        assert scores.rmse["baseline:mean"][c] == pytest.approx(float(expected), rel=1e-4)


def test_metrics_are_flat_figures():
    scores = ValidationScores(0.5, 3, ("red", "nir"), {"model": (0.1, 0.3), "baseline:mean": (0.2, 0.6)})
    assert scores.metrics("hls") == pytest.approx(
        {
            "loss/hls": 0.5,
            "rmse/model/hls/red": 0.1,
            "rmse/model/hls/nir": 0.3,
            "rmse/model/hls/mean": 0.2,
            "rmse/baseline:mean/hls/red": 0.2,
            "rmse/baseline:mean/hls/nir": 0.6,
            "rmse/baseline:mean/hls/mean": 0.4,
            "ratio/baseline:mean/hls": 0.5,
        }
    )
