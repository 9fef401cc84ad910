"""Galileo goes on learning: what its network says is what the encoder says, and its folder is read again.

B tiles, C bands, H W pixels
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_galileo import published_layout, write_galileo

from geomae.encoders import load_encoder, parse_encoders
from geomae.encoders.galileo_training import galileo_start
from geomae.models.folder import standardise
from geomae.models.masking import Mask
from geomae.models.trainable import View
from geomae.models.trainable_weights import merged, unfreeze
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord

torch.set_num_threads(1)
BANDS = tuple(sensor("hls-l30").band(name) for name in ("B02", "B03", "B04", "B05", "B06", "B07"))
RECORD = SensorRecord("hls-l30", "reflectance", 30.0, BANDS, (0.15,) * 6, (0.05,) * 6)
METHODS = ("full", "last-blocks", "lora", "norm", "heads")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_galileo(tmp_path_factory.mktemp("galileo") / "tiny", published_layout())
    (made / "LICENSE").write_text("free")
    return made


def start(folder):
    return galileo_start(parse_encoders([f"galileo:{folder}?month=7"])[0])


def pixels_and_valid():
    rng = torch.Generator().manual_seed(1)
    pixels = 0.02 + 0.4 * torch.rand(2, 6, 16, 16, generator=rng)
    valid = torch.ones_like(pixels, dtype=torch.bool)
    valid[0, :, :5] = False
    return pixels, valid


def view(pixels, valid, gsd_m=None):
    order = torch.arange(16).expand(len(pixels), -1)
    return View(standardise(pixels, valid, RECORD), valid, torch.zeros(6, 1), Mask(order, 4), gsd_m)


def test_a_view_is_what_the_encoder_says_of_the_whole_tile(folder):
    pixels, valid = pixels_and_valid()
    network = start(folder).network([RECORD])
    found, loss = network.read(view(pixels.masked_fill(~valid, torch.nan), valid), False)
    expected, _ = load_encoder(f"galileo:{folder}?month=7", imagery=RECORD).embed(pixels, valid)
    assert loss is None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.shape == (2, network.width)


def test_the_ground_sample_distance_may_differ_by_tile(folder):
    pixels, valid = pixels_and_valid()
    network = start(folder).network([RECORD])
    both, _ = network.read(view(pixels, valid, torch.tensor([30.0, 15.0])), False)
    for place, gsd_m in enumerate((30.0, 15.0)):
        encoder = load_encoder(f"galileo:{folder}?month=7", imagery=replace(RECORD, gsd_m=gsd_m))
        torch.testing.assert_close(both[place], encoder.embed(pixels, valid)[0][place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_its_part_and_the_folder_is_read_again(folder, method, tmp_path):
    begun = start(folder)
    network = begun.network([RECORD])
    share = unfreeze(network, method, blocks=int(method == "last-blocks"), rank=2, pixels=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn(value.shape)
    assert share.trained == sum(value.numel() for value in network.parameters() if value.requires_grad)
    assert (share.trained == 0) == (method == "heads")
    begun.with_weights(merged(network.state_dict())).save(tmp_path / "model", {"adapted": {}})
    pixels, valid = pixels_and_valid()
    text = begun.reference(tmp_path / "model")
    assert text == f"galileo:{tmp_path / 'model'}?month=7"
    found, _ = load_encoder(text, imagery=RECORD).embed(pixels, valid)
    with torch.no_grad():
        expected, _ = network.read(view(pixels, valid), False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    before, after = published_layout(), load_file(tmp_path / "model" / "encoder.safetensors")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert set(after) == set(before)
    assert not {name for name in changed if "Red_Edge" in name or "ERA5" in name or ".S1." in name}
    if method == "last-blocks":
        assert {name for name in changed if ".0." in name} == {
            f"blocks.0.norm{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")
        }
    assert bool(changed) == (method != "heads")
    assert (tmp_path / "model" / "LICENSE").read_text() == "free"
    again = galileo_start(parse_encoders([text])[0])
    assert again.provenance == {"adapted": {}}
