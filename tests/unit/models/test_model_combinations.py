"""Every embedding with every mask, decoder and target: losses, gradients, what counts, and the folder of the model.

B batch, C bands, N patches, X tokens
"""

import numpy as np
import pytest
import torch
from tiny_models import BANDS, DECODERS, EMBEDDINGS, GROUPS, MODELS, RECORD, SIDE, TARGETS, tiles, tiny_mae

from geomae.errors import ModelError
from geomae.models.band_embedding import band_codes
from geomae.models.folder import Model, load_model, save_model, standardise
from geomae.models.masking import Mask, MaskRules, draw_mask, visible_tokens
from geomae.models.patches import patchify
from geomae.randomness import generator

CODES, ROWS, COLS = band_codes(BANDS), 4, 6
N = ROWS * COLS
MASKS = {
    "random": MaskRules(0.75),
    "block": MaskRules(0.5, "block"),
    "grid": MaskRules(0.75, "grid"),
    "bands": MaskRules(0.5, "bands"),
    "independent": MaskRules(0.75, scope="independent"),
    "dropped bands": MaskRules(0.75, band_dropout=0.5),
    "a share": MaskRules(0.75, shuffled=True),
}


def mask_of(name, embedding, count=3):
    """Order (B, X), visible tokens, shown bands (B, C) or None, and how many hidden patches are predicted."""
    rules = MASKS[name]
    if embedding == "grouped":
        rules = MaskRules(rules.ratio, rules.kind, rules.scope, groups=GROUPS)
    usable = np.ones(N, dtype=bool)
    draws = [draw_mask(usable, (ROWS, COLS), len(BANDS), rules, generator(1, "mask", k)) for k in range(count)]
    order = torch.from_numpy(np.stack([order for order, _ in draws]))
    groups = GROUPS if embedding == "grouped" else None
    shown = None if draws[0][1] is None else torch.from_numpy(np.stack([shown for _, shown in draws]))
    predicted = 5 if rules.shuffled else None
    return Mask(order, visible_tokens(N, len(BANDS), rules), shown, groups, predicted)


def allowed(embedding, mask):
    """Combinations that the configuration refuses need not work."""
    return not (embedding == "grouped" and mask in ("dropped bands", "a share")) and not (
        embedding != "grouped" and mask == "independent"
    )


CASES = [(e, m) for e in MODELS for m in MASKS if allowed(e, m)]
DECODED = [(e, m, d) for e, m in CASES for d in DECODERS if e != "cae" or d == "full"]  # it has a decoder of its own


@pytest.mark.parametrize(("embedding", "mask", "decoder"), DECODED)
def test_losses_and_gradients_are_finite_and_blind_to_invalid_pixels(embedding, mask, decoder):
    mae = tiny_mae(embedding, "patch-band", decoder=decoder)
    pixels, valid = tiles(3, ROWS * SIDE, COLS * SIDE, gaps=0.1)
    valid[0, 1] = False  # a band that a whole tile lacks

    def results(fill):
        filled = standardise(pixels.masked_fill(~valid, fill), valid, RECORD)
        loss = mae(filled.masked_fill(~valid, fill), valid, CODES, mask_of(mask, embedding))
        gradients = torch.autograd.grad(loss.mean(), list(mae.parameters()), allow_unused=True)
        return [loss.sum_B, loss.count_B, *(one for one in gradients if one is not None)]

    clean = results(0.0)
    assert all(torch.isfinite(one).all() for one in clean)
    assert (clean[1] > 0).all()
    assert sum(bool(one.any()) for one in clean[2:]) > 0.8 * len(clean[2:]), "most weights are trained"
    for fill in (torch.nan, 1e30):
        assert all(torch.equal(a, b) for a, b in zip(clean, results(fill), strict=True))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("embedding", "mask"), CASES)
def test_targets_score_zero_and_only_hidden_valid_pixels_count(embedding, mask, target):
    mae = tiny_mae(embedding, target)
    pixels, valid = tiles(3, ROWS * SIDE, COLS * SIDE, gaps=0.2)
    patches, valid_BNCP = patchify(standardise(pixels, valid, RECORD), SIDE), patchify(valid, SIDE)
    drawn = mask_of(mask, embedding)
    wanted, usable, scored = drawn.scored_pixels(valid_BNCP)
    chosen = torch.stack([tile[places] for tile, places in zip(patches, wanted, strict=True)])
    from geomae.models.patches import normalise, patch_statistics

    own = normalise(chosen, patch_statistics(chosen, usable, target))
    assert float(mae.score(own, chosen, usable, scored).mean()) < 1e-10
    changed = own + torch.where(scored, 0, 7.0)
    assert float(mae.score(changed, chosen, usable, scored).mean()) < 1e-10, "what is not scored was scored"
    assert torch.equal(mae.score(own, chosen, usable, scored).count_B, scored.sum((1, 2, 3)))
    assert not (scored & ~usable).any()
    loss = mae(standardise(pixels, valid, RECORD), valid, CODES, drawn)
    assert torch.equal(loss.count_B, scored.sum((1, 2, 3)))


@pytest.mark.parametrize(("embedding", "mask"), CASES)
def test_seen_and_hidden_never_meet_and_counts_are_exact(embedding, mask):
    seen, hidden = mask_of(mask, embedding).seen_and_hidden(len(BANDS))
    assert not (seen & hidden).any()
    if mask != "dropped bands":  # there, a dropped band of a visible patch is neither
        assert (seen ^ hidden).all()
    share = {"random": 0.25, "grid": 0.25, "independent": 0.25, "block": 0.5, "bands": 0.5, "a share": 0.25}
    if mask in share:
        assert (seen.sum((1, 2)) == share[mask] * N * len(BANDS)).all()


