"""The texture term against a direct computation."""

import numpy as np
import pytest
import torch
from tiny_models import RECORD, orders, tiles, tiny_mae

from geomae.config import Objective
from geomae.models.band_embedding import band_codes
from geomae.models.contrast import Negatives
from geomae.models.folder import standardise
from geomae.models.masking import Mask
from geomae.models.objective import TrainedModel, kept_weights
from geomae.models.textures import (
    COMPONENTS,
    LARGEST,
    LEVELS,
    PER_SIDE,
    SIDES,
    SOFT,
    STRIDE,
    TextureTargets,
    cut_filters,
)
from geomae.models.trainable import View


def sample(count=6, seed=0):
    pixels, valid = tiles(count, seed=seed)
    return standardise(pixels, valid, RECORD), valid


def targets(seed=0):
    return TextureTargets(*sample(), np.random.default_rng(seed))


def direct(found, pixels, valid):
    """Features of one tile, place by place."""
    C = len(pixels)
    values = [pixels[c][valid[c]] for c in range(C)]
    features = [float(one.mean()) for one in values] + [float(one.std(correction=0)) for one in values]
    features += [float((1 / (1 + ((level - one) / SOFT).exp())).mean()) for level in LEVELS for one in values]
    above, below = {}, {}
    for side in SIDES:
        for k, kernel in enumerate(getattr(found, f"filters_{side}")):
            responses = [
                float((pixels[:, y : y + side, x : x + side] * kernel).sum())
                for y in range(0, pixels.shape[1] - side + 1, STRIDE)
                for x in range(0, pixels.shape[2] - side + 1, STRIDE)
                if bool(valid[:, y : y + side, x : x + side].all())
            ]
            above[side, k] = np.mean([max(one, 0) for one in responses]) ** 0.5
            below[side, k] = np.mean([max(-one, 0) for one in responses]) ** 0.5
    for side in SIDES:
        count = len(getattr(found, f"filters_{side}"))
        features += [above[side, k] for k in range(count)] + [below[side, k] for k in range(count)]
    return np.array(features)


def test_targets_are_their_definition_over_valid_pixels():
    found = targets()
    pixels, valid = sample(seed=1)
    valid = valid.clone()
    valid[1, 0, :5, :4] = False
    pixels = pixels.where(valid, torch.nan)
    wanted = np.stack([direct(found, one, known) for one, known in zip(pixels, valid, strict=True)])
    got, counted = found(pixels, valid)
    assert got.shape == (6, COMPONENTS) and bool(counted.all())
    components = (wanted - found.mean_F.numpy()) @ found.basis_FP.numpy()
    assert np.allclose(got.numpy(), components.clip(-LARGEST, LARGEST), atol=1e-3)


def test_components_of_the_sample_are_of_unit_variance_and_do_not_correlate():
    pixels, valid = sample(count=40)
    found = TextureTargets(pixels, valid, np.random.default_rng(0))
    got, _ = found(pixels, valid)
    used = found.basis_FP.abs().sum(0) > 0
    assert 30 < int(used.sum()) <= 39  # 40 tiles about their mean have 39 directions
    covariance = (got.T @ got / 40)[used][:, used]
    off = covariance - covariance.diagonal().diag()
    assert off.abs().max() < 0.05
    assert covariance.diagonal()[:20].min() > 0.9 and covariance.diagonal().max() < 1.01


def test_filters_are_of_length_one_and_do_not_see_brightness():
    found = targets()
    for side in SIDES:
        filters = getattr(found, f"filters_{side}")
        assert filters.shape[1:] == (4, side, side)
        assert torch.allclose(filters.mean((1, 2, 3)), torch.zeros(len(filters)), atol=1e-6)
        assert torch.allclose(filters.flatten(1).norm(dim=1), torch.ones(len(filters)))
    again, other = targets(), targets(1)
    assert torch.equal(found.filters_3, again.filters_3) and not torch.equal(found.filters_3, other.filters_3)
    assert not found.state_dict()  # a function of seed and tiles: no checkpoint holds it


