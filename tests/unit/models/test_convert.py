"""Foreign weights: what is read, what is refused with which remedy, and that nothing in a file is ever run."""

import argparse
import os
import pickle
import random

import pytest
import torch
from published_mae import published_weights
from safetensors.torch import save_file
from typer.testing import CliRunner

from geomae.cli import app
from geomae.commands.convert import ConvertOptions, run
from geomae.errors import ConfigError, GeomaeError, ModelError, StorageError
from geomae.models.convert import convert_mae, import_weights, read_weights
from geomae.models.convert.mae import architecture_of
from geomae.models.folder import load_model

SETTINGS = {"heads": 3, "decoder_heads": 2, "norm_eps": 1e-5, "target": "none"}


class Runs:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(path, content, **settings):
    torch.save(content, path, **settings)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda w: w, lambda w: {"model": w, "epoch": 7}, lambda w: {"state_dict": {"model": w}}]
)
def test_state_dicts_are_found_where_trainings_put_them(tmp_path, wrap, zipped):
    weights = published_weights()
    read = read_weights(saved(tmp_path / "a.pth", wrap(weights), _use_new_zipfile_serialization=zipped))
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], value) for key, value in weights.items())


def test_half_precision_weights_become_float32():
    weights = {key: value.half() for key, value in published_weights().items()}
    model, _ = convert_mae(weights, **SETTINGS)
    assert {value.dtype for value in model.mae.state_dict().values()} == {torch.float32}
    expected = weights["blocks.0.mlp.fc1.weight"].float()
    assert torch.equal(model.mae.encoder.blocks[0].mlp.fc1.weight, expected)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, how):
    trap, path = tmp_path / "trap", tmp_path / "evil.pth"
    content = {"model": published_weights(depth=1), "more": Runs(trap)}
    if how == "plain":
        path.write_bytes(pickle.dumps(content["more"], protocol=2))
    else:
        saved(path, content, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ModelError, match=r"evil\.pth: would run code.*save its plain state dict as \.safetensors"):
        read_weights(path)
    assert not trap.exists()
    content["more"].__reduce__()[0](trap)  # the trap does work
    assert trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_options_of_a_training_beside_its_weights_are_no_code(tmp_path, zipped):
    """As the published training scripts of masked autoencoders, timm and DINO save them."""
    weights = published_weights(depth=1)
    options = argparse.Namespace(
        lr=1.5e-4, epochs=800, output_dir="./out", betas=(0.9, 0.95), inner=argparse.Namespace()
    )
    content = {"model": weights, "optimizer": {"state": {0: {"step": 1}}}, "epoch": 799, "scaler": {"scale": 65536.0}}
    path = tmp_path / "checkpoint-799.pth"
    saved(path, content | {"args": options}, _use_new_zipfile_serialization=zipped)
    read = read_weights(path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], value) for key, value in weights.items())
    with pytest.raises(pickle.UnpicklingError, match="argparse"):
        torch.load(path, weights_only=True)  # allowed for this one reading, and not for whoever reads next


@pytest.mark.parametrize("zipped", [True, False])
def test_options_that_would_run_code_are_refused_by_name(tmp_path, zipped):
    trap, path = tmp_path / "trap", tmp_path / "evil.pth"
    for inside, name in ((Runs(trap), r"\w+\.mkdir"), (tmp_path, r"pathlib\S*\.PosixPath")):
        content = {"model": published_weights(depth=1), "args": argparse.Namespace(output_dir=inside)}
        saved(path, content, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelError, match=rf"evil\.pth: would run code \(it holds {name}\).*\.safetensors"):
            read_weights(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("module.", lambda w: named("module.", w)),
        ("model.", lambda w: {"state_dict": named("model.", w), "epoch": 3}),
        ("encoder.", lambda w: {"state_dict": named("encoder.", w) | {"projector.weight": torch.ones(2)}}),
        ("backbone.", lambda w: {"backbone": w, "epoch": 3}),
        ("module.encoder.", lambda w: {"model": named("module.encoder.", w)}),
        ("model_state_dict.", lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}}, "loss": 0.1}),
        ("teacher.backbone.", lambda w: {"student": named("module.backbone.", w), "teacher": named("backbone.", w)}),
    ],
)
def test_weights_under_a_prefix_are_found_and_the_account_names_it(tmp_path, prefix, wrap):
    weights = published_weights(decoder=None)
    expected, _ = convert_mae(weights, heads=3, norm_eps=1e-5)
    source = saved(tmp_path / "w.pth", wrap(weights))
    model, account = import_weights(source, heads=3, norm_eps=1e-5)
    assert all(torch.equal(value, expected.mae.state_dict()[key]) for key, value in model.mae.state_dict().items())
    (line,) = [note for note in account.notes if note.startswith("removed the prefix ")]
    assert line.split()[3] == prefix
    others = [key for key in read_weights(source) if not key.startswith(prefix)]
    assert [key for key in account.left if key in others] == others
    assert line.endswith(f"; {len(others)} other keys were left out") == bool(others)


