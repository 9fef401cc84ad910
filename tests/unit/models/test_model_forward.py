"""Positions, the class token, and what the encoder and the decoder may see.

B batch, N patches, K visible patches, D width
"""

import math

import pytest
import torch
from tiny_models import DECODERS, ONE_TOKEN, RECORD, SIDE, orders, tiles, tiny_mae

from geomae.config import Decoder
from geomae.models.band_embedding import band_codes
from geomae.models.blocks import LONGEST_PLAIN, choose_kernels, prefers_fused, sincos_positions
from geomae.models.folder import standardise
from geomae.models.mae import MaskedAutoencoder
from geomae.models.masking import Mask
from geomae.models.patches import grid, patchify

CODES = band_codes(RECORD.bands)


def inputs(count=2, height=16, width=12, gaps=0.0):
    pixels, valid = tiles(count, height, width, gaps=gaps)
    standard = standardise(pixels, valid, RECORD)
    return patchify(standard, SIDE), patchify(valid, SIDE), grid(pixels, SIDE)


@pytest.mark.parametrize(("rows", "cols", "width"), [(1, 1, 4), (2, 5, 8), (7, 3, 24), (14, 14, 48)])
def test_positions_follow_the_formula(rows, cols, width):
    found = sincos_positions(rows, cols, width)
    assert found.shape == (rows * cols, width)
    assert found.dtype == torch.float32
    quarter = width // 4
    for row in range(rows):
        for col in range(cols):
            for i in range(quarter):
                frequency = 10000 ** -(i / quarter)
                waves = [wave(axis * frequency) for axis in (col, row) for wave in (math.sin, math.cos)]
                got = found[row * cols + col, i::quarter]
                torch.testing.assert_close(got, torch.tensor(waves, dtype=torch.float32), atol=1e-6, rtol=0)


def test_positions_tell_all_places_of_a_wide_grid_apart():
    table = sincos_positions(32, 32, 48)
    assert (torch.cdist(table, table) + 10 * torch.eye(1024)).min() > 0.1
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        sincos_positions(2, 2, 6)


