"""Vision transformers of timm in and out: the same features, and a reason for each that cannot be represented.

B batch, C bands, H W pixels, N patches, D width
"""

import json
from functools import partial

import pytest
import timm
import torch
from published_mae import published_weights
from safetensors.torch import load_file, save_file
from timm.layers import SwiGLU
from timm.models.vision_transformer import VisionTransformer
from tiny_models import RECORD, tiles, tiny_model
from torch import nn

from geomae.commands.convert import ConvertOptions, run
from geomae.config import Decoder
from geomae.encoders import OwnEncoder, load_encoder
from geomae.errors import ConfigError, ModelError, StorageError
from geomae.models.architecture import Architecture
from geomae.models.convert import check_timm, convert_mae, read_weights, timm_weights
from geomae.models.folder import Model, load_model, save_model, standardise
from geomae.models.mae import MaskedAutoencoder

EPS = 1e-5


def vision_transformer(**options):
    """A tiny model of timm for three bands and tiles of 16 x 16, every parameter drawn."""
    settings = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
    settings["norm_layer"] = partial(nn.LayerNorm, eps=EPS)
    built = VisionTransformer(**(settings | options)).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in built.named_parameters():
            value.copy_(("norm" in name and name.endswith("weight")) + 0.3 * torch.randn(value.shape, generator=rng))
    return built


def converted(built, **said):
    return convert_mae(built.state_dict(), **({"heads": 3, "norm_eps": EPS} | said))


def folder_of(model, path):
    save_model(model, path)
    return path


def same(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def check_features(built, model, folder):
    """Class token and patches of whole tiles, through the model folder."""
    pixels_BCHW = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    wanted = built.forward_features(pixels_BCHW)
    by_class, patches = load_encoder(folder_of(model, folder), pooling="cls").embed(pixels_BCHW)
    same(by_class, wanted[:, 0])
    same(patches, wanted[:, 1:])


def test_a_state_dict_of_timm_gives_the_features_of_timm(tmp_path):
    built = vision_transformer()
    model, account = converted(built)
    check_features(built, model, tmp_path / "model")
    assert model.mae.decoder is None
    assert model.mae.architecture.positions == "table"  # timm's are learned
    assert sorted(entry.split(" ")[0] for entry in account.taken + account.adapted) == sorted(built.state_dict())
    assert (account.left, account.new) == ([], [])


def test_a_classifier_is_left_and_said(tmp_path):
    built = vision_transformer(num_classes=7)
    model, account = converted(built)
    assert sorted(account.left) == ["head.bias", "head.weight"]
    check_features(built, model, tmp_path / "model")


def test_positions_without_one_of_the_class_token(tmp_path):
    built = vision_transformer(no_embed_class=True)
    assert built.pos_embed.shape[1] == 16
    model, account = converted(built)
    assert "pos_embed (stored for 4 x 4 patches; zeros for the class token)" in account.adapted
    check_features(built, model, tmp_path / "model")


@torch.no_grad()
def test_the_norm_of_pooled_features_stands_in_and_the_report_says_what_differs():
    built = vision_transformer(global_pool="avg")
    assert "norm.weight" not in built.state_dict()
    model, account = converted(built)
    assert [entry.split(" ")[0] for entry in account.adapted if "timm norms the mean" in entry] == [
        "fc_norm.weight",
        "fc_norm.bias",
    ]
    assert torch.equal(model.mae.encoder.norm.weight, built.fc_norm.weight)


def test_with_both_norms_the_one_of_pooled_features_is_left():
    built = vision_transformer(global_pool="avg", fc_norm=True, final_norm=True)
    weights = built.state_dict() | vision_transformer().state_dict()
    _, account = convert_mae(weights, heads=3, norm_eps=EPS)
    assert sorted(account.left) == ["fc_norm.bias", "fc_norm.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_values": 1e-5}, r"blocks\.0\.ls1\.gamma: the weights have layer scale"),
        ({"qk_norm": True}, r"blocks\.0\.attn\.q_norm\.weight: the weights have norms of queries and keys"),
        ({"reg_tokens": 2}, "reg_token: the weights have register tokens"),
        ({"pre_norm": True}, r"norm_pre\.weight: the weights have a norm before the blocks"),
        ({"mlp_layer": SwiGLU}, r"blocks\.0\.mlp\.fc1_g\.weight: the weights have gated layers \(SwiGLU\)"),
        ({"scale_attn_norm": True}, r"geomae's blocks have no attn\.norm\.weight"),
        ({"class_token": False, "global_pool": "avg"}, "lack a class token, which geomae needs"),
        ({"qkv_bias": False}, r"attn\.qkv\.bias is missing, which geomae's attention needs"),
        ({"mlp_ratio": 2}, r"48 inner features are not 4 times the width 24"),
        ({"patch_size": (4, 8)}, "patches of 4 x 8 are not square"),
        ({"img_size": (16, 32)}, "32 patches do not form a square grid"),
    ],
)
def test_what_our_blocks_have_not_is_refused_by_name(options, message):
    with pytest.raises(ModelError, match=message) as caught:
        converted(vision_transformer(**options))
    assert "\n" not in str(caught.value)