def named(prefix, weights):
    return {f"{prefix}{key}": value for key, value in weights.items()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # a changed byte can claim any protocol
def test_damaged_files_are_refused_in_one_line(tmp_path, zipped):
    path = saved(tmp_path / "w.pth", published_weights(depth=1), _use_new_zipfile_serialization=zipped)
    whole, rng = path.read_bytes(), random.Random(0)
    for kept in (0, 1, 100, len(whole) // 2, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(20))):
        path.write_bytes(whole[:kept])
        with pytest.raises(ModelError, match=r"w\.pth: .*(fetch it again|as \.safetensors)"):
            read_weights(path)
    for _ in range(40):  # a changed byte may be one of a weight and pass; it must never end in a traceback
        altered = bytearray(whole)
        for _ in range(4):
            altered[rng.randrange(2000)] = rng.randrange(256)
        path.write_bytes(altered)
        try:
            read_weights(path)
        except ModelError as error:
            assert "w.pth" in str(error)


def test_a_damaged_or_absent_safetensors_file(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(published_weights(depth=1), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"w\.safetensors: is damaged.*fetch it again"):
        read_weights(path)
    for name in ("absent.pth", "absent.safetensors"):
        with pytest.raises(ModelError, match=f"{name}: does not exist"):
            read_weights(tmp_path / name)
    with pytest.raises(ModelError, match=f"{tmp_path.name}: is damaged or not a weight file"):
        read_weights(tmp_path)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, bad):
    weights = published_weights()
    weights["blocks.1.mlp.fc1.bias"][3] = bad
    with pytest.raises(ModelError, match=r"blocks\.1\.mlp\.fc1\.bias holds NaN or infinite"):
        read_weights(saved(tmp_path / "a.pth", {"model": weights}))


def test_files_without_a_state_dict(tmp_path):
    endless = {"model": {}}
    endless["model"]["model"] = endless["model"]
    for content, held in (
        ([torch.ones(1)], ""),
        (torch.ones(1), ""),
        ({"epoch": 3, "args": argparse.Namespace()}, r" \(it has epoch, args\)"),
        (endless, r" \(it has model\)"),
    ):
        with pytest.raises(ModelError, match=rf"holds no state dict{held}; geomae reads"):
            read_weights(saved(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    ("unsaid", "remedy"),
    [
        ("heads", "--heads"),
        ("decoder_heads", "--decoder-heads"),
        ("norm_eps", "--norm-eps"),
        ("target", "--target none or --target patch"),
    ],
)
def test_what_weights_cannot_tell_must_be_said(unsaid, remedy):
    with pytest.raises(ModelError, match=remedy):
        convert_mae(published_weights(), **(SETTINGS | {unsaid: None}))


def test_an_encoder_alone_needs_heads_and_epsilon_only():
    model, _ = convert_mae(published_weights(decoder=None), heads=3, norm_eps=1e-5)
    assert model.mae.decoder is None
    with pytest.raises(ModelError, match="an encoder alone and cannot reconstruct"):
        model.reconstruct(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(("width", "depth", "heads"), [(768, 12, 12), (1024, 24, 16), (1280, 32, 16)])
def test_a_published_size_needs_no_heads_and_no_epsilon(width, depth, heads):
    """Read off the shapes alone: building one of these takes seconds."""
    weights = {
        "patch_embed.proj.weight": torch.zeros(1).expand(width, 3, 16, 16),
        "pos_embed": torch.zeros(1, 5, width),
        f"blocks.{depth - 1}.norm1.weight": torch.zeros(width),
        "decoder_embed.weight": torch.zeros(512, width),
        "decoder_blocks.7.norm1.weight": torch.zeros(512),
    }
    shape = architecture_of(weights, None, None, None, "patch")
    assert (shape.heads, shape.norm_eps, shape.depth) == (heads, 1e-6, depth)
    assert (shape.decoder.heads, shape.decoder.depth) == (16, 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 5}, "5 does not divide the width 24"),
        ({"heads": -3}, "heads: must be greater than 0"),
        ({"decoder_heads": 3}, "3 does not divide the decoder's width 16"),
        ({"decoder_heads": -2}, "heads: must be greater than 0"),
        ({"norm_eps": 0.0}, "norm_eps: must be greater than 0"),
        ({"norm_eps": float("nan")}, "norm_eps: must be a finite number"),
        ({"target": "pixels"}, "target: must be 'none', 'patch' or 'patch-band'"),
    ],
)
def test_settings_that_do_not_fit(wrong, message):
    with pytest.raises(ModelError, match=message):
        convert_mae(published_weights(), **(SETTINGS | wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_embed.proj.weight": None}, "not weights of the published masked autoencoder"),
        ({"pos_embed": torch.zeros(17, 24)}, "not weights of the published masked autoencoder"),
        ({"pos_embed": torch.zeros(1, 15, 24)}, "14 patches do not form a square grid"),
        ({"decoder_pos_embed": torch.zeros(17, 16)}, "do not fit together"),
        ({"decoder_pred.weight": torch.zeros(47, 16)}, "do not fit together"),
        ({"blocks.1.attn.qkv.weight": torch.zeros(24, 24)}, "do not fit together"),
        ({"decoder_embed.weight": torch.zeros(())}, "do not fit together"),
        ({"norm.weight": None}, r"lack encoder\.norm\.weight"),
        ({"blocks.0.norm1.bias": None}, r"lack encoder\.blocks\.0\.norm1\.bias"),
    ],
)
def test_weights_that_are_not_in_the_layout(change, message):
    weights = {key: value for key, value in (published_weights() | change).items() if value is not None}
    with pytest.raises(ModelError, match=message):
        convert_mae(weights, **SETTINGS)


def test_bands_must_be_named_where_there_are_not_three():
    with pytest.raises(ModelError, match="5 input bands, but 3 were named"):
        convert_mae(published_weights(bands=5), **SETTINGS)


def test_the_account_names_what_was_left():
    more = {"head.weight": torch.zeros(10, 24), "mask_token": torch.zeros(1, 1, 16)}
    weights = published_weights(decoder=None) | more
    _, account = convert_mae(weights, heads=3, norm_eps=1e-5)
    assert sorted(account.left) == ["head.weight", "mask_token"]


def test_the_command_leaves_a_model_folder_that_knows_where_it_came_from(tmp_path, capsys):
    source, out = saved(tmp_path / "w.pth", published_weights(depth=1)), tmp_path / "model"
    assert run(ConvertOptions(source, out, **SETTINGS, quiet=False)) == 0
    model = load_model(out)
    assert model.provenance["source"] == "w.pth"
    assert len(model.provenance["sha256"]) == 64
    assert [band.common_name for band in model.record.bands] == ["red", "green", "blue"]
    assert (model.record.mean_C, model.record.std_C) == ((0.0,) * 3, (1.0,) * 3)
    assert "taken" in capsys.readouterr().out
    with pytest.raises(StorageError, match="exists"):
        run(ConvertOptions(source, out, **SETTINGS, quiet=True))
    with pytest.raises(ConfigError, match="--target band: choose none or patch"):
        run(ConvertOptions(source, tmp_path / "other", **(SETTINGS | {"target": "band"}), quiet=True))


def test_a_refused_conversion_leaves_nothing(tmp_path):
    source = saved(tmp_path / "w.pth", published_weights(depth=1))
    with pytest.raises(GeomaeError):
        run(ConvertOptions(source, tmp_path / "model", **(SETTINGS | {"heads": None}), quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_the_command_line_says_it_in_one_line(tmp_path):
    source = saved(tmp_path / "w.pth", published_weights(depth=1))
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "model"), "--decoder-heads", "2"])
    assert done.exit_code == 2
    assert "give them with --heads" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
