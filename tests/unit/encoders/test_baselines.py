"""Baselines that take no training: what they compute, and that invalid pixels have no part in it.

B tiles, C bands, H W pixels, N patches
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import write_catalog, write_scenes
from tiny_models import RECORD, SIDE, tiles, tiny_model

from geomae.catalog import open_catalog
from geomae.encoders import load_encoder, parse_encoders
from geomae.encoders.selections import EmbeddingSpec, EncoderLoader
from geomae.errors import ConfigError, ModelError
from geomae.models.folder import save_model, standardise
from geomae.tiles.selection import select_tiles

BASELINES = ("baseline:statistics", "baseline:pixels", "baseline:rcf", "baseline:random?seed=1")


def baseline(text, **options):
    return load_encoder(text, imagery=RECORD, like=tiny_model(depth=2), **options)


def test_statistics_are_means_then_deviations_of_valid_pixels():
    pixels, valid = tiles(3, 16, 16, gaps=0.3)
    valid[1, 2] = False
    tile, patches = baseline("baseline:statistics").embed(pixels.masked_fill(~valid, torch.nan), valid)
    assert (tile.shape, patches.shape, tile.dtype) == ((3, 8), (3, 16, 8), torch.float32)
    for b in range(3):
        for c in range(4):
            values = pixels[b, c][valid[b, c]].double().numpy()
            expected = (values.mean(), values.std()) if len(values) else (RECORD.mean_C[c], 0)
            np.testing.assert_allclose(tile[b, [c, 4 + c]].numpy(), expected, rtol=1e-5, atol=1e-7)
    inside = pixels[0, 3, 4:8, 8:12][valid[0, 3, 4:8, 8:12]].double().numpy()  # row 1, column 2 of 4 x 4 patches
    np.testing.assert_allclose(patches[0, 6, [3, 7]].numpy(), (inside.mean(), inside.std()), rtol=1e-5)


def test_small_deviations_about_large_means_are_kept():
    record = replace(RECORD, mean_C=(1e4,) * 4)
    pixels = 1e4 + 1e-2 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    tile, _ = load_encoder("baseline:statistics", imagery=record).embed(pixels)
    np.testing.assert_allclose(tile[0, 4:].numpy(), pixels.double().numpy().std((0, 2, 3)), rtol=1e-4)


def test_pixels_are_standardised_and_averaged_to_cells():
    pixels, valid = tiles(2, 16, 16)
    tile, patches = baseline("baseline:pixels").embed(pixels, valid)
    standard = standardise(pixels, valid, RECORD)
    torch.testing.assert_close(tile, standard.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).flatten(1))
    assert (tile.shape, patches.shape) == ((2, 4 * 64), (2, 16, 4 * 64))
    assert baseline("baseline:pixels").embed(*tiles(1, 20, 28))[0].shape == (1, 4 * 64)
    valid[:, :, :2, :2] = False
    gone = baseline("baseline:pixels").embed(pixels, valid)[0].reshape(2, 4, 8, 8)
    assert (gone[:, :, 0, 0] == 0).all()
    assert torch.equal(gone[:, :, 1], tile.reshape(2, 4, 8, 8)[:, :, 1])


def test_random_convolutional_features_are_those_of_torchgeo():
    from torchgeo.models import RCF

    pixels, valid = tiles(2, 16, 16)
    state = torch.get_rng_state()
    encoder = baseline("baseline:rcf")
    tile, patches = encoder.embed(pixels, valid)
    assert torch.equal(state, torch.get_rng_state())
    library = RCF(4, features=512, kernel_size=3, seed=1)
    expected = library(standardise(pixels, valid, RECORD))
    torch.testing.assert_close(tile, expected.clone(), atol=1e-5, rtol=1e-5)
    assert patches.shape == (2, 16, 512)
    with pytest.raises(ConfigError, match="a tile of 2 x 16 pixels is smaller than a kernel of 3"):
        encoder.patch_grid(2, 16)


def test_random_is_a_function_of_its_seed_and_takes_the_shape_of_the_model():
    pixels, valid = tiles(2)
    one, again, two = (baseline(f"baseline:random?seed={seed}") for seed in (1, 1, 2))
    assert one.digest == again.digest != two.digest
    assert torch.equal(one.embed(pixels, valid)[0], again.embed(pixels, valid)[0])
    assert not torch.equal(one.embed(pixels, valid)[0], two.embed(pixels, valid)[0])
    assert one.embed(pixels, valid)[1].shape == (2, 12, 24)
    assert load_encoder("baseline:random", imagery=RECORD, tile=16).embed(tiles(1, 16, 16)[0])[1].shape == (1, 4, 192)


@pytest.mark.parametrize("text", BASELINES)
@pytest.mark.parametrize("fill", [torch.nan, torch.inf, 1e6])
def test_invalid_pixels_have_no_influence(text, fill):
    pixels, valid = tiles(2, 16, 16, gaps=0.2)
    valid[0, :, :SIDE, :SIDE] = False
    encoder = baseline(text)
    clean, dirty = encoder.embed(pixels, valid), encoder.embed(pixels.masked_fill(~valid, fill), valid)
    for one, other in zip(clean, dirty, strict=True):
        assert torch.equal(one, other)
        assert torch.isfinite(one).all()


@pytest.mark.parametrize("text", BASELINES)
def test_a_tile_without_a_valid_pixel_gives_numbers(text):
    pixels, valid = tiles(2, 16, 16)
    valid[1] = False
    for pooling in ("mean", "mean-std"):
        tile, patches = baseline(text, pooling=pooling).embed(pixels, valid)
        assert torch.isfinite(tile).all()
        assert torch.isfinite(patches).all()


@pytest.mark.parametrize("text", BASELINES)
def test_what_every_baseline_says(text):
    encoder = baseline(text, layer="middle", pooling="mean-std")
    assert encoder.text == text
    assert (encoder.bands, encoder.gsd_m) == (RECORD.bands, 10.0)
    assert encoder.patch_grid(16, 12) == (4, 3)
    assert "B02, B04, B8A, B11" in encoder.notes[0]
    with pytest.raises(ConfigError, match="has to know the bands; give imagery="):
        load_encoder(text)
    with pytest.raises(ConfigError, match="tile of 2 x 2"):
        baseline(text, tile=2)


def test_several_encoders_share_the_shape_of_the_first_model(tmp_path):
    write_scenes(tmp_path / "scenes", scenes=1)
    selections = select_tiles(open_catalog(write_catalog(tmp_path)), ["tiny"])
    save_model(tiny_model(depth=2), tmp_path / "model")
    model, untrained, statistics = parse_encoders([str(tmp_path / "model"), "baseline:random", "baseline:statistics"])
    loader = EncoderLoader(EmbeddingSpec(), selections, torch.device("cpu"))
    loaded = {one.label: loader.load(one)["tiny"] for one in (model, untrained, statistics)}
    assert {encoder.patch_grid(16, 16) for encoder in loaded.values()} == {(4, 4)}
    assert loaded[model.label].notes[1].startswith("layer 1 of 2, pooled by mean-std")
    assert loaded[untrained.label].digest != loaded[model.label].digest
    others = loader.of_others(selections).load(untrained)["tiny"]  # without having loaded the model itself
    assert others.digest == loaded[untrained.label].digest


@pytest.mark.parametrize("text", BASELINES[:3])
def test_what_takes_no_training_gives_no_tokens(text):
    with pytest.raises(ModelError, match="has no weights to train; use embed, or train"):
        baseline(text).tokens(*tiles(1, 16, 16))