@pytest.mark.parametrize(("embedding", "mask", "decoder"), DECODED)
def test_predictions_do_not_know_what_is_hidden(embedding, mask, decoder):
    mae = tiny_mae(embedding, decoder=decoder)
    pixels, valid = tiles(3, ROWS * SIDE, COLS * SIDE)
    patches = patchify(standardise(pixels, valid, RECORD), SIDE)
    drawn = mask_of(mask, embedding)
    seen, _ = drawn.seen_and_hidden(len(BANDS))
    every = torch.arange(N).expand(3, N)

    def predict(values):
        shown_valid = drawn.shown_pixels(torch.ones_like(values, dtype=torch.bool))
        return mae.predict(values, shown_valid, CODES, drawn, every, (ROWS, COLS))

    first = predict(patches)
    assert first.shape == patches.shape
    assert torch.equal(first, predict(patches.where(seen[..., None], 1e6)))
    assert not torch.equal(first, predict(patches.where(~seen[..., None], 0.5)))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("positions", ["sincos", "gsd"])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_a_folder_gives_the_same_model_back(embedding, positions, decoder, tmp_path):
    mae = tiny_mae(embedding, "patch", decoder=decoder, positions=positions)
    model = Model(mae, (RECORD,))
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.mae.architecture == mae.architecture
    pixels, valid = tiles(2, ROWS * SIDE, COLS * SIDE, gaps=0.1)
    for a, b in zip(model.reconstruct(pixels, valid), again.reconstruct(pixels, valid), strict=True):
        assert torch.equal(a, b)
        assert torch.isfinite(a).all()


def test_windows_look_no_further_than_their_reach():
    """With two blocks, the second shifted by half a window, what is three patches away does not matter."""
    mae = tiny_mae("stacked", decoder="window").decoder
    order = torch.arange(64).expand(1, 64)
    latent = torch.randn(1, 65, 24, generator=torch.Generator().manual_seed(0))
    moved = latent.clone()
    moved[0, 1] += 1  # the patch in the upper left corner
    with torch.no_grad():
        first, second = (mae(one, CODES, order, order, (8, 8)) for one in (latent, moved))
    changed = (first != second).flatten(2).any(-1)[0].reshape(8, 8)
    assert changed[0, 0]
    assert not changed[3:, :].any()
    assert not changed[:, 3:].any()
    with pytest.raises(ModelError, match=r"decoder.window: 2 does not divide a grid of 7 x 8 patches"):
        mae(latent[:, :57], CODES, order[:, :56], order[:, :56], (7, 8))


def test_cross_predictions_do_not_depend_on_what_else_is_asked():
    mae = tiny_mae("spectral", decoder="cross")
    pixels, valid = tiles(2, ROWS * SIDE, COLS * SIDE)
    patches, valid_BNCP = patchify(standardise(pixels, valid, RECORD), SIDE), patchify(valid, SIDE)
    drawn = mask_of("a share", "spectral", 2)
    order, visible = drawn.order_BX, drawn.visible
    both = [
        mae.predict(patches, valid_BNCP, CODES, drawn, wanted, (ROWS, COLS))
        for wanted in (order[:, visible:], order[:, visible : visible + 3])
    ]
    torch.testing.assert_close(both[0][:, :3], both[1], atol=1e-5, rtol=0)


def test_scaled_positions_follow_the_ground_and_not_the_pixels():
    """A patch at row 4 of 10 m stands where a patch at row 2 of 20 m does."""
    from geomae.models.blocks import sincos_positions

    fine, coarse = sincos_positions(6, 6, 24, scale=1.0), sincos_positions(6, 6, 24, scale=2.0)
    torch.testing.assert_close(fine[4 * 6 + 2], coarse[2 * 6 + 1])
    mae = tiny_mae("spectral", positions="gsd")
    pixels, valid = tiles(2, ROWS * SIDE, COLS * SIDE)
    inputs = (standardise(pixels, valid, RECORD), valid, CODES, mask_of("random", "spectral", 2))
    assert not torch.equal(mae(*inputs, 10.0).sum_B, mae(*inputs, 20.0).sum_B)
    with pytest.raises(ModelError, match="positions=gsd needs the ground sample distance of the tiles; add gsd_m"):
        mae(*inputs)


def test_a_band_that_was_hidden_from_every_tile_is_predicted_better_than_its_mean():
    """The generated head predicts a band from others that it resembles, after it saw that band as a target only."""
    torch.manual_seed(0)
    mae = tiny_mae("spectral").train()
    rng = torch.Generator().manual_seed(0)

    def batch(count):
        level = torch.randn(count, 1, ROWS, COLS, generator=rng).repeat_interleave(SIDE, 2).repeat_interleave(SIDE, 3)
        gain = torch.tensor([1.0, -1.0, 0.5, 0.8])[:, None, None]
        return level * gain

    shown = torch.tensor([True, True, False, True])
    order, optimizer = torch.arange(N), torch.optim.Adam(mae.parameters(), lr=5e-3)
    for _ in range(150):
        pixels = batch(16)
        optimizer.zero_grad()
        valid = torch.ones_like(pixels, dtype=torch.bool)
        mae(pixels, valid, CODES, Mask(order.expand(16, N), N, shown.expand(16, 4))).mean().backward()
        optimizer.step()
    pixels = batch(64)
    patches = patchify(pixels, SIDE)
    valid = torch.ones_like(patches, dtype=torch.bool) & shown[None, None, :, None]
    with torch.no_grad():
        found = mae.predict(patches, valid, CODES, Mask(order.expand(64, N), N), order.expand(64, N), (ROWS, COLS))
    error = (found[:, :, 2] - patches[:, :, 2]).square().mean()
    assert error < 0.3 * patches[:, :, 2].var()