def test_responses_to_the_imagery_are_of_similar_size_in_all_directions():
    pixels = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(pixels, 3, 1, 1) * 3 + 0.1 * pixels  # neighbours are nearly alike
    patches = smooth.unfold(2, 3, 1).unfold(3, 3, 1).reshape(-1, 9).double()
    patches -= patches.mean(1, keepdim=True)
    filters = cut_filters(smooth, torch.ones_like(smooth, dtype=torch.bool), 3, np.random.default_rng(0))
    variance = torch.linalg.eigvalsh(patches.T @ patches / len(patches))[1:]  # the first is that of the mean
    found = torch.linalg.eigvalsh((filters.flatten(1).T @ filters.flatten(1)).double() / PER_SIDE)[1:]
    assert variance[-1] / variance[0] > 10  # few directions hold most of it, and filters look along the others
    slopes = torch.linalg.eigh(patches.T @ patches / len(patches))[1][:, 1:]
    along = (filters.flatten(1).double() @ slopes).square().mean(0)
    assert along[0] > along[-1] and found.min() > 0


def test_filters_are_cut_where_pixels_are_valid():
    pixels, valid = sample()
    valid = valid.clone()
    valid[:, :, :, 8:] = False
    spoilt = pixels.where(valid, 1e6)
    filters = cut_filters(spoilt, valid, 3, np.random.default_rng(0))
    assert torch.equal(filters, cut_filters(pixels, valid, 3, np.random.default_rng(0)))


def test_flat_imagery_has_filters_too():
    found = TextureTargets(
        torch.zeros(2, 4, 16, 16), torch.ones(2, 4, 16, 16, dtype=torch.bool), np.random.default_rng(0)
    )
    assert torch.isfinite(found.filters_5).all() and torch.isfinite(found.basis_FP).all()


def test_tiles_that_filters_do_not_fit_into_have_those_that_do():
    pixels, valid = sample()
    found = TextureTargets(pixels[..., :4, :4], valid[..., :4, :4], np.random.default_rng(0))
    assert found.sides == [3]
    got, counted = found(pixels[..., :4, :4], valid[..., :4, :4])
    assert bool(counted.all()) and torch.isfinite(got).all() and got.any()


def test_a_tile_without_room_for_a_filter_does_not_count():
    found = targets()
    pixels, valid = sample()
    valid = valid.clone()
    valid[2, 1] = False
    got, counted = found(pixels, valid)
    assert counted.tolist() == [True, True, False, True, True, True] and not got[2].any()


@pytest.fixture
def view():
    pixels, valid = sample()
    valid = valid.clone()
    valid[0, :, :4, :4] = False
    return View(pixels, valid, band_codes(RECORD.bands), Mask(orders(6, 12), 6), dataset=1)


def model():
    torch.manual_seed(0)
    return TrainedModel(tiny_mae("spectral"), Objective(pixels=1, textures=1), [targets(1), targets()]).train()


def test_the_term_is_the_mean_squared_error_of_its_head(view):
    one = model()
    found = one(view)
    wanted, _ = one.targets[1](view.pixels_BCHW, view.valid_BCHW)
    predicted = one.textures(found.pooled_BD, torch.ones(6, dtype=torch.long))
    assert torch.allclose(found.by_term["textures"].sum_B, (predicted - wanted).square().mean(1))
    assert int(found.by_term["textures"].count_B.sum()) == 6 and "contrast" not in found.by_term
    assert "textures" not in one.eval()(view).by_term  # held-out tiles are scored by the other terms
    assert set(kept_weights(one.state_dict())) == set(one.kept.state_dict())


@pytest.mark.parametrize("dataset", [0, 1])
def test_where_a_tile_has_a_partner_that_is_what_is_predicted(view, dataset):
    one = model()
    pixels, valid = sample(seed=5)
    second = View(pixels, valid, view.codes_CF, view.mask, dataset=dataset)
    every = torch.ones(6, dtype=torch.bool)
    partner = torch.tensor([True, False, True, False, False, True])
    found = one(view, second, Negatives(~torch.eye(6, dtype=torch.bool), every, partner))
    own, _ = one.targets[1](view.pixels_BCHW, view.valid_BCHW)
    other, _ = one.targets[dataset](pixels, valid)
    wanted = torch.where(partner[:, None], other, own)
    predicted = one.textures(found.pooled_BD, torch.where(partner, dataset, 1))
    assert torch.allclose(found.by_term["textures"].sum_B, (predicted - wanted).square().mean(1))


def test_invalid_pixels_influence_nothing(view):
    grads, losses = [], []
    for value in (0.0, torch.nan, 1e30):
        one = model()
        found = one(view._replace(pixels_BCHW=view.pixels_BCHW.where(view.valid_BCHW, value)))
        found.by_term["textures"].sum_B.sum().backward()
        losses.append(found.by_term["textures"].sum_B.tolist())
        grads.append([p.grad for p in one.kept.encoder.parameters() if p.grad is not None])
    assert losses[0] == losses[1] == losses[2] and grads[0]
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other, strict=True))
