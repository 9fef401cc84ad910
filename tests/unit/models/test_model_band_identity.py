"""A prediction for a band is scored against that band, whatever the embedding, the target and the order of the bands.

B batch, C bands, N patches, P pixels of a patch in one band
"""

from itertools import permutations

import pytest
import torch
from tiny_models import BANDS, EMBEDDINGS, MODELS, SIDE, TARGETS, tiny_mae

from geomae.models.band_embedding import SpectralEmbedding, band_codes
from geomae.models.folder import Model
from geomae.models.masking import Mask
from geomae.models.patches import patchify, unpatchify
from geomae.sensors import Band, sensor
from geomae.sensors.record import SensorRecord

ROWS, COLS = 2, 3


def ramps(tiles=2):
    """Patches (B, N, C, P) in which every band rises in a direction of its own, so that no scaling confuses two."""
    angle_C = torch.arange(len(BANDS), dtype=torch.float64) * torch.pi / 5 + 0.1
    row, col = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    ramp_CP = angle_C.cos()[:, None] * row.flatten() + angle_C.sin()[:, None] * col.flatten()
    gain_BN = 1 + torch.arange(tiles * ROWS * COLS, dtype=torch.float64).reshape(tiles, ROWS * COLS) / 10
    offset_C = torch.tensor([0.5, -2.0, 3.0, 0.0], dtype=torch.float64)
    return (gain_BN[:, :, None, None] * ramp_CP + offset_C[:, None]).float()


def own_target(patches_BNCP, target):
    """He et al. 2022, section 4: pixels less their mean, over their standard deviation."""
    if target == "none":
        return patches_BNCP
    axes = (2, 3) if target == "patch" else 3
    centred = patches_BNCP - patches_BNCP.mean(axes, keepdim=True)
    return centred / (patches_BNCP.var(axes, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("embedding", MODELS)
@pytest.mark.parametrize("target", TARGETS)
def test_own_targets_score_zero_and_permuted_ones_more(embedding, target):
    mae, patches = tiny_mae(embedding, target), ramps()
    prediction, valid = own_target(patches, target), torch.ones_like(patches, dtype=torch.bool)
    assert float(mae.score(prediction, patches, valid).mean()) < 1e-10
    for order in permutations(range(len(BANDS))):
        if order != tuple(range(len(BANDS))):
            assert float(mae.score(prediction[:, :, list(order)], patches, valid).mean()) > 0.05


@pytest.mark.parametrize("decoder", ["full", "cross"])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_trained_model_predicts_each_band_as_itself(embedding, target, decoder):
    """End to end: embed, decode, score and gradients agree on which band is which, and so does `reconstruct`."""
    mae, patches = tiny_mae(embedding, target, decoder=decoder), ramps() / 2
    pixels, codes = unpatchify(patches, ROWS, COLS), band_codes(BANDS)
    valid, order = torch.ones_like(pixels, dtype=torch.bool), torch.tensor([[0, 4, 1, 2, 3, 5], [2, 3, 0, 1, 4, 5]])
    if embedding == "grouped":
        order = torch.cat([order[:, :2], order[:, :2] + 6, order[:, 2:], order[:, 2:] + 6], dim=1)
    visible = 2 * mae.architecture.tokens
    optimizer = torch.optim.Adam(mae.parameters(), lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        mae(pixels, valid, codes, Mask(order, visible, groups=mae.architecture.groups)).mean().backward()
        optimizer.step()
    record = SensorRecord("s", "reflectance", None, BANDS, (0.0,) * 4, (1.0,) * 4)
    predicted, _ = Model(mae, (record,)).reconstruct(
        pixels, visible_BN=torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0]]), restore_with="none"
    )
    found, wanted = patchify(predicted, SIDE), own_target(patches, target)
    error_CC = torch.stack([(found - wanted[:, :, [band]]).square().mean((0, 1, 3)) for band in range(4)], dim=1)
    assert error_CC.argmin(1).tolist() == [0, 1, 2, 3]
    assert error_CC.diagonal().max() < 0.5 * (error_CC + 1e9 * torch.eye(4)).min()


def spectral_parts(seed=0, tiles=2):
    rng = torch.Generator().manual_seed(seed)
    patches = torch.randn(tiles, ROWS * COLS, len(BANDS), SIDE**2, generator=rng)
    valid = torch.rand(patches.shape, generator=rng) > 0.2
    valid[0, 1, 2] = False  # a band that one patch does not have
    order = torch.stack([torch.randperm(ROWS * COLS, generator=rng) for _ in range(tiles)])
    return patches, valid, order


