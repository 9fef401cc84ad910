"""Models of timm and torchgeo give what their libraries give on the same normalised input.

B tiles, C bands, H W pixels, N patches, D width
"""

import argparse
import itertools
from functools import partial

import pytest
import timm
import torch
import torchgeo.models as library
from safetensors.torch import save_file
from torch import nn
from torchgeo.models import DOFA
from torchgeo.models.scale_mae import ScaleMAE

from geomae.encoders import POOLINGS, load_encoder, torchgeo_models
from geomae.encoders.foreign_models import resized, standardised
from geomae.encoders.own_models import OwnEncoder
from geomae.encoders.specification import parse_encoder
from geomae.encoders.timm_models import finish, timm_backbone, timm_model
from geomae.errors import BandMismatchError, ConfigError, GeomaeError, ModelError
from geomae.models.lineage import lineage
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord

torch.set_num_threads(1)
IMAGENET = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))
VIT = "vit_tiny_patch16_224"


def data(name, *names, unit="reflectance", gsd_m=10.0, mean=0.1, std=0.04):
    bands = tuple(sensor(name).band(one) for one in names) if names else sensor(name).bands
    return SensorRecord(name, unit, gsd_m, bands, (mean,) * len(bands), (std,) * len(bands))


LANDSAT = data("hls-l30", "B01", "B02", "B03", "B04", "B05", "B06", "B07", gsd_m=30.0)
SENTINEL = data("sentinel-2-l1c")
NAIP = data("naip", unit="digital_number", mean=110.0, std=40.0, gsd_m=1.0)
VALUES = standardised(NAIP.select(["red", "green", "blue"]))


def pixels_of(encoder, side=32, count=2):
    rng = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(x)[:, None, None] for x in (encoder.record.mean_C, encoder.record.std_C))
    return mean + std * torch.randn(count, len(mean), side, side, generator=rng)


def normalised(pixels, mean, std):
    return (pixels - mean[:, None, None]) / std[:, None, None]


