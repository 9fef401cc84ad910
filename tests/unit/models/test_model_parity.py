"""Weights in the published masked autoencoder layout give the published numbers, before and after a model folder."""

import pytest
import torch
from published_mae import Reference, published_weights
from safetensors.torch import load_file, save_file

from geomae.encoders import load_encoder
from geomae.models.convert import convert_mae, read_weights
from geomae.models.folder import load_model, save_model
from geomae.models.patches import patchify
from geomae.sensors import sensor

SENTINEL = sensor("sentinel-2-l2a").bands


def check_same(found, wanted):
    torch.testing.assert_close(found.double(), wanted.double(), atol=1e-5, rtol=0)


def pixels_first(prediction_BNX, side):
    """The published order of a patch (row, column, band) as ours (band, pixel): (B, N, C, P)."""
    return prediction_BNX.unflatten(2, (side * side, -1)).transpose(2, 3)


def check(model, encoder, pixels_BCHW, visible_BN, prediction_BNX, loss, features_BXD):
    """Everything that the model says about these tiles."""
    side = model.mae.architecture.patch
    if prediction_BNX is not None:
        predicted, found_loss = model.reconstruct(pixels_BCHW, visible_BN=visible_BN, restore_with="none")
        check_same(patchify(predicted, side), pixels_first(prediction_BNX, side))
        check_same(found_loss, loss)
    _, patches_BND = encoder.embed(pixels_BCHW)
    check_same(patches_BND, features_BXD[:, 1:])


def check_everywhere(model, folder, pixels_BCHW, visible_BN, prediction_BNX, loss, features_BXD):
    """The model itself, and the one that comes back from its folder."""
    save_model(model, folder)
    encoder, by_class = load_encoder(folder), load_encoder(folder, pooling="cls")
    for one in (model, load_model(folder)):
        check(one, encoder, pixels_BCHW, visible_BN, prediction_BNX, loss, features_BXD)
    check_same(by_class.embed(pixels_BCHW)[0], features_BXD[:, 0])


def test_the_reference_numbers_that_lie_beside_the_project(shared_parity, tmp_path):
    expected = load_file(shared_parity / "mae_tiny.expected.safetensors")
    weights = read_weights(shared_parity / "mae_tiny.pth")
    model, account = convert_mae(weights, heads=3, decoder_heads=4, norm_eps=1e-5, target="none")
    visible_BN = expected["mask"] == 0
    assert (visible_BN.sum(1) == 4).all()
    check_everywhere(
        model, tmp_path / "model", expected["images"], visible_BN, expected["pred"], expected["loss"].squeeze(),
        expected["features"],
    )  # fmt: skip
    assert len(account.taken) + len(account.adapted) == len(weights)
    assert account.left == []


VARIANTS = {
    "as published": {},
    "normalised target": {"target": "patch", "eps": 1e-6},
    "learned positions": {"learned": ("encoder", "decoder"), "seed": 1},
    "learned decoder positions": {"learned": ("decoder",), "seed": 2},
    "four bands, patch 2, 6 x 6": {"bands": 4, "patch": 2, "side": 6, "heads": 6, "decoder_heads": 4},
    "one band, one pixel a patch": {"bands": 1, "patch": 1, "side": 3, "decoder": (8, 2), "decoder_heads": 1},
    "deep decoder": {"depth": 1, "decoder": (32, 3), "decoder_heads": 8, "eps": 1e-3},
    "widths that computed positions cannot have": {
        "width": 26, "heads": 2, "decoder": (18, 1), "decoder_heads": 3, "learned": ("encoder", "decoder"),
    },
    "encoder alone": {"decoder": None},
    "encoder alone, learned positions": {"decoder": None, "learned": ("encoder",), "heads": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_other_weights_of_the_layout(name, tmp_path):
    settings = {"heads": 3, "decoder_heads": 2, "eps": 1e-5, "target": "none", **VARIANTS[name]}
    heads, decoder_heads, eps, target = (settings.pop(key) for key in ("heads", "decoder_heads", "eps", "target"))
    weights = published_weights(**settings)
    reference = Reference(weights, heads, decoder_heads, eps, target)
    C, side = weights["patch_embed.proj.weight"].shape[1:3]
    edge = round(reference.places**0.5) * side
    rng = torch.Generator().manual_seed(3)
    pixels_BCHW = torch.randn(3, C, edge, edge, generator=rng) * torch.tensor([1.0, 5.0, 0.2])[:, None, None, None]
    kept = max(reference.places // 4, 1)
    visible = [torch.randperm(reference.places, generator=rng)[:kept].sort().values.tolist() for _ in range(3)]
    visible_BN = torch.zeros(3, reference.places, dtype=torch.bool)
    for tile, places in enumerate(visible):
        visible_BN[tile, places] = True
    has_decoder = "decoder_pred.weight" in weights
    prediction, loss = reference.reconstruct(pixels_BCHW, visible) if has_decoder else (None, None)

    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "weights.safetensors")
    model, account = convert_mae(
        read_weights(tmp_path / "weights.safetensors"), heads=heads, decoder_heads=decoder_heads, norm_eps=eps,
        target=target, bands=SENTINEL[:C],
    )  # fmt: skip
    assert sorted(key.split(" ")[0] for key in account.taken + account.adapted) == sorted(weights)
    assert model.mae.architecture.positions == ("table" if settings.get("learned") else "sincos")
    check_everywhere(
        model, tmp_path / "model", pixels_BCHW, visible_BN, prediction, loss, reference.features(pixels_BCHW)
    )


@pytest.mark.parametrize("wrong", [{"heads": 4}, {"norm_eps": 1e-2}, {"decoder_heads": 4}, {"target": "patch"}])
def test_what_must_be_said_matters(wrong):
    """Each setting that weights cannot tell changes the numbers: the parity above would see a wrong one."""
    weights = published_weights()
    pixels_BCHW = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    right = {"heads": 3, "decoder_heads": 2, "norm_eps": 1e-5, "target": "none"}
    results = [
        convert_mae(weights, **settings)[0].reconstruct(pixels_BCHW, restore_with="none")
        for settings in (right, right | wrong)
    ]
    apart = [(a - b).abs().max() for a, b in zip(*results, strict=True)]
    assert max(apart) > 1e-3