@pytest.mark.parametrize("to", [(1, 0, 2, 3), (3, 1, 0, 2), (3, 2, 1, 0)])
def test_spectral_predictions_follow_the_order_of_the_bands(to):
    mae = tiny_mae("spectral")
    (patches, valid, order), to = spectral_parts(), list(to)
    codes = band_codes(BANDS)
    permuted = band_codes([BANDS[i] for i in to])
    assert torch.equal(codes[to], permuted)
    tokens = [
        mae.encoder.embedding.embed(p, v, c)
        for p, v, c in ((patches, valid, codes), (patches[:, :, to], valid[:, :, to], permuted))
    ]
    torch.testing.assert_close(*tokens, atol=1e-5, rtol=0)
    first, second = (
        mae.predict(p, v, c, Mask(order, 2), order, (ROWS, COLS))
        for p, v, c in ((patches, valid, codes), (patches[:, :, to], valid[:, :, to], permuted))
    )
    torch.testing.assert_close(first[:, :, to], second, atol=1e-5, rtol=0)
    assert (first[:, :, to] - first).abs().max() > 1e-2  # the bands do differ


def test_spectral_head_predicts_a_band_that_was_no_input():
    mae = tiny_mae("spectral")
    patches, valid, order = spectral_parts()
    latent = mae.encoder(patches[:, :, :3], valid[:, :, :3], band_codes(BANDS[:3]), order[:, :2], (ROWS, COLS))
    alone = mae.decoder(latent, band_codes(BANDS[3:]), order, order[:, 2:], (ROWS, COLS))
    among = mae.decoder(latent, band_codes(BANDS), order, order[:, 2:], (ROWS, COLS))
    torch.testing.assert_close(alone[:, :, 0], among[:, :, 3], atol=1e-6, rtol=0)


def test_a_band_given_twice_leaves_the_token_as_it_is():
    """A mean over the bands, not a sum."""
    embedding = SpectralEmbedding(SIDE**2, 24)
    patches, valid, _ = spectral_parts()
    once = embedding.embed(patches[:, :, :1], valid[:, :, :1], band_codes(BANDS[:1]))
    thrice = embedding.embed(*(x[:, :, [0, 0, 0]] for x in (patches, valid)), band_codes(BANDS[:1] * 3))
    torch.testing.assert_close(once, thrice, atol=1e-6, rtol=1e-5)


def test_a_band_without_a_valid_pixel_takes_no_part():
    embedding = SpectralEmbedding(SIDE**2, 24)
    patches, valid, _ = spectral_parts()
    valid[:, :, 1] = False
    rest = [0, 2, 3]
    without = embedding.embed(patches[:, :, rest], valid[:, :, rest], band_codes([BANDS[i] for i in rest]))
    torch.testing.assert_close(embedding.embed(patches, valid, band_codes(BANDS)), without, atol=1e-6, rtol=1e-5)
    assert (embedding.embed(patches, torch.zeros_like(valid), band_codes(BANDS)) == 0).all()


def test_subsets_of_the_bands_give_tokens_of_the_same_magnitude():
    """Bands of one scene go together; tokens of three of them are as long as those of all twelve."""
    torch.manual_seed(0)
    bands = sensor("sentinel-2-l2a").bands
    embedding = SpectralEmbedding(64, 48)
    common = torch.randn(8, 4, 1, 64)
    patches = common + 0.3 * torch.randn(8, 4, len(bands), 64)
    valid = torch.ones_like(patches, dtype=torch.bool)
    whole = embedding.embed(patches, valid, band_codes(bands)).square().mean().sqrt()
    for chosen in ([1, 2, 3], [7, 8], [10, 11], [0], [0, 2, 4, 6, 8, 10]):
        part = embedding.embed(patches[:, :, chosen], valid[:, :, chosen], band_codes([bands[i] for i in chosen]))
        assert 0.5 < part.square().mean().sqrt() / whole < 2


def test_codes_tell_all_bands_of_a_sensor_apart():
    for name in ("sentinel-2-l2a", "landsat-8-oli-c2l2", "sentinel-1-grd"):
        codes = band_codes(sensor(name).bands).double()
        apart = torch.cdist(codes, codes) + 10 * torch.eye(len(codes))
        assert apart.min() > 0.02, name


def test_codes_of_one_place_in_the_spectrum_depend_on_width_and_polarisation():
    wide, narrow = (Band("x", None, 0.6, width, None) for width in (0.1, 0.02))
    assert not torch.equal(band_codes([wide]), band_codes([narrow]))
    vv, vh = (Band("y", None, 55_465.8, 100.0, None, polarisation) for polarisation in ("VV", "VH"))
    assert not torch.equal(band_codes([vv]), band_codes([vh]))
    renamed = Band("z", None, 0.6, 0.1, 30.0)
    assert torch.equal(band_codes([wide]), band_codes([renamed]))  # neither the name nor the gsd of a file counts
