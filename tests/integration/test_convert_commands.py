"""`geomae convert` as people run it: every direction once, and what goes wrong in one line."""

import pytest
import torch
from helpers import called, refused
from safetensors.torch import load_file

from geomae.encoders import load_encoder

SAID = ("--heads", 3, "--decoder-heads", 4, "--norm-eps", 1e-5, "--target", "none")


@pytest.fixture(scope="module")
def model(shared_parity, tmp_path_factory):
    """The reference weights as a model folder, made by the command."""
    folder = tmp_path_factory.mktemp("converted")
    done = called("convert", shared_parity / "mae_tiny.pth", "model", *SAID, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "taken 57: cls_token, mask_token, " in done.stdout
    assert "blocks.0-1.attn.qkv.weight" in done.stdout
    assert "decoder_pred.weight (bands first)" in done.stdout
    assert "left 0\nnew 0\n" in done.stdout
    return folder / "model"


def test_out_to_timm_and_back(model, shared_parity, tmp_path):
    done = called("convert", model, "vit.safetensors", "--to", "timm", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "checked: loads strictly" in done.stdout
    assert "left 31: decoder.mask_token" in done.stdout
    back = called("convert", "vit.safetensors", "back", "--heads", 3, "--norm-eps", 1e-5, cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    expected = load_file(shared_parity / "mae_tiny.expected.safetensors")
    _, patches = load_encoder(tmp_path / "back").embed(expected["images"])
    torch.testing.assert_close(patches, expected["features"][:, 1:], atol=1e-5, rtol=0)


def test_out_to_onnx(geomae, model, shared_parity, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    done = geomae("convert", model, "vit.onnx", "--to", "onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "checked with onnxruntime" in done.stdout
    assert done.stderr == ""
    expected = load_file(shared_parity / "mae_tiny.expected.safetensors")
    session = runtime.InferenceSession(str(tmp_path / "vit.onnx"), providers=["CPUExecutionProvider"])
    tile_BD, patches_BND = session.run(None, {"pixels_BCHW": expected["images"].numpy()})
    wanted = expected["features"][:, 1:]
    torch.testing.assert_close(torch.from_numpy(patches_BND), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.from_numpy(tile_BD), wanted.mean(1), atol=1e-4, rtol=0)


def test_other_bands_and_plain_weights(model, tmp_path):
    done = called("convert", model, "four", "--bands", "sentinel-2-l2a:blue,green,red,nir", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "band B08 (nir): averaged over red, green, blue" in done.stdout
    plain = called("convert", "four", "plain.safetensors", "--to", "safetensors", "--quiet", cwd=tmp_path)
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, "", "")


def test_what_goes_wrong_is_one_line(model, shared_parity, tmp_path):
    refused(
        called("convert", shared_parity / "mae_tiny.pth", "out", cwd=tmp_path), "mae_tiny.pth", "give them with --heads"
    )
    refused(called("convert", model, "out.onnx", "--to", "onx", cwd=tmp_path), "--to onx", "timm, onnx or safetensors")
    assert not any(tmp_path.iterdir())
