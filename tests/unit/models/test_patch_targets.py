"""Targets that are normalised per patch: statistics over valid pixels, their exact inverse, and honest estimates."""

import numpy as np
import pytest
import torch
from tiny_models import tiles, tiny_model

from geomae.models.folder import regular_quarter
from geomae.models.patches import (
    PatchStatistics,
    context_statistics,
    estimate_hidden,
    grid,
    normalise,
    patch_statistics,
    patchify,
    restore,
)

# B batch, N patches, C bands, P pixels of a patch in one band


@pytest.fixture
def parts():
    rng = torch.Generator().manual_seed(0)
    patches = 3 + 2 * torch.randn(2, 6, 3, 16, generator=rng, dtype=torch.float64)
    valid = torch.rand(patches.shape, generator=rng) > 0.3
    valid[0, 2, 1] = False  # a band without a pixel in one patch
    valid[1, 3] = False  # a patch without any
    valid[1, 4, 0] = torch.arange(16) == 5  # one pixel alone
    return patches, valid


@pytest.mark.parametrize("target", ["patch", "patch-band"])
def test_statistics_are_those_of_the_valid_pixels(parts, target):
    patches, valid = parts
    found = patch_statistics(patches.masked_fill(~valid, torch.nan), valid, target)
    groups = 1 if target == "patch" else 3
    assert found.mean.shape == found.variance.shape == (2, 6, groups, 1)
    for b, n in np.ndindex(2, 6):
        for g in range(groups):
            bands = slice(None) if target == "patch" else g
            values = patches[b, n, bands][valid[b, n, bands]].numpy()
            mean = values.mean() if len(values) else 0
            variance = values.var(ddof=1) if len(values) > 1 else 0
            assert float(found.mean[b, n, g, 0]) == pytest.approx(mean, abs=1e-12)
            assert float(found.variance[b, n, g, 0]) == pytest.approx(variance, abs=1e-12)


def test_without_normalisation_there_are_none(parts):
    patches, valid = parts
    assert patch_statistics(patches, valid, "none") is None
    assert normalise(patches, None) is patches
    assert restore(patches, None) is patches
    assert estimate_hidden(None, torch.ones(2, 6, dtype=torch.bool), 3) is None


@pytest.mark.parametrize("target", ["none", "patch", "patch-band"])
def test_restore_is_exact_with_the_true_statistics(parts, target):
    patches, valid = parts
    statistics = patch_statistics(patches, valid, target)
    wanted = normalise(patches, statistics)
    torch.testing.assert_close(restore(wanted, statistics), patches, rtol=1e-12, atol=1e-12)
    in_float32 = restore(normalise(patches.float(), statistics), statistics)
    torch.testing.assert_close(in_float32, patches, rtol=1e-5, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("target", ["patch", "patch-band"])
def test_a_normalised_target_has_mean_zero_and_variance_one(parts, target):
    patches, _ = parts
    everything = torch.ones_like(patches, dtype=torch.bool)
    axes = (2, 3) if target == "patch" else 3
    wanted = normalise(patches, patch_statistics(patches, everything, target))
    assert wanted.mean(axes).abs().max() < 1e-9
    assert (wanted.var(axes) - 1).abs().max() < 1e-5  # the floor of the variance is 1e-6


@pytest.mark.parametrize("truth", [1e10, torch.inf, torch.nan])
def test_estimates_do_not_know_the_hidden_truth(truth):
    rng = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(2, 12, 3, 1, generator=rng), torch.rand(2, 12, 3, 1, generator=rng)
    visible_BN = torch.zeros(2, 12, dtype=torch.bool)
    visible_BN[0, [0, 5, 11]] = visible_BN[1, [2, 3, 8]] = True
    estimated = estimate_hidden(PatchStatistics(mean, variance), visible_BN[..., None], 4)
    hidden = ~visible_BN[:, :, None, None]
    lied = estimate_hidden(
        PatchStatistics(*(x.masked_fill(hidden, truth) for x in (mean, variance))), visible_BN[..., None], 4
    )
    assert all(torch.equal(a, b) for a, b in zip(estimated, lied, strict=True))
    for before, after in zip((mean, variance), estimated, strict=True):
        assert torch.equal(after[visible_BN], before[visible_BN])
        # A weighted mean stays between what it was made of.
        for tile in range(2):
            seen = before[tile, visible_BN[tile]]
            assert (after[tile] >= seen.amin(0) - 1e-6).all()
            assert (after[tile] <= seen.amax(0) + 1e-6).all()


def test_estimates_weigh_by_inverse_squared_distance():
    mean = torch.tensor([1.0, 0.0, 0.0, 4.0]).reshape(1, 4, 1, 1)
    visible_BN = torch.tensor([[True, False, False, True]])
    found = estimate_hidden(PatchStatistics(mean, mean), visible_BN[..., None], 4).mean.flatten()
    torch.testing.assert_close(found, torch.tensor([1.0, (1 + 4 / 4) / 1.25, (1 / 4 + 4) / 1.25, 4.0]))


@pytest.mark.parametrize("target", ["patch", "patch-band"])
def test_reconstructions_for_people_do_not_leak_the_hidden_truth(target):
    """Of the hidden pixels, however they change, nothing is seen: not through the encoder, not through statistics."""
    model, (pixels, _) = tiny_model("spectral", target), tiles(1, 12, 12)
    visible_BN = torch.zeros(1, 9, dtype=torch.bool)
    visible_BN[0, [0, 4]] = True
    other, _ = tiles(1, 12, 12, seed=9)
    hidden_BCHW = (~visible_BN)[0].reshape(3, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    changed = torch.where(hidden_BCHW, 5 * other, pixels)
    first, loss = model.reconstruct(pixels, visible_BN=visible_BN)
    second, other_loss = model.reconstruct(changed, visible_BN=visible_BN)
    assert torch.equal(first, second)
    assert loss != other_loss


@pytest.mark.parametrize("target", ["patch", "patch-band"])
def test_reconstruct_restores_with_the_statistics_of_what_is_visible(target):
    model, (pixels, _) = tiny_model("stacked", target), tiles(2)
    visible_BN = regular_quarter(2, *grid(pixels, 4))
    raw, _ = model.reconstruct(pixels, visible_BN=visible_BN, restore_with="none")
    shown, _ = model.reconstruct(pixels, visible_BN=visible_BN)
    mean, std = (torch.tensor(x)[:, None, None] for x in (model.record.mean_C, model.record.std_C))
    standardised = patchify((pixels - mean) / std, 4)
    seen_BNCP = visible_BN[:, :, None, None].expand_as(standardised)
    statistics = context_statistics(standardised, seen_BNCP, target, grid(pixels, 4)[1])
    expected = restore(patchify(raw, 4), statistics)
    torch.testing.assert_close(patchify((shown - mean) / std, 4), expected, rtol=1e-4, atol=1e-4)