@pytest.mark.parametrize("embedding", ONE_TOKEN)
@pytest.mark.parametrize(("height", "width"), [(4, 8), (16, 12), (8, 40), (64, 64)])
def test_any_grid(embedding, height, width):
    mae = tiny_mae(embedding)
    pixels, valid = tiles(2, height, width)
    N = (height // SIDE) * (width // SIDE)
    loss = mae(standardise(pixels, valid, RECORD), valid, CODES, Mask(orders(2, N), max(N // 4, 1)))
    assert (loss.count_B == (N - max(N // 4, 1)) * SIDE**2 * 4).all()
    assert torch.isfinite(loss.mean())


@pytest.mark.parametrize("embedding", ONE_TOKEN)
def test_the_class_token_stands_first_and_has_no_position(embedding):
    encoder = tiny_mae(embedding).encoder
    patches, valid, shape = inputs()
    place = torch.arange(12).expand(2, 12)
    start = encoder.start(patches, valid, CODES, place, shape)
    assert start.shape == (2, 13, 24)
    assert torch.equal(start[:, 0], encoder.cls_token[0].expand(2, -1))
    bare = encoder.embedding.embed(patches, valid, CODES)
    torch.testing.assert_close(start[:, 1:] - bare, sincos_positions(4, 3, 24).expand(2, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("embedding", ONE_TOKEN)
def test_predictions_do_not_depend_on_hidden_patches_nor_on_other_tiles(embedding):
    mae, order = tiny_mae(embedding), orders(2, 12)
    patches, valid, shape = inputs()
    wanted = order[:, 4:]
    first = mae.predict(patches, valid, CODES, Mask(order, 4), wanted, shape)
    changed = patches.clone()
    for tile in range(2):
        changed[tile, order[tile, 4:]] = torch.nan  # the encoder never touches them
    assert torch.equal(first, mae.predict(changed, valid, CODES, Mask(order, 4), wanted, shape))
    alone = mae.predict(patches[:1], valid[:1], CODES, Mask(order[:1], 4), wanted[:1], shape)
    torch.testing.assert_close(first[:1], alone, atol=1e-5, rtol=0)
    changed = patches.clone()
    changed[0, order[0, 0]] += 1
    moved = mae.predict(changed, valid, CODES, Mask(order, 4), wanted, shape)
    assert (moved[0] - first[0]).abs().max() > 1e-4
    assert torch.equal(moved[1], first[1])


def test_predictions_belong_to_places_and_not_to_the_order_of_asking():
    mae = tiny_mae()
    patches, valid, shape = inputs(1)
    order = orders(1, 12)
    other = torch.cat([order[:, [3, 1, 0, 2]], order[:, 4:].flip(1)], 1)  # the same mask, listed otherwise
    everywhere = torch.arange(12)[None]
    first = mae.predict(patches, valid, CODES, Mask(order, 4), everywhere, shape)
    second = mae.predict(patches, valid, CODES, Mask(other, 4), everywhere, shape)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    some = mae.predict(patches, valid, CODES, Mask(order, 4), torch.tensor([[7, 2]]), shape)
    torch.testing.assert_close(some, first[:, [7, 2]], atol=1e-5, rtol=0)
    assert (first[:, 7] - first[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("embedding", ONE_TOKEN)
def test_whole_tiles_in_layers_are_what_the_encoder_gives(embedding):
    encoder = tiny_mae(embedding, depth=3).encoder
    patches, valid, shape = inputs(gaps=0.1)
    layers = [encoder.whole(patches, valid, CODES, shape, layer=layer) for layer in (1, 2, None)]
    whole = encoder(patches, valid, CODES, torch.arange(12).expand(2, 12), shape)
    torch.testing.assert_close(layers[-1], whole, atol=1e-5, rtol=0)
    assert (layers[0] - layers[1]).abs().max() > 1e-3


@pytest.mark.parametrize("embedding", ONE_TOKEN)
def test_patches_without_a_valid_pixel_are_no_attention_keys(embedding):
    """The other tokens are those of an encoder that was never shown the empty patches."""
    encoder = tiny_mae(embedding, depth=2).encoder
    patches, valid, shape = inputs()
    empty = [1, 6, 7]
    valid[0, empty] = False
    kept = torch.tensor([[place for place in range(12) if place not in empty]])
    last = encoder.whole(patches, valid, CODES, shape)
    shown = encoder(patches[:1], valid[:1], CODES, kept, shape)
    torch.testing.assert_close(last[:1, [0, *(1 + kept[0]).tolist()]], shown, atol=1e-5, rtol=0)
    assert torch.isfinite(last).all()


def test_the_attention_kernel_is_a_fixed_choice():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert prefers_fused(cuda, torch.bfloat16, 10)
    assert prefers_fused(cpu, torch.float32, 10)
    assert not prefers_fused(cpu, torch.bfloat16, LONGEST_PLAIN)
    assert prefers_fused(cpu, torch.bfloat16, LONGEST_PLAIN + 1)
    blocks = tiny_mae(depth=2).encoder.blocks
    with torch.autocast("cpu", torch.bfloat16):
        choose_kernels(blocks, cpu, 10)
    assert [block.attn.fused_attn for block in blocks] == [False, False]
    choose_kernels(blocks, cpu, 10)
    assert [block.attn.fused_attn for block in blocks] == [True, True]


def test_both_attention_kernels_compute_the_same():
    encoder = tiny_mae(depth=2).encoder
    patches, valid, shape = inputs()
    results = []
    for fused in (True, False):
        x = encoder.start(patches, valid, CODES, torch.arange(12).expand(2, 12), shape)
        for block in encoder.blocks:
            block.attn.fused_attn = fused
            x = block(x)
        results.append(x)
    torch.testing.assert_close(*results, atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("kind", DECODERS)
def test_blocks_add_in_full_precision_whatever_is_added_to_the_tokens(kind, positions):
    """Products are rounded to bf16; what the blocks pass on is not."""
    options = Decoder(kind=kind, width=16, depth=2, heads=2, window=2, positions=positions)
    mae = MaskedAutoencoder(tiny_mae().architecture.model_copy(update={"decoder": options}))
    found = set()
    for block in [*mae.encoder.blocks, *mae.decoder.blocks]:
        block.register_forward_hook(lambda module, given, out: found.update((given[0].dtype, out.dtype)))
    pixels, valid = tiles(2, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        mae(standardise(pixels, valid, RECORD), valid, CODES, Mask(orders(2, 16), 4))
    assert found == {torch.float32}