def test_a_distilled_transformer_is_refused():
    weights = vision_transformer().state_dict() | {"dist_token": torch.zeros(1, 1, 24)}
    with pytest.raises(
        ModelError, match=r"dist_token: the weights have a distillation token.*plain vision transformer"
    ):
        convert_mae(weights, heads=3, norm_eps=EPS)


def test_what_a_state_dict_of_timm_cannot_tell():
    with pytest.raises(ModelError, match=r"--norm-eps \(1e-6 in timm"):
        converted(vision_transformer(), norm_eps=None)
    with pytest.raises(ModelError, match=r"give them with --heads \(3 in tiny models\)"):
        convert_mae(vision_transformer(embed_dim=192, depth=1).state_dict(), norm_eps=EPS)


VARIANTS = {
    "as it is": {},
    "other epsilon": {"norm_eps": 1e-5},
    "positions of one grid": {"positions": "table", "grid": (4, 3)},
    "an encoder alone, deeper": {"decoder": None, "depth": 3, "heads": 4},
}


def stacked(name):
    """A stacked model for tiles of 16 x 12, with everything drawn."""
    settings = {"embedding": "stacked", "bands": 4, "patch": 4, "width": 24, "depth": 1, "heads": 2}
    settings["decoder"] = Decoder(width=16, depth=1, heads=2)
    mae = MaskedAutoencoder(Architecture.model_validate(settings | VARIANTS[name])).eval()
    rng = torch.Generator().manual_seed(2)
    drawn = {
        key: (value + 0.2 * torch.randn(value.shape, generator=rng) if value.is_floating_point() else value)
        for key, value in mae.state_dict().items()
    }
    mae.load_state_dict(drawn)
    return Model(mae, (RECORD,), {"tile": [16, 12]})


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_timm_builds_it_loads_it_strictly_and_gives_the_same_features(name, tmp_path):
    model = stacked(name)
    source = folder_of(model, tmp_path / "model")
    assert run(ConvertOptions(source, tmp_path / "out.safetensors", to="timm", quiet=True)) == 0
    told = json.loads((tmp_path / "out.safetensors.json").read_text(encoding="utf-8"))
    norm = partial(nn.LayerNorm, eps=told["norm_eps"])
    built = timm.create_model(told["model"], pretrained=False, norm_layer=norm, **told["arguments"]).eval()
    built.load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)
    pixels_BCHW, _ = tiles(3)
    wanted = built.forward_features(standardise(pixels_BCHW, torch.ones_like(pixels_BCHW).bool(), RECORD))
    by_class, patches = load_encoder(source, pooling="cls").embed(pixels_BCHW)
    same(by_class, wanted[:, 0])
    same(patches, wanted[:, 1:])
    assert (told["sensor"]["mean"], told["sensor"]["std"]) == (list(RECORD.mean_C), list(RECORD.std_C))
    assert [band["name"] for band in told["sensor"]["bands"]] == ["B02", "B04", "B8A", "B11"]


