"""The contrast term against a direct computation, over ranks, and what must not influence it."""

import math

import pytest
import torch
from tiny_models import RECORD, orders, tiles, tiny_mae

from geomae.config import Objective
from geomae.models.band_embedding import band_codes
from geomae.models.contrast import PROJECTED, Negatives, Projection, contrast, pool_visible
from geomae.models.folder import standardise
from geomae.models.masking import Mask
from geomae.models.objective import TrainedModel, kept_weights
from geomae.models.trainable import View


def alone(rows):
    return rows


def unit(count, seed):
    values = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values / values.norm(dim=1, keepdim=True)


def direct(first, second, negative, counted, temperature):
    """The definition, one tile at a time: -log of the share of the own pair, in both directions."""
    losses = []
    for i in range(len(first)):
        total = 0.0
        for one, other in ((first, second), (second, first)):
            own = math.exp(float(one[i] @ other[i]) / temperature)
            negatives = sum(
                math.exp(float(one[i] @ view[j]) / temperature)
                for view in (one, other)
                for j in range(len(first))
                if j != i and negative[i][j] and counted[j]
            )
            total -= math.log(own / (own + negatives)) / 2
        losses.append(total if counted[i] else 0.0)
    return losses


def some_negatives(count, start=0, rows=None):
    negative = torch.ones(count, count, dtype=torch.bool).fill_diagonal_(False)
    negative[1, 3] = negative[3, 1] = False  # of the same ground
    counted = torch.tensor([i != 4 for i in range(count)])
    rows = rows or slice(0, count)
    return Negatives(negative[rows], counted[rows], counted[rows], start)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_it_is_the_definition(temperature):
    first, second, negatives = unit(6, 0), unit(6, 1), some_negatives(6)
    found = contrast(first, second, negatives, temperature, alone)
    wanted = direct(first, second, negatives.negative_BG, negatives.counted_B, temperature)
    assert found.tolist() == pytest.approx(wanted, rel=1e-9)
    assert found[4] == 0 and min(found[:4]) > 0


def test_ranks_together_give_the_losses_and_gradients_of_one():
    first, second = unit(6, 0).requires_grad_(), unit(6, 1).requires_grad_()
    whole = contrast(first, second, some_negatives(6), 0.2, alone)
    whole.sum().backward()
    wanted = first.grad.clone(), second.grad.clone()
    first.grad = second.grad = None
    counted = some_negatives(6).counted_B[:, None].to(first)
    parts = []
    for rank in range(2):
        rows = slice(3 * rank, 3 * rank + 3)

        def gather(mine, rows=rows):
            return next(
                one
                for one in (first, second, counted)
                if mine.shape[1] == one.shape[1] and torch.equal(mine, one[rows])
            )

        parts.append(contrast(first[rows], second[rows], some_negatives(6, 3 * rank, rows), 0.2, gather))
    together = torch.cat(parts)
    assert together.tolist() == pytest.approx(whole.tolist(), rel=1e-12)
    together.sum().backward()
    assert torch.allclose(first.grad, wanted[0]) and torch.allclose(second.grad, wanted[1])


def test_tiles_of_the_same_ground_and_uncounted_ones_do_not_push():
    first, second = unit(6, 0), unit(6, 1).requires_grad_()
    contrast(first, second, some_negatives(6), 0.2, alone)[1].backward()
    touched = second.grad.abs().sum(1) > 0  # by its own pair, and as a negative
    assert touched.tolist() == [True, True, True, False, False, True]


def test_a_tile_without_negatives_costs_nothing():
    every = torch.ones(3, dtype=torch.bool)
    none = Negatives(torch.zeros(3, 3, dtype=torch.bool), every, every)
    assert contrast(unit(3, 0), unit(3, 1), none, 0.1, alone).tolist() == [0, 0, 0]


def test_the_projection_gives_vectors_of_length_one():
    found = Projection(24)(torch.randn(5, 24))
    assert found.shape == (5, PROJECTED) and torch.allclose(found.norm(dim=1), torch.ones(5))


def test_the_class_token_is_not_pooled():
    tokens = torch.zeros(2, 4, 3)
    tokens[:, 0] = torch.nan
    assert torch.equal(pool_visible(tokens), torch.zeros(2, 3))


@pytest.fixture
def views():
    """Two views of two tiles, one with invalid pixels, and what tells them apart."""
    pixels, valid = tiles()
    valid = valid.clone()
    valid[0, :, :4, :4] = False
    inputs, codes = standardise(pixels, valid, RECORD), band_codes(RECORD.bands)
    first = View(inputs, valid, codes, Mask(orders(2, 12), 6))
    second = View(inputs.flip(-1), valid.flip(-1), codes, Mask(orders(2, 12, 1), 6))
    every = torch.ones(2, dtype=torch.bool)
    return first, second, Negatives(~torch.eye(2, dtype=torch.bool), every, torch.tensor([True, False]))


def model(**weights):
    torch.manual_seed(0)
    return TrainedModel(tiny_mae("spectral"), Objective(**weights))


def test_terms_are_those_with_a_weight_and_pixels_are_the_masked_autoencoder(views):
    first, second, negatives = views
    both = model(pixels=1, places=0.5, contrast=0.1)
    found = both(first, second, negatives).by_term
    plain = both.kept(first.pixels_BCHW, first.valid_BCHW, first.codes_CF, first.mask)
    assert torch.equal(found["pixels"].sum_B, plain.sum_B) and torch.equal(found["pixels"].count_B, plain.count_B)
    assert found["places"].sum_B[0] > 0 == found["places"].sum_B[1] and found["places"].count_B.tolist() == [1, 0]
    assert found["contrast"].sum_B[1] > 0 == found["contrast"].sum_B[0] and found["contrast"].count_B.tolist() == [0, 1]
    assert set(model(pixels=1)(first).by_term) == {"pixels"}
    assert set(model(pixels=0, contrast=1)(first, second, negatives).by_term) == {"contrast"}


def test_invalid_pixels_influence_neither_losses_nor_gradients(views):
    first, second, negatives = views
    grads, losses = [], []
    for value in (0.0, torch.nan):
        one = model(pixels=1, contrast=1)
        changed = [
            view._replace(pixels_BCHW=view.pixels_BCHW.where(view.valid_BCHW, value)) for view in (first, second)
        ]
        found = one(*changed, negatives).by_term
        (found["pixels"].sum_B.sum() + found["contrast"].sum_B.sum()).backward()
        losses.append([*found["pixels"].sum_B.tolist(), *found["contrast"].sum_B.tolist()])
        grads.append([p.grad for p in one.parameters()])
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_beside_other_terms_pixels_do_not_teach_the_first_half_of_the_encoder(views):
    first, second, negatives = views
    one = model(pixels=1, contrast=1)
    one(first, second, negatives).by_term["pixels"].sum_B.sum().backward()
    taught = {name for name, value in one.kept.named_parameters() if value.grad is not None and value.grad.any()}
    assert taught and all(
        name.startswith(("encoder.norm", "decoder")) for name in taught
    )  # its one block is the middle
    alone = model(pixels=1)
    alone(first).by_term["pixels"].sum_B.sum().backward()
    assert all(value.grad is not None for value in alone.kept.parameters())


def test_the_projection_is_thrown_away():
    one = model(pixels=1, contrast=1)
    kept = kept_weights(one.state_dict())
    assert set(kept) == set(one.kept.state_dict())
    assert any(name.startswith("projection.") for name in one.state_dict())


def test_an_objective_without_weight_is_refused():
    with pytest.raises(ValueError, match="give one of them a weight"):
        Objective(pixels=0)
