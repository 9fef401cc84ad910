"""Corrections of low rank, and which weights each method of adaptation lets learn."""

import pytest
import torch
from tiny_models import BANDS, RECORD, tiles, tiny_mae, tiny_model

from geomae.errors import ConfigError
from geomae.models.folder import Model, load_model, save_model
from geomae.models.trainable_weights import LowRankLinear, add_low_rank, merged, unfreeze


def adapted(decoder="full", method="lora", blocks=0):
    """A model whose learning weights have moved, as training would leave it."""
    mae = tiny_mae(depth=2, decoder=decoder)
    torch.manual_seed(1)
    share = unfreeze(mae, method, blocks=blocks, rank=2)
    with torch.no_grad():
        for value in mae.parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn(value.shape)
    return mae, share


def test_a_correction_begins_at_nothing():
    pixels, _ = tiles()
    before = tiny_model(depth=2)
    after = tiny_mae(depth=2)
    unfreeze(after, "lora", blocks=0, rank=2)
    assert torch.equal(Model(after, (RECORD,)).reconstruct(pixels)[0], before.reconstruct(pixels)[0])


@pytest.mark.parametrize("decoder", ["full", "cross"])
def test_the_merged_model_gives_what_the_adapted_one_gives(decoder, tmp_path):
    mae, _ = adapted(decoder)
    plain = tiny_mae(depth=2, decoder=decoder)
    names = list(plain.state_dict())
    weights = merged(mae.state_dict())
    assert list(weights) == names
    plain.load_state_dict(weights)
    save_model(Model(plain, (RECORD,)), tmp_path / "model")
    pixels, _ = tiles()
    expected = Model(mae, (RECORD,)).reconstruct(pixels)[0]
    found = load_model(tmp_path / "model").reconstruct(pixels)[0]
    assert (found - expected).abs().max() < 1e-5
    assert (found - tiny_model(depth=2).reconstruct(pixels)[0]).abs().max() > 1e-3 or decoder == "cross"


@pytest.mark.parametrize("method", ("full", "last-blocks", "lora", "norm"))
def test_what_does_not_learn_stays(method):
    mae, share = adapted(method=method, blocks=1)
    before, after = tiny_mae(depth=2).state_dict(), merged(mae.state_dict())
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    own = {name for name, value in mae.named_parameters() if value.requires_grad}
    assert share.trained == sum(value.numel() for value in mae.parameters() if value.requires_grad)
    assert share.total == sum(value.numel() for value in tiny_mae(depth=2).parameters())
    norms = {name for name in before if "norm" in name}
    assert norms <= changed
    last = {name for name in before if name.startswith("encoder.blocks.1.")}
    first = {name for name in before if name.startswith("encoder.blocks.0.")} - norms
    if method == "full":
        assert changed == set(before)
        assert share.share == 1
    elif method == "norm":
        assert changed == norms == own
    elif method == "last-blocks":
        assert changed == norms | last | {name for name in before if name.startswith("decoder.")}
    else:
        assert changed & first == {name for name in first if name.endswith(".weight")}
        assert last <= changed
        assert "encoder.embedding.basis.kernels" not in changed
        assert "encoder.embedding.basis.mixture.weight" in changed  # a new band is another mixture


def test_a_rank_is_never_more_than_half_of_the_map():
    box = torch.nn.Sequential(torch.nn.Linear(6, 20, bias=False))
    add_low_rank(box, 8)
    add_low_rank(box, 8)  # what has a correction gets no second one
    assert isinstance(box[0], LowRankLinear)
    assert box[0].up_OR.shape == (20, 3)
    assert sorted(box.state_dict()) == ["0.down_RI", "0.up_OR", "0.weight"]


def test_what_a_model_has_not_cannot_learn():
    with pytest.raises(ConfigError, match="--blocks 3: the encoder has 1 blocks"):
        unfreeze(tiny_mae(), "lora", blocks=3, rank=2)
    with pytest.raises(ConfigError, match="the model is convolutional"):
        unfreeze(tiny_mae("cae", bands=len(BANDS)), "lora", blocks=0, rank=2)
    assert unfreeze(tiny_mae("cae"), "norm", blocks=0, rank=2).share < 0.1