def test_the_line_that_is_printed_builds_the_model(tmp_path, capsys):
    run(
        ConvertOptions(folder_of(stacked("other epsilon"), tmp_path / "model"), tmp_path / "out.safetensors", to="timm")
    )
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith("build with "))
    assert line.startswith("build with timm.create_model('vit_base_patch16_224', img_size=(16, 12), patch_size=4")
    assert line.endswith("norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-05))")
    assert "features differ by at most" in printed
    assert "timm.create_model" in timm_weights(stacked("as it is"))[0].call()
    assert "norm_layer" not in timm_weights(stacked("as it is"))[0].call()  # timm's own epsilon


def test_the_account_of_an_export_names_every_key_once():
    model = stacked("as it is")
    exported, account = timm_weights(model)
    named = [entry.split(" ")[0] for entry in account.taken + account.adapted + account.left]
    assert sorted(named) == sorted(model.mae.state_dict())
    assert all(key.startswith("decoder.") for key in account.left)
    assert account.left
    assert account.new == ["pos_embed (sines and cosines of 4 x 3 patches)"]
    assert exported.state.keys() == exported.build().state_dict().keys()


def test_the_same_bytes_each_time(tmp_path):
    source = folder_of(stacked("as it is"), tmp_path / "model")
    written = []
    for name in ("a", "b"):
        run(ConvertOptions(source, tmp_path / f"{name}.safetensors", to="timm", quiet=True))
        written.append([(tmp_path / f"{name}{end}").read_bytes() for end in (".safetensors", ".safetensors.json")])
    assert written[0] == written[1]


def test_a_preset_goes_by_its_name_in_timm():
    shape = Architecture(embedding="stacked", bands=2, patch=16, width=192, depth=12, heads=3, decoder=None)
    exported, _ = timm_weights(tiny_model("stacked").using(RECORD), 16)
    assert exported.name == "vit_base_patch16_224"
    record = RECORD.select(["B02", "B04"])
    exported, _ = timm_weights(Model(MaskedAutoencoder(shape).eval(), (record,)), 32)
    assert exported.name == "vit_tiny_patch16_224"


@pytest.mark.parametrize("learned", [(), ("encoder",)])
def test_out_to_timm_and_back(learned, tmp_path):
    """Heads, epsilon, bands and statistics come back from the file beside the weights."""
    model, _ = convert_mae(published_weights(learned=learned), heads=3, decoder_heads=2, norm_eps=1e-5, target="none")
    model = Model(model.mae, (RECORD.select(["B04", "B02", "B11"]),), model.provenance)
    source, out = folder_of(model, tmp_path / "model"), tmp_path / "timm.safetensors"
    run(ConvertOptions(source, out, to="timm", quiet=True))
    run(ConvertOptions(out, tmp_path / "back", quiet=True))
    back = load_model(tmp_path / "back")
    assert back.record == model.record
    assert back.mae.architecture == model.mae.architecture.model_copy(update={"decoder": None})
    for name, value in back.mae.state_dict().items():
        assert torch.equal(value, model.mae.state_dict()[name]), name


@pytest.mark.parametrize("name", ["as it is", "positions of one grid"])
def test_tiles_that_are_not_square_come_back_too(name, tmp_path):
    model = stacked(name)
    run(ConvertOptions(folder_of(model, tmp_path / "model"), tmp_path / "vit.safetensors", to="timm", quiet=True))
    run(ConvertOptions(tmp_path / "vit.safetensors", tmp_path / "back", quiet=True))
    back = load_model(tmp_path / "back")
    assert back.mae.architecture == model.mae.architecture.model_copy(update={"decoder": None})
    assert back.provenance["tile"] == [16, 12]
    pixels_BCHW, _ = tiles()
    assert torch.equal(OwnEncoder(back).embed(pixels_BCHW)[1], OwnEncoder(model).embed(pixels_BCHW)[1])


