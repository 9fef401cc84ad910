"""What is not valid has no influence: neither on the loss nor on a gradient, not by a bit."""

import contextlib

import pytest
import torch
from tiny_models import ONE_TOKEN, RECORD, SIDE, TARGETS, orders, tiles, tiny_mae, tiny_model

from geomae.models.band_embedding import band_codes
from geomae.models.folder import standardise, to_physical
from geomae.models.masking import Mask
from geomae.models.patches import patchify, take

CODES = band_codes(RECORD.bands)
FILLS = (torch.nan, torch.inf, -torch.inf, 1e30)


def loss_and_gradients(mae, pixels_BCHW, valid_BCHW, precision):
    """The loss per tile and the gradient of every parameter, through the same calls as a training step."""
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    with autocast:
        loss = mae(standardise(pixels_BCHW, valid_BCHW, RECORD), valid_BCHW, CODES, Mask(orders(2, 12), 4))
        gradients = torch.autograd.grad(loss.sum_B.sum() / loss.count_B.sum(), list(mae.parameters()))
    return [loss.sum_B, loss.count_B, *gradients]


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("embedding", (*ONE_TOKEN, "cae"))
def test_invalid_pixels_change_neither_loss_nor_gradient_by_a_bit(embedding, target, precision):
    mae = tiny_mae(embedding, target)
    pixels, valid = tiles(gaps=0.1)
    valid[0, 1, :SIDE, :SIDE] = False  # a band that a whole patch lacks
    valid[1, :, SIDE : 2 * SIDE, :SIDE] = False  # a patch that lacks all
    clean = loss_and_gradients(mae, pixels, valid, precision)
    assert all(torch.isfinite(one).all() for one in clean)
    for fill in FILLS:
        found = loss_and_gradients(mae, pixels.masked_fill(~valid, fill), valid, precision)
        assert all(torch.equal(a, b) for a, b in zip(clean, found, strict=True)), fill
    # The comparison sees a pixel where it is valid:
    moved = loss_and_gradients(mae, torch.where(valid, pixels + 0.01, pixels), valid, precision)
    assert not torch.equal(clean[0], moved[0])


@pytest.mark.parametrize("embedding", (*ONE_TOKEN, "cae"))
def test_the_model_itself_ignores_invalid_pixels_that_were_not_standardised(embedding):
    mae = tiny_mae(embedding, "patch-band")
    pixels, valid = tiles(gaps=0.2)
    results = [
        mae(pixels.masked_fill(~valid, fill), valid, CODES, Mask(orders(2, 12), 4)).sum_B for fill in (0.0, *FILLS)
    ]
    assert all(torch.equal(results[0], one) for one in results)


@pytest.mark.parametrize("target", TARGETS)
def test_reconstructions_ignore_invalid_pixels(target):
    model, (pixels, valid) = tiny_model("spectral", target), tiles(gaps=0.2)
    clean = model.reconstruct(pixels, valid)
    for fill in FILLS:
        found = model.reconstruct(pixels.masked_fill(~valid, fill), valid)
        assert all(torch.equal(a, b) for a, b in zip(clean, found, strict=True))
    # Without `valid`, what is not finite counts as invalid.
    assert torch.equal(model.reconstruct(pixels.masked_fill(~valid, torch.nan))[1], clean[1])


@pytest.mark.parametrize("target", TARGETS)
def test_sums_and_counts_add_over_tiles(target):
    mae = tiny_mae("spectral", target)
    pixels, valid = tiles(3, gaps=0.3)
    order = orders(3, 12)
    whole = mae(standardise(pixels, valid, RECORD), valid, CODES, Mask(order, 4))
    single = [
        mae(standardise(pixels[[i]], valid[[i]], RECORD), valid[[i]], CODES, Mask(order[[i]], 4))
        for i in range(len(pixels))
    ]
    torch.testing.assert_close(whole.sum_B, torch.cat([one.sum_B for one in single]), rtol=1e-5, atol=1e-5)
    assert torch.equal(whole.count_B, torch.cat([one.count_B for one in single]))
    assert torch.equal(whole.count_B, take(patchify(valid, SIDE), order[:, 4:]).sum((1, 2, 3)))
    assert len(set(whole.count_B.tolist())) == 3  # gaps differ, so that a mean of means would be another number
    torch.testing.assert_close(whole.mean(), sum(one.sum_B.sum() for one in single) / whole.count_B.sum())


def test_gradients_of_passes_add_to_that_of_the_batch():
    mae = tiny_mae("stacked", "patch")
    pixels, valid = tiles(4, gaps=0.3)
    inputs, order = standardise(pixels, valid, RECORD), orders(4, 12)

    def gradients(rows, count):
        loss = mae(inputs[rows], valid[rows], CODES, Mask(order[rows], 4))
        return torch.autograd.grad(loss.sum_B.sum() / count, list(mae.parameters()))

    count = mae(inputs, valid, CODES, Mask(order, 4)).count_B.sum()
    whole = gradients(slice(None), count)
    parts = [gradients(slice(start, start + 2), count) for start in (0, 2)]
    for all_at_once, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(all_at_once, first + second, rtol=1e-4, atol=1e-6)


def test_nothing_valid_and_hidden_is_a_loss_of_zero_with_zero_gradient():
    mae = tiny_mae()
    pixels, valid = tiles()
    found = loss_and_gradients(mae, pixels, torch.zeros_like(valid), "32")
    assert all(torch.isfinite(one).all() for one in found[:2])
    assert mae(pixels, torch.zeros_like(valid), CODES, Mask(orders(2, 12), 4)).mean() == 0


def test_standardise_and_its_inverse():
    pixels, valid = tiles(gaps=0.2)
    inputs = standardise(pixels.masked_fill(~valid, torch.nan), valid, RECORD)
    assert inputs.dtype == torch.float32
    assert (inputs[~valid] == 0).all()
    for c, (mean, std) in enumerate(zip(RECORD.mean_C, RECORD.std_C, strict=True)):
        expected = (pixels[:, c] - mean) / std
        torch.testing.assert_close(inputs[:, c][valid[:, c]], expected[valid[:, c]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(to_physical(inputs, RECORD)[valid], pixels[valid], rtol=1e-5, atol=1e-6)
