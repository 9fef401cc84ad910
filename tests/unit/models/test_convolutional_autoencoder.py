"""The convolutional autoencoder: what it sees, whatever the size of the tile, and what it is not for.

B batch, C bands, H W pixels, N patches. Lists of models in the other files hold it too.
"""

import json

import pytest
import torch
from tiny_models import BANDS, RECORD, SIDE, orders, tiles, tiny_mae, tiny_model

import geomae
from geomae.config import Decoder, PretrainConfig, load_config
from geomae.errors import ConfigError, ModelError
from geomae.models.architecture import Architecture, architecture
from geomae.models.band_embedding import band_codes
from geomae.models.convert import adapt_bands, timm_weights, write_onnx
from geomae.models.folder import Model, save_model, standardise
from geomae.models.mae import MaskedAutoencoder
from geomae.models.masking import Mask
from geomae.models.patches import grid, patchify
from geomae.sensors.record import SensorRecord

CODES = band_codes(BANDS)


def inputs(count=2, height=16, width=12, gaps=0.0):
    pixels, valid = tiles(count, height, width, gaps=gaps)
    return patchify(standardise(pixels, valid, RECORD), SIDE), patchify(valid, SIDE), grid(pixels, SIDE)


@pytest.mark.parametrize("target", ["none", "patch", "patch-band"])
@pytest.mark.parametrize(("height", "width"), [(4, 8), (16, 16), (20, 36), (8, 72)])
def test_any_tile_that_patches_divide(height, width, target):
    pixels, valid = tiles(2, height, width, gaps=0.1)
    predicted, loss = tiny_model("cae", target).reconstruct(pixels, valid)
    assert predicted.shape == pixels.shape
    assert torch.isfinite(predicted).all()
    assert loss > 0


def test_predictions_know_only_what_is_seen_of_their_own_tile():
    mae, order = tiny_mae("cae"), orders(2, 12)
    patches, valid, shape = inputs(gaps=0.1)
    wanted = order[:, 4:]
    first = mae.predict(patches, valid, CODES, Mask(order, 4), wanted, shape)
    changed = patches.masked_fill(~valid, torch.inf)
    for tile in range(2):
        changed[tile, order[tile, 4:]] = torch.nan
    assert torch.equal(first, mae.predict(changed, valid, CODES, Mask(order, 4), wanted, shape))
    everywhere = torch.arange(12).expand(2, 12)
    listed = torch.cat([order[:, [3, 1, 0, 2]], order[:, 4:].flip(1)], 1)  # the same mask
    every = mae.predict(patches, valid, CODES, Mask(listed, 4), everywhere, shape)
    assert torch.equal(every.gather(1, wanted[:, :, None, None].expand_as(first)), first)
    changed = patches.clone()
    changed[0, order[0, 0]] += 1
    moved = mae.predict(changed, valid, CODES, Mask(order, 4), wanted, shape)
    assert (moved[0] - first[0]).abs().max() > 1e-4
    assert torch.equal(moved[1], first[1])


def test_a_pixel_at_the_mean_is_not_a_pixel_that_is_not_seen():
    """Band by band: 0 stands for both, and the second plane tells them apart."""
    mae, order = tiny_mae("cae"), orders(1, 12)
    patches, valid, shape = inputs(1)
    patches[0, order[0, 0], 2, 5] = 0
    found = [mae.predict(patches, valid, CODES, Mask(order, 4), order, shape)]
    valid[0, order[0, 0], 2, 5] = False
    found.append(mae.predict(patches, valid, CODES, Mask(order, 4), order, shape))
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_a_trained_model_predicts_each_band_as_itself():
    torch.manual_seed(0)
    shape = Architecture(kind="cae", embedding="stacked", bands=4, patch=4, width=64, depth=1, heads=2)
    mae, rng = MaskedAutoencoder(shape), torch.Generator().manual_seed(0)
    level = torch.randn(8, 4, 1, 1, generator=rng).expand(-1, -1, 16, 16)  # each band of a tile has one of its own
    valid, order = torch.ones_like(level, dtype=torch.bool), orders(8, 16)
    optimizer = torch.optim.Adam(mae.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        mae(level, valid, CODES, Mask(order, 8)).mean().backward()
        optimizer.step()
    record = SensorRecord("s", "reflectance", None, BANDS, (0.0,) * 4, (1.0,) * 4)
    seen = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, :8], True)
    found, _ = Model(mae.eval(), (record,)).reconstruct(level, visible_BN=seen)
    error_CC = torch.stack([(found - level[:, [band]]).square().mean((0, 2, 3)) for band in range(4)], dim=1)
    assert error_CC.diagonal().max() < 0.2 * (error_CC + 1e9 * torch.eye(4)).min()