@pytest.mark.parametrize("text", ["{}", "[]", '{"arguments": {"num_heads": "many"}}'])
def test_a_json_file_of_something_else_beside_weights_is_no_matter(text, tmp_path):
    save_file(vision_transformer().state_dict(), tmp_path / "vit.safetensors")
    (tmp_path / "vit.safetensors.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"vit\.safetensors: heads cannot be inferred"):
        run(ConvertOptions(tmp_path / "vit.safetensors", tmp_path / "out", quiet=True))


def test_the_reference_numbers_after_timm_and_back(shared_parity, tmp_path):
    expected = load_file(shared_parity / "mae_tiny.expected.safetensors")
    said = {"heads": 3, "decoder_heads": 4, "norm_eps": 1e-5, "target": "none"}
    run(ConvertOptions(shared_parity / "mae_tiny.pth", tmp_path / "model", **said, quiet=True))
    run(ConvertOptions(tmp_path / "model", tmp_path / "timm.safetensors", to="timm", quiet=True))
    (tmp_path / "timm.safetensors.json").unlink()  # as if it came from elsewhere
    run(ConvertOptions(tmp_path / "timm.safetensors", tmp_path / "back", heads=3, norm_eps=1e-5, quiet=True))
    by_class, patches = load_encoder(tmp_path / "back", pooling="cls").embed(expected["images"])
    same(by_class, expected["features"][:, 0])
    same(patches, expected["features"][:, 1:])
    assert read_weights(tmp_path / "timm.safetensors").keys() <= read_weights(shared_parity / "mae_tiny.pth").keys()


def test_a_spectral_model_is_refused_with_the_reason(tmp_path):
    source = folder_of(tiny_model("spectral"), tmp_path / "model")
    with pytest.raises(
        ModelError, match="timm cannot represent this model: a spectral embedding makes its patch kernels"
    ):
        run(ConvertOptions(source, tmp_path / "out.safetensors", to="timm", tile_size=16, quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("tile", "recorded", "positions", "message"),
    [
        (None, None, {}, r"does not record the size that it was trained on.*--tile-size PIXELS"),
        (None, "wide", {}, r"--tile-size PIXELS"),
        (18, [16, 12], {}, "a patch of 4 pixels does not divide a tile of 18 x 18"),
        (16, None, {"positions": "table", "grid": (2, 2)}, "positions for tiles of 8 x 8 only; leave it out"),
    ],
)
def test_the_size_of_the_tiles_must_be_known(tile, recorded, positions, message):
    model = tiny_model("stacked")
    shape = model.mae.architecture.model_copy(update=positions)
    model = Model(MaskedAutoencoder(shape).eval(), (RECORD,), {"tile": recorded})
    with pytest.raises(ModelError, match=message):
        timm_weights(model, tile)


def test_a_square_tile_may_be_recorded_as_one_number():
    model = Model(tiny_model("stacked").mae, (RECORD,), {"tile": 8})
    assert timm_weights(model)[0].arguments["img_size"] == (8, 8)
    assert timm_weights(model, 16)[0].arguments["img_size"] == (16, 16)


def test_the_check_sees_one_wrong_weight():
    model = stacked("as it is")
    exported, _ = timm_weights(model)
    assert check_timm(exported, model, OwnEncoder(model).embed) < 1e-5
    exported.state["norm.bias"] = exported.state["norm.bias"] + 1e-3
    with pytest.raises(ModelError, match="timm's features differ from the model's by"):
        check_timm(exported, model, OwnEncoder(model).embed)


def test_nothing_is_overwritten_and_names_say_what_is_inside(tmp_path):
    source = folder_of(stacked("as it is"), tmp_path / "model")
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "b.safetensors.json").touch()
    for name, message in (
        ("a.safetensors", r"a\.safetensors: exists"),
        ("b.safetensors", r"b\.safetensors\.json: exists"),
    ):
        with pytest.raises(StorageError, match=message):
            run(ConvertOptions(source, tmp_path / name, to="timm", quiet=True))
    with pytest.raises(ConfigError, match=r"--to timm writes a \.safetensors file; call it c\.pth\.safetensors"):
        run(ConvertOptions(source, tmp_path / "c.pth", to="timm", quiet=True))
