"""Our own models as encoders: layers, poolings, and patches that were not measured.

B tiles, C bands, N patches, D width
"""

from pathlib import Path

import pytest
import torch
from tiny_models import BANDS, MODELS, RECORD, SIDE, tiles, tiny_mae, tiny_model

import geomae
from geomae.errors import BandMismatchError, ConfigError, GeomaeError, ModelError
from geomae.models.band_embedding import band_codes
from geomae.models.folder import Model, save_model, standardise
from geomae.models.patches import patchify
from geomae.sensors.record import SensorRecord

DEPTH, N, D = 3, 12, 24


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model folder for each embedding."""
    root = tmp_path_factory.mktemp("models")
    for embedding in MODELS:
        save_model(tiny_model(embedding, depth=DEPTH), root / embedding)
    return root


def layers_of(embedding, pixels, valid):
    """What the bare model gives after each block."""
    mae = tiny_mae(embedding, depth=DEPTH)
    patches = patchify(standardise(pixels, valid, RECORD), SIDE)
    with torch.no_grad():
        codes, valid = band_codes(BANDS), patchify(valid, SIDE)
        return [mae.encoder.whole(patches, valid, codes, (4, 3), layer=layer) for layer in (1, 2, None)]


@pytest.mark.parametrize("embedding", MODELS)
def test_shapes_bands_and_gsd(folders, embedding):
    encoder = geomae.load_encoder(folders / embedding)
    pixels, _ = tiles(3)
    tile, patches = encoder.embed(pixels)
    assert (tile.shape, patches.shape) == ((3, D), (3, N, D))
    assert tile.dtype == patches.dtype == torch.float32
    assert not tile.requires_grad
    assert (encoder.bands, encoder.gsd_m) == (BANDS, 10.0)
    assert encoder.embed(tiles(2, 8, 20)[0])[1].shape == (2, 10, D)


@pytest.mark.parametrize("embedding", MODELS)
def test_layers_count_from_one_and_the_last_is_after_its_norm(folders, embedding):
    pixels, valid = tiles(2, gaps=0.1)
    layers = layers_of(embedding, pixels, valid)
    for layer in (1, 2, 3, None):
        _, patches = geomae.load_encoder(str(folders / embedding), layer=layer).embed(pixels, valid)
        tokens = layers[(layer or DEPTH) - 1][:, 1:]
        expected = tokens.reshape(2, -1, 12, 24).mean(1)  # over groups, where there are several
        torch.testing.assert_close(patches, expected, atol=1e-6, rtol=0)
    norm = tiny_mae(embedding, depth=DEPTH).encoder.norm
    default = geomae.load_encoder(folders / embedding).embed(pixels, valid)[1]
    assert default.mean(-1).abs().max() < 1e-5  # a norm without bias has mean zero ...
    if embedding != "grouped":  # which gives the mean of several tokens
        assert (default.var(-1, correction=0) - 1).abs().max() < 1e-3  # ... and variance one
    assert torch.equal(norm.weight, torch.ones(D))


def test_poolings(folders):
    pixels, valid = tiles(2, gaps=0.1)
    valid[0, :, :SIDE, :SIDE] = valid[0, :, 8:12, 8:12] = False  # patches 0 and 8
    usable = torch.ones(2, N, dtype=torch.bool)
    usable[0, [0, 8]] = False
    last = layers_of("spectral", pixels, valid)[-1]
    parts = [last[b, 1:][usable[b]] for b in range(2)]
    expected = {
        "cls": last[:, 0],
        "mean": torch.stack([part.mean(0) for part in parts]),
        "mean-std": torch.stack([torch.cat([part.mean(0), part.std(0, correction=0)]) for part in parts]),
    }
    for pooling, wanted in expected.items():
        tile, _ = geomae.load_encoder(folders / "spectral", pooling=pooling).embed(pixels, valid)
        torch.testing.assert_close(tile, wanted, atol=1e-5, rtol=0)
    default, _ = geomae.load_encoder(folders / "spectral").embed(pixels, valid)
    torch.testing.assert_close(default, expected["mean"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("fill", [torch.nan, torch.inf, 1e30, 0.3])
@pytest.mark.parametrize("pooling", ["mean", "cls", "mean-std"])
def test_what_is_not_valid_has_no_influence(folders, pooling, fill):
    encoder = geomae.load_encoder(folders / "spectral", pooling=pooling)
    pixels, valid = tiles(2, gaps=0.3)
    valid[1, :, 4:8] = False
    clean, dirty = encoder.embed(pixels, valid)[0], encoder.embed(pixels.masked_fill(~valid, fill), valid)[0]
    assert torch.equal(clean, dirty)
    assert not torch.equal(clean, encoder.embed(pixels)[0])  # the gaps themselves do count
    if not torch.isfinite(torch.tensor(fill)):
        assert torch.equal(encoder.embed(pixels.masked_fill(~valid, fill))[0], clean)


def test_a_tile_without_a_valid_pixel_gives_numbers():
    model = tiny_model("spectral")
    pixels, valid = tiles(2)
    valid[1] = False
    for pooling in ("mean", "cls", "mean-std"):
        tile, patches = geomae.encoders.OwnEncoder(model, None, pooling).embed(pixels, valid)
        assert torch.isfinite(tile).all()
        assert torch.isfinite(patches).all()
    assert (geomae.encoders.OwnEncoder(model).embed(pixels, valid)[0][1] == 0).all()


def test_tiles_do_not_influence_each_other(folders):
    encoder = geomae.load_encoder(folders / "spectral")
    pixels, valid = tiles(4, gaps=0.2)
    valid[2, :, :8] = False
    together = encoder.embed(pixels, valid)
    for b in range(4):
        for whole, alone in zip(together, encoder.embed(pixels[[b]], valid[[b]]), strict=True):
            torch.testing.assert_close(whole[[b]], alone, atol=1e-5, rtol=0)


def test_order_and_subset_of_the_bands(folders):
    encoder = geomae.load_encoder(folders / "spectral")
    pixels, _ = tiles()
    turned = encoder.for_sensor("s2", ("B11", "B02", "B8A", "B04"))
    assert [band.name for band in turned.bands] == ["B11", "B02", "B8A", "B04"]
    for one, two in zip(encoder.embed(pixels), turned.embed(pixels[:, [3, 0, 2, 1]]), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    assert encoder.for_sensor("s2", ("B02",)).embed(pixels[:, :1])[0].shape == (2, D)
    with pytest.raises(BandMismatchError, match="no statistics for band B99"):
        encoder.for_sensor("s2", ("B99",))
    with pytest.raises(ModelError, match="no statistics for sensor 'landsat'"):
        encoder.for_sensor("landsat")
    with pytest.raises(ModelError, match="order it was trained with"):
        geomae.load_encoder(folders / "stacked").for_sensor("s2", ("B04", "B02", "B8A", "B11"))


def test_another_sensor_has_its_own_statistics():
    other = SensorRecord("raw", "digital_number", None, BANDS, (500.0,) * 4, (100.0,) * 4)
    encoder = geomae.encoders.OwnEncoder(Model(tiny_mae(), (RECORD, other)))
    standard = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x)[:, None, None] for x in (RECORD.mean_C, RECORD.std_C))
    first = encoder.embed(standard * std + mean)[0]
    second = encoder.for_sensor("raw").embed(standard * 100 + 500)[0]
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
    assert encoder.for_sensor("raw").gsd_m is None


@pytest.mark.parametrize("embedding", MODELS)
def test_gradients_flow_through_the_tokens_that_embed_pools(folders, embedding):
    pixels, valid = tiles(2, gaps=0.1)
    valid[0, :, :SIDE, :SIDE] = False
    for pooling in ("mean", "cls", "mean-std"):
        encoder = geomae.load_encoder(folders / embedding, layer=2, pooling=pooling)
        with torch.inference_mode():
            encoder.embed(pixels, valid)  # what it keeps of this must not be in the way of autograd
        tile, patches = encoder.embed(pixels, valid)
        tokens = encoder.tokens(pixels, valid)
        assert (tokens.cls_BD.shape, tokens.patches_BND.shape) == ((2, D), (2, N, D))
        assert torch.equal(tokens.patches_BND, patches)
        assert torch.equal(tokens.pooled(pooling), tile)
        assert not tokens.usable_BN[0, 0]
        assert tokens.usable_BN.sum() == 2 * N - 1
        assert not tile.requires_grad
        assert not patches.requires_grad
        tokens.pooled(pooling).square().sum().backward()
        weights = dict(encoder.model.mae.encoder.named_parameters())
        reached = {name for name, weight in weights.items() if weight.grad is not None and weight.grad.any()}
        assert {name for name in weights if name.startswith("blocks.0.")} <= reached
        assert not [name for name in reached if name.startswith("blocks.2.")]  # behind the layer that is taken


def test_requests_that_cannot_be_met(folders, tmp_path):
    for layer in (0, -1, 4):
        with pytest.raises(ConfigError, match=f"layer {layer}: the encoder has layers 1 to 3"):
            geomae.load_encoder(folders / "spectral", layer=layer)
    with pytest.raises(ConfigError, match="pooling 'means': did you mean 'mean'"):
        geomae.load_encoder(folders / "spectral", pooling="means")
    with pytest.raises(GeomaeError, match="is neither a model folder nor an MLflow reference; check the path"):
        geomae.load_encoder(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"is not a model folder \(no config.json\)"):
        geomae.load_encoder(Path(tmp_path))