def test_it_has_about_the_size_of_the_transformers_of_its_preset():
    def size(kind, preset):
        shape = architecture(preset, kind=kind, embedding="stacked", bands=7, patch=8, decoder=Decoder())
        return sum(value.numel() for value in MaskedAutoencoder(shape).to("meta").parameters())

    for preset in ("tiny", "small"):
        assert 0.8 < size("cae", preset) / size("mae", preset) < 1.1


@pytest.mark.parametrize("patch", [4, 8, 12, 16, 32])
def test_embeddings_of_patches_are_means_over_the_cells_they_lie_in(patch):
    shape = Architecture(kind="cae", embedding="stacked", bands=4, patch=patch, width=16, depth=2, heads=1)
    encoder = MaskedAutoencoder(shape).eval().encoder
    pixels = torch.randn(1, 4, 96, 96, generator=torch.Generator().manual_seed(0))
    side, N = 96 // patch, (96 // patch) ** 2
    patches = patchify(pixels, patch)
    valid = torch.ones_like(patches, dtype=torch.bool)
    *_, cells = encoder(patches, valid, CODES, torch.arange(N)[None], (side, side))
    pixelwise = cells.repeat_interleave(16, 2).repeat_interleave(16, 3)  # the bottom has a cell for 16 x 16 pixels
    expected = patchify(pixelwise, patch).mean(-1)
    tokens = encoder.whole(patches, valid, CODES, (side, side))
    torch.testing.assert_close(tokens[:, 1:], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[:, 0], expected.mean(1), atol=1e-5, rtol=0)
    assert (encoder.whole(patches, valid, CODES, (side, side), layer=1) - tokens).abs().max() > 1e-3


def test_folders_from_before_hold_masked_autoencoders(tmp_path):
    save_model(tiny_model("stacked"), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architecture"].pop("kind") == "mae"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert geomae.load_model(tmp_path / "model").mae.architecture == tiny_mae("stacked").architecture


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"embedding": "spectral"}, "cae needs embedding stacked"),
        ({"positions": "gsd"}, "positions sincos"),
        ({"width": 20, "heads": 1}, "a width that 8 divides"),
        ({"heads": 2}, "heads: 2 does not divide an eighth of the width 24"),
    ],
)
def test_shapes_that_it_cannot_have(wrong, message):
    right = {"kind": "cae", "embedding": "stacked", "bands": 3, "patch": 4, "width": 24, "depth": 1, "heads": 1}
    assert Architecture.model_validate(right)
    with pytest.raises(ValueError, match=message):
        Architecture.model_validate(right | wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("embedding=spectral", r": embedding: a convolutional autoencoder \(model: cae\) .* stacked, not spectral$"),
        ("embedding=grouped", "stacked, not grouped$"),
        ("positions=gsd", r": positions: a convolutional autoencoder \(model: cae\) has none"),
        ("decoder.kind=cross", ": decoder: .* leave its options out$"),
        ("decoder={kind: cross, predict: 0.5}", ": decoder: "),
        ("decoder.width=64", ": decoder: "),
        ("model=unet", ": model: must be 'mae' or 'cae', not 'unet'$"),
    ],
)
def test_options_that_it_has_not(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(PretrainConfig, "pretrain", "cae", [change])
    assert "\n" not in str(caught.value)


def test_exports_and_other_bands_are_refused(tmp_path):
    for attempt in (
        lambda: timm_weights(tiny_model("cae"), 16),
        lambda: write_onnx(tiny_model("cae"), tmp_path / "model.onnx", 16),
        lambda: adapt_bands(tiny_model("cae"), BANDS[:2], "s2", "reflectance"),
    ):
        with pytest.raises(ModelError, match="is a convolutional autoencoder, which does not support") as one:
            attempt()
        assert "\n" not in str(one.value)
    assert not list(tmp_path.iterdir())
