"""The model folder: what is written comes back, what is not whole is refused; sensors, subsets and masks of a model."""

import json

import pytest
import torch
from safetensors import safe_open
from tiny_models import BANDS, MODELS, RECORD, TARGETS, tiles, tiny_mae, tiny_model

import geomae
from geomae.config import Decoder
from geomae.errors import BandMismatchError, ModelError, StorageError
from geomae.models.architecture import PRESETS, Architecture, architecture
from geomae.models.folder import Model, load_model, regular_quarter, save_model
from geomae.models.masking import mask_from_patches, visible_first
from geomae.sensors.record import SensorRecord

RADAR = SensorRecord("s1", "decibel", None, BANDS[:2], (-12.0, -18.0), (3.0, 4.0))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("embedding", MODELS)
def test_a_model_comes_back_as_it_was(embedding, target, tmp_path):
    model = Model(tiny_mae(embedding, target), (RECORD, RADAR), {"run": "abc"})
    save_model(model, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "model", "model.safetensors"]
    back = geomae.load_model(str(tmp_path / "model"))
    assert back.mae.architecture == model.mae.architecture
    assert (back.sensors, back.provenance) == (model.sensors, model.provenance)
    pixels, valid = tiles(gaps=0.1)
    for one, two in zip(model.reconstruct(pixels, valid), back.reconstruct(pixels, valid), strict=True):
        assert torch.equal(one, two)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_model(tiny_model(), tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as stored:
        assert len(stored.metadata() or {}) <= 1  # with more keys their order, and so the bytes, differ from run to run
    with pytest.raises(StorageError, match=str(tmp_path / "a")):
        save_model(tiny_model(), tmp_path / "a")


def damage(folder, edit):
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(sensors=[]), "names no sensor; a model must know its bands and statistics"),
        (lambda c: c.pop("sensors"), "'sensors' is missing; train or convert the model again"),
        (lambda c: c["sensors"][0].pop("mean"), "record of bands and statistics is invalid"),
        (lambda c: c["sensors"][0].pop("bands"), "record of bands and statistics is invalid"),
        (lambda c: c["sensors"][0]["mean"].pop(), "4 bands.* 3 means.* 4 standard deviations"),
        (lambda c: c["sensors"][0].update(std=[1, 1, 0, 1]), "4 bands.* 4 means.* 4 standard deviations"),
        (lambda c: c["sensors"][0]["bands"][0].pop("wavelength_um"), "wavelength_um"),
        (lambda c: c["architecture"].update(width=25), "heads: 2 does not divide the width 25"),
        (lambda c: c["architecture"].update(depht=2), "unknown key 'depht'; did you mean 'depth'"),
        (lambda c: c["architecture"].update(width=48), r"model\.safetensors: does not fit config\.json or is damaged"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(edit, message, tmp_path):
    save_model(tiny_model(), tmp_path / "model")
    damage(tmp_path / "model", edit)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(tmp_path / "model")
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"is not a model folder \(no config.json\)"):
        load_model(tmp_path)
    save_model(tiny_model(), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"does not fit config\.json or is damaged"):
        load_model(tmp_path / "model")
    weights.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not valid JSON"):
        load_model(tmp_path / "model")


def test_another_sensor_and_a_subset_of_bands():
    model = Model(tiny_mae("spectral"), (RECORD, RADAR))
    assert model.record == RECORD
    assert model.for_sensor("s1").record == RADAR
    two = model.for_sensor("s2", ("B11", "B02")).record
    assert [band.name for band in two.bands] == ["B11", "B02"]
    assert (two.mean_C, two.std_C) == ((0.2, 0.05), (0.05, 0.02))
    pixels, _ = tiles()
    assert model.for_sensor("s2", ("B11", "B02")).reconstruct(pixels[:, [3, 0]])[0].shape == (2, 2, 16, 12)
    with pytest.raises(ModelError, match="no statistics for sensor 's3'; known: s1, s2"):
        model.for_sensor("s3")
    with pytest.raises(BandMismatchError, match="no statistics for band B12 of s2; the model knows B02, B04, B8A, B11"):
        model.for_sensor("s2", ("B02", "B12"))


@pytest.mark.parametrize("bands", [("B02", "B04"), ("B04", "B02", "B8A", "B11")])
def test_a_stacked_model_takes_its_own_bands_in_their_order_only(bands):
    """In another order every band would go through the weights of another one, without a word."""
    with pytest.raises(ModelError, match="a stacked embedding needs its 4 bands in the order it was trained with"):
        tiny_model("stacked").for_sensor("s2", bands)
    assert tiny_model("stacked").for_sensor("s2", ("B02", "B04", "B8A", "B11")).record == RECORD


def test_reconstruct_scores_hidden_valid_pixels_only():
    model, (pixels, valid) = tiny_model(), tiles(gaps=0.2)
    visible_BN = torch.zeros(2, 12, dtype=torch.bool)
    visible_BN[:, [0, 7]] = True
    predicted, loss = model.reconstruct(pixels, valid, visible_BN)
    assert predicted.shape == pixels.shape
    std = torch.tensor(RECORD.std_C)[:, None, None]
    hidden = ~visible_BN.reshape(2, 4, 3).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    error = ((predicted - pixels) / std).square()[hidden.expand_as(pixels) & valid]
    torch.testing.assert_close(loss, error.mean(), rtol=1e-4, atol=1e-5)


def test_masks_of_a_batch_must_agree():
    uneven = torch.tensor([[True, False, False, False], [True, True, False, False]])
    for mask in (uneven, torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)):
        with pytest.raises(ModelError, match="must show the same number of patches, and hide some"):
            visible_first(mask)
    order = visible_first(torch.tensor([[False, True, False, True], [True, False, True, False]]))
    assert order.tolist() == [[1, 3, 0, 2], [0, 2, 1, 3]]
    assert regular_quarter(2, 4, 5).reshape(2, 4, 5).sum((1, 2)).tolist() == [6, 6]
    assert regular_quarter(1, 2, 2).tolist() == [[True, False, False, False]]


def test_presets_and_what_an_architecture_refuses():
    assert PRESETS["tiny"] == (192, 12, 3)
    assert PRESETS["huge"] == (1280, 32, 16)
    made = architecture("small", bands=6, patch=8, embedding="stacked", target="patch", decoder=Decoder())
    assert (made.width, made.depth, made.heads, made.bands, made.target) == (384, 12, 6, 6, "patch")
    with pytest.raises(ValueError, match="stored positions need the rows and columns"):
        Architecture(bands=3, patch=4, width=24, depth=1, heads=2, positions="table")


def test_a_mask_made_of_patches_shows_them_in_every_group():
    visible_BN = torch.tensor([[False, True, False, True], [True, False, True, False]])
    plain = mask_from_patches(visible_BN)
    assert (plain.visible, plain.patches) == (2, 4)
    assert torch.equal(plain.visible_BX(), visible_BN)
    assert torch.equal(plain.predicted_patches().sort(1)[0], torch.tensor([[0, 2], [1, 3]]))
    grouped = mask_from_patches(visible_BN, ((0, 2), (1,)))
    assert (grouped.visible, grouped.patches) == (4, 4)
    seen_BNC, hidden_BNC = grouped.seen_and_hidden(3)
    assert torch.equal(seen_BNC, visible_BN[:, :, None].expand(-1, -1, 3))
    assert torch.equal(hidden_BNC, ~seen_BNC)
    cut = grouped.each(lambda values: values[:1])
    assert torch.equal(cut.order_BX, grouped.order_BX[:1])
    assert cut.shown_BC is None
