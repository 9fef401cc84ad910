"""Heads on encoders: shapes, what invalid pixels do, and the folder that they are kept in."""

import json
from dataclasses import replace

import pytest
import torch

from geomae.errors import ModelError
from geomae.models.finetuned import Finetuned, load_finetuned
from geomae.models.folder import TrainedHead, load_model, save_model
from geomae.models.head_record import LEARNED_TILES, Calibration, HeadRecord
from geomae.models.heads import PatchTokens, build_head
from tests.unit.tiny_models import BANDS, RECORD, SIDE, tiny_model

NAMES = tuple(band.name for band in BANDS)
CLASSES = ("field", "forest", "water")
LEARNED = {"near": {"learned": ["a:0:0", "a:0:16"], "held_out": ["b:0:0"]}}


def record_of(task="classification", kind="linear", **fields):
    classes = () if task == "regression" else CLASSES
    own = {"kind": kind, "task": task, "classes": classes, "bands": NAMES, "sensor": "s2", "tile": 16}
    own |= {"width": 8, "layer": 2}
    return HeadRecord(**own | fields)


def finetuned(record, embedding="spectral", depth=2):
    """A model with a head of random weights, so large that its logits differ."""
    model = tiny_model(embedding, depth=depth)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = build_head(model.mae.architecture, record).eval()
        for value in head.parameters():
            torch.nn.init.normal_(value, std=0.5)
    model = replace(model, head=TrainedHead(record, head, LEARNED))
    return Finetuned(model, record)


def tiles(seed=0):
    rng = torch.Generator().manual_seed(seed)
    pixels_BCHW = torch.rand(3, len(BANDS), 16, 16, generator=rng) * 0.3
    return pixels_BCHW, torch.ones_like(pixels_BCHW, dtype=torch.bool)


KINDS = [("classification", "linear"), ("regression", "linear"), ("segmentation", "linear"), ("segmentation", "conv")]


@pytest.mark.parametrize(("task", "kind"), KINDS)
@pytest.mark.parametrize("embedding", ["stacked", "grouped", "spectral"])
def test_a_head_says_something_of_every_tile_or_pixel(task, kind, embedding):
    """The values of invalid pixels have no part in it."""
    model = finetuned(record_of(task, kind), embedding)
    pixels_BCHW, valid_BCHW = tiles()
    valid_BCHW[0, :, :SIDE, :SIDE] = False
    first = model.logits(pixels_BCHW, valid_BCHW)
    wanted = {"classification": (3, 3), "regression": (3, 1), "segmentation": (3, 3, 16, 16)}[task]
    assert first.shape == wanted
    assert first.dtype == torch.float32
    assert first.std() > 0
    torch.testing.assert_close(model.logits(pixels_BCHW.where(valid_BCHW, torch.nan), valid_BCHW), first)


@pytest.mark.parametrize(("task", "kind"), KINDS)
def test_a_folder_gives_the_same_head_again(tmp_path, task, kind):
    record = record_of(task, kind, std=2.0, mean=7.0)
    model = finetuned(record)
    save_model(model.model, tmp_path / "model")
    again = load_finetuned(tmp_path / "model")
    pixels_BCHW, valid_BCHW = tiles()
    torch.testing.assert_close(again.logits(pixels_BCHW), model.logits(pixels_BCHW, valid_BCHW), rtol=0, atol=0)
    assert again.bands == NAMES
    assert again.record.model_copy(update={"learned_tiles": ""}) == record
    assert again.model.head.learned == LEARNED
    assert load_model(tmp_path / "model").using(RECORD).head is not None  # an encoder all the same, which keeps it


def test_a_number_is_given_in_its_unit():
    plain = finetuned(record_of("regression"))
    scaled = Finetuned(plain.model, record_of("regression", std=2.0, mean=7.0))
    pixels_BCHW, _ = tiles()
    torch.testing.assert_close(scaled.logits(pixels_BCHW), plain.logits(pixels_BCHW) * 2 + 7)


@pytest.mark.parametrize(("task", "kind"), [KINDS[0], KINDS[3]])
def test_probabilities_are_calibrated(task, kind):
    calibration = Calibration(temperature=2.0, bias=(0.0, 1.0, -1.0))
    model = finetuned(record_of(task, kind, calibration=calibration))
    pixels_BCHW, _ = tiles()
    logits = model.logits(pixels_BCHW) / 2
    logits[:, 1] += 1
    logits[:, 2] -= 1
    torch.testing.assert_close(model.probabilities(pixels_BCHW), logits.softmax(1))


def test_a_pixel_of_a_conv_head_does_not_depend_on_how_large_the_tile_is():
    """Of the head alone: what lies beyond the reach of its convolutions is of no account."""
    model = finetuned(record_of("segmentation", "conv"))
    head = model.model.head.module
    pixels_BCHW, valid_BCHW = torch.rand(1, len(BANDS), 64, 64), torch.ones(1, len(BANDS), 64, 64, dtype=torch.bool)
    tokens = torch.rand(1, 16 * 16, 24)

    def of(side):
        grid = side // SIDE
        cut = tokens.reshape(1, 16, 16, 24)[:, :grid, :grid].reshape(1, -1, 24)
        part = PatchTokens([cut] * len(head.layers), torch.ones(1, grid**2, dtype=torch.bool), (grid, grid))
        return head(part, pixels_BCHW[..., :side, :side], valid_BCHW[..., :side, :side])

    torch.testing.assert_close(of(64)[..., :20, :20], of(48)[..., :20, :20])


def test_what_a_folder_lacks_is_said(tmp_path):
    save_model(tiny_model(), tmp_path / "plain")
    with pytest.raises(ModelError, match=r"plain: has no head: .* `geomae finetune --model .*plain"):
        load_finetuned(tmp_path / "plain")
    save_model(finetuned(record_of()).model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / LEARNED_TILES).write_text("{}")
    with pytest.raises(ModelError, match=r"learned_tiles.json: is missing or was altered"):
        load_model(tmp_path / "model")
    config["head"]["kind"] = "conv"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config.json: kind: conv predicts pixels"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "conv"}, "conv predicts pixels"),
        ({"classes": ("one",)}, "at least two classes"),
        ({"codes": (1, 2)}, "need one value per class"),
        ({"calibration": Calibration(bias=(0.0,))}, "need one value per class"),
    ],
)
def test_a_record_is_consistent(fields, message):
    with pytest.raises(ValueError, match=message):
        record_of(**fields)