def saved(module, path, prefix=""):
    """A checkpoint with random weights, also where the library starts with zeros."""
    torch.manual_seed(0)
    for value in module.parameters():
        nn.init.normal_(value, std=0.05)
    state = {prefix + key: value.clone() for key, value in module.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"model": state}, path)
    return module.eval()


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A vision transformer of timm and its checkpoint."""
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    return saved(timm.create_model(VIT, num_classes=0), path), path


def test_a_timm_model_gives_what_timm_gives(vit):
    module, path = vit
    settings = module.pretrained_cfg
    mean, std = torch.tensor(settings["mean"]), torch.tensor(settings["std"])
    text = f"timm:{VIT}?checkpoint={path}"
    encoder = load_encoder(text, imagery=LANDSAT, pooling="cls")
    assert [band.common_name for band in encoder.bands] == ["red", "green", "blue"]
    pixels = pixels_of(encoder)
    ready = resized(normalised((pixels / 0.3).clamp(0, 1), mean, std), 224)
    with torch.no_grad():
        tokens = module.forward_features(ready)
        by_class, patches = encoder.embed(pixels)
        torch.testing.assert_close(by_class, module(ready), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(patches, tokens[:, 1:], atol=1e-5, rtol=1e-5)
        middle = module.forward_intermediates(ready, indices=[5], norm=False, output_fmt="NLC", intermediates_only=True)
    tile, patches = load_encoder(text, 6, "mean", imagery=LANDSAT).embed(pixels)
    torch.testing.assert_close(patches, middle[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tile, middle[0].mean(1), atol=1e-5, rtol=1e-5)
    assert encoder.patch_grid(32, 32) == (14, 14)
    assert (
        encoder.notes[0] == "bands B04, B03, B02: reflectance 0 to 0.3 becomes 0 to 1; then minus 0.5, divided by 0.5"
    )


def test_a_timm_model_becomes_one_of_ours(vit):
    """With the same tokens of tiles of its own size, which need no resizing."""
    module, path = vit
    model = timm_model(parse_encoder(f"timm:{VIT}?checkpoint={path}"), LANDSAT, 224)
    encoder = OwnEncoder(model)
    pixels = pixels_of(model, 224, 1).clamp(0.01, 0.29)  # within what a picture shows
    settings = module.pretrained_cfg
    shown = normalised(pixels / 0.3, torch.tensor(settings["mean"]), torch.tensor(settings["std"]))
    tokens = module.forward_features(shown)
    found = encoder.tokens(pixels)
    torch.testing.assert_close(found.cls_BD, tokens[:, 0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.patches_BND, tokens[:, 1:], rtol=1e-3, atol=1e-4)
    assert [str(step) for step in lineage(model.provenance)] == [f"weights of timm:{VIT}?checkpoint={path}"]
    small = timm_model(parse_encoder(f"timm:{VIT}?checkpoint={path}"), LANDSAT, 64)
    assert small.mae.architecture.grid == (4, 4)  # positions are interpolated


def test_a_torchgeo_transformer_becomes_one_of_ours(tmp_path, monkeypatch):
    """With the bands and values that it was trained on, found by name, and the tokens that the library gives."""
    monkeypatch.setattr(torchgeo_models, "input_size", lambda member, default: 32)
    module = saved(library.vit_small_patch16_224(in_chans=13, num_classes=0, img_size=32), tmp_path / "s2.pth")
    text = f"torchgeo:ViTSmall16_Weights.SENTINEL2_ALL_DINO?checkpoint={tmp_path / 's2.pth'}"
    model = torchgeo_models.torchgeo_model(parse_encoder(text), SENTINEL, 32)
    pixels = pixels_of(model, 32, 1)
    tokens = module.forward_features(pixels)  # reflectance x 10000, divided by 10000
    found = OwnEncoder(model).tokens(pixels)
    torch.testing.assert_close(found.cls_BD, tokens[:, 0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.patches_BND, tokens[:, 1:], rtol=1e-3, atol=1e-4)
    assert [band.name for band in model.record.bands] == [band.name for band in SENTINEL.bands]
    assert [str(step) for step in lineage(model.provenance)] == [f"weights of {text}"]
    assert torchgeo_models.torchgeo_model(parse_encoder(text), SENTINEL, 64).mae.architecture.grid == (4, 4)


def test_digital_numbers_and_all_bands(vit):
    _, path = vit
    naip = load_encoder(f"timm:{VIT}?checkpoint={path}", imagery=NAIP)
    assert "digital numbers 0 to 255 become 0 to 1" in naip.notes[0]
    encoder = load_encoder(f"timm:{VIT}?checkpoint={path}&bands=all", imagery=LANDSAT, pooling="mean-std")
    assert encoder.bands == LANDSAT.bands
    assert encoder.embed(pixels_of(encoder))[0].shape == (2, 2 * 192)
    assert any("its first layer, made for 3 bands, was adapted to 7" in note for note in encoder.notes)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [*itertools.product((VIT, "vit_tiny_fc_norm"), POOLINGS), ("resnet18", "mean"), ("resnet18", "mean-std")],
)
def test_gradients_flow_through_the_tokens_that_embed_pools(vit, name, pooling):
    options = {"fc_norm": True, "global_pool": "avg"} if name == "vit_tiny_fc_norm" else {}
    module = timm.create_model(VIT if options else name, num_classes=0, **options).eval()
    encoder = finish(
        "text", timm_backbone(module, 224, 3), NAIP.select(["red", "green", "blue"]), VALUES, None, pooling, ()
    )
    pixels = pixels_of(encoder)
    valid = torch.ones_like(pixels, dtype=torch.bool)
    valid[0, :, :16] = False
    with torch.inference_mode():
        encoder.embed(pixels, valid)
    tile, patches = encoder.embed(pixels, valid)
    tokens = encoder.tokens(pixels, valid)
    assert (tokens.cls_BD is None) == (name == "resnet18")
    assert torch.equal(tokens.patches_BND, patches)
    assert torch.equal(tokens.pooled(pooling), tile)
    assert not tile.requires_grad
    assert not patches.requires_grad
    tokens.pooled(pooling).square().sum().backward()
    first = module.conv1 if name == "resnet18" else module.patch_embed.proj
    assert first.weight.grad.abs().sum() > 0


def test_maps_of_convolutional_networks_are_patches(tmp_path):
    module = saved(timm.create_model("resnet18", num_classes=0), tmp_path / "resnet.pth", "module.encoder.")
    encoder = load_encoder(f"timm:resnet18?checkpoint={tmp_path / 'resnet.pth'}", imagery=NAIP)
    pixels = pixels_of(encoder, 64)
    ready = resized(normalised((pixels / 255).clamp(0, 1), *IMAGENET), 224)
    tile, patches = encoder.embed(pixels)
    with torch.no_grad():
        torch.testing.assert_close(tile, module(ready), atol=1e-5, rtol=1e-5)
    assert (patches.shape, encoder.patch_grid(64, 64)) == ((2, 49, 512), (7, 7))
    assert "removed the prefix module.encoder. of keys" in encoder.notes
    with pytest.raises(ConfigError, match="has no class token; choose mean or mean-std"):
        load_encoder(encoder.text, imagery=NAIP, pooling="cls")


def test_dofa_gives_what_torchgeo_gives(tmp_path, monkeypatch):
    small = partial(DOFA, patch_size=16, embed_dim=48, depth=2, num_heads=2)
    monkeypatch.setattr(library, "get_model", lambda name, **options: small(**options))
    module = saved(small(), tmp_path / "dofa.pth")
    encoder = load_encoder(f"torchgeo:dofa_small_patch16_224?checkpoint={tmp_path / 'dofa.pth'}", imagery=LANDSAT)
    assert encoder.bands == LANDSAT.bands
    pixels = pixels_of(encoder)
    mean, std = torch.tensor(LANDSAT.mean_C), torch.tensor(LANDSAT.std_C)
    ready = resized(normalised(pixels, mean, std), 224)
    tile, patches = encoder.embed(pixels)
    with torch.no_grad():
        expected = module.forward_features(ready, [band.wavelength_um for band in LANDSAT.bands])
    torch.testing.assert_close(tile, expected, atol=1e-5, rtol=1e-5)
    assert (patches.shape, encoder.patch_grid(32, 32)) == ((2, 196, 48), (14, 14))
    both = load_encoder(encoder.text, pooling="mean-std", imagery=LANDSAT).embed(pixels)[0]
    torch.testing.assert_close(both[:, :48], expected, atol=1e-5, rtol=1e-5)


def test_scale_mae_gives_what_torchgeo_gives_at_the_gsd_of_the_resized_tile(tmp_path, monkeypatch):
    small = partial(ScaleMAE, patch_size=16, embed_dim=48, depth=2, num_heads=2, qkv_bias=True)
    monkeypatch.setattr(library, "get_model", lambda name, **options: small(**options))
    module = saved(small(num_classes=0), tmp_path / "scale.pth")
    text = f"torchgeo:ScaleMAELarge16_Weights.FMOW_RGB?checkpoint={tmp_path / 'scale.pth'}"
    encoder = load_encoder(text, imagery=LANDSAT, pooling="cls")
    pixels = pixels_of(encoder, 56)
    module.res = 30.0 * 56 / 224
    tile, patches = encoder.embed(pixels)
    with torch.no_grad():
        tokens = module.forward_features(resized(normalised((pixels / 0.3).clamp(0, 1), *IMAGENET), 224))
    torch.testing.assert_close(tile, tokens[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(patches, tokens[:, 1:], atol=1e-5, rtol=1e-5)
    nowhere = data("hls-l30", "B02", "B03", "B04", gsd_m=None)
    with pytest.raises(ConfigError, match="add gsd_m to the catalogue"):
        load_encoder(text, imagery=nowhere)


def test_sentinel_weights_take_their_bands_in_their_order(tmp_path):
    module = saved(timm.create_model("resnet18", num_classes=0, in_chans=13), tmp_path / "s2.pth")
    text = f"torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO?checkpoint={tmp_path / 's2.pth'}"
    encoder = load_encoder(text, imagery=SENTINEL)
    assert [band.name for band in encoder.bands[7:10]] == ["B08", "B8A", "B09"]
    pixels = pixels_of(encoder)
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(pixels)[0], module(resized(pixels, 224)), atol=1e-5, rtol=1e-5)
    assert "reflectance x 10000" in encoder.notes[0]
    with pytest.raises(BandMismatchError) as caught:
        load_encoder(text, imagery=LANDSAT)
    assert "needs B5, B6, B7, B8, B9, B10 of sentinel-2" in str(caught.value)
    assert "spectral embedding" in str(caught.value)


@pytest.mark.parametrize("fill", [torch.nan, 1e6])
def test_invalid_pixels_count_as_the_mean_and_empty_patches_do_not_count(vit, fill):
    encoder = load_encoder(f"timm:{VIT}?checkpoint={vit[1]}", imagery=NAIP, pooling="mean-std")
    pixels = pixels_of(encoder)
    valid = torch.ones_like(pixels, dtype=torch.bool)
    valid[0, :, :16] = valid[1] = False
    tile, patches = encoder.embed(pixels.masked_fill(~valid, fill), valid)
    mean = torch.tensor(encoder.record.mean_C)[:, None, None].expand_as(pixels)
    torch.testing.assert_close(patches, encoder.embed(pixels.where(valid, mean))[1])
    torch.testing.assert_close(tile[0, :192], patches[0, 98:].mean(0), atol=1e-5, rtol=1e-5)
    assert torch.isfinite(tile).all()


@pytest.mark.parametrize(
    ("text", "imagery", "kind", "message"),
    [
        ("timm:vit_tiny_patch16_225", NAIP, ConfigError, "timm has no model 'vit_tiny_patch16_225'; did you mean 'vit"),
        ("timm:vit_base_patch16_224.maee", NAIP, ConfigError, "did you mean 'vit_base_patch16_224.mae'?"),
        ("timm:resnet18?checkpoint=/absent.pth", NAIP, ModelError, "/absent.pth: does not exist"),
        ("timm:resnet18?pretrained=false", data("hls-l30", "B05"), BandMismatchError, "needs red, green, blue"),
        ("timm:resnet18", NAIP, ModelError, "cannot be fetched"),
        ("torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOKO", SENTINEL, ConfigError, "SENTINEL2_ALL_MOCO'?"),
        ("torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO", SENTINEL, ModelError, "HF_HUB_OFFLINE forbids fetching"),
        ("torchgeo:unet", SENTINEL, ConfigError, "it segments and gives no embedding of its own"),
        (
            "torchgeo:dofa_small_patch16_224",
            SENTINEL,
            ConfigError,
            "is a model without weights; write ?checkpoint=FILE",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(monkeypatch, tmp_path, text, imagery, kind, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(kind) as caught:
        load_encoder(text, imagery=imagery)
    assert issubclass(kind, GeomaeError)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind is ModelError and "fetch" in message:
        assert "checkpoint=FILE" in str(caught.value)


def test_a_training_checkpoint_of_a_wrapped_model_gives_the_same_features(vit, tmp_path):
    """Options beside the weights, and the network as one part of what was trained."""
    whole = {f"module.backbone.{key}": value for key, value in vit[0].state_dict().items()}
    content = {"state_dict": whole | {"module.head.weight": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "checkpoint.pth")
    encoder = load_encoder(f"timm:{VIT}?checkpoint={tmp_path / 'checkpoint.pth'}", imagery=NAIP)
    plain = load_encoder(f"timm:{VIT}?checkpoint={vit[1]}", imagery=NAIP)
    assert encoder.digest == plain.digest
    assert "removed the prefix module.backbone. of keys; 1 other keys were left out" in encoder.notes


def test_weights_of_another_model_and_tiles_that_are_not_square(vit, tmp_path):
    with pytest.raises(ModelError, match="another model's"):
        load_encoder(f"timm:resnet18?checkpoint={vit[1]}", imagery=NAIP)
    with pytest.raises(ModelError, match="another model's"):
        load_encoder(f"timm:vit_small_patch16_224?checkpoint={vit[1]}", imagery=NAIP)
    torch.save(vit[0], tmp_path / "code.pth")
    with pytest.raises(ModelError, match="would run code"):
        load_encoder(f"timm:{VIT}?checkpoint={tmp_path / 'code.pth'}", imagery=NAIP)
    encoder = load_encoder(f"timm:{VIT}?checkpoint={vit[1]}", imagery=NAIP)
    with pytest.raises(ConfigError, match="takes square tiles, not 32 x 64 pixels"):
        encoder.patch_grid(32, 64)
