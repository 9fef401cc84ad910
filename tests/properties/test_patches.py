"""Patches are an exact rearrangement of the pixels, for any number of bands and any grid.

B batch, C bands, N patches
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomae.errors import ModelError
from geomae.models.patches import grid, patchify, take, unpatchify

QUICK = settings(deadline=None, max_examples=60)  # a busy machine is not a fault
SHAPES = st.tuples(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 3, 4, 8])
)


def numbered(B, C, rows, cols, side):
    """Tiles in which every pixel has a value of its own."""
    shape = (B, C, rows * side, cols * side)
    return torch.arange(B * C * rows * cols * side * side).reshape(shape)


@QUICK
@given(SHAPES)
def test_unpatchify_is_the_exact_inverse(shape):
    *_, rows, cols, side = shape
    pixels = numbered(*shape)
    patches = patchify(pixels, side)
    assert patches.shape == (shape[0], rows * cols, shape[1], side * side)
    assert torch.equal(unpatchify(patches, rows, cols), pixels)
    assert torch.equal(patchify(unpatchify(patches, rows, cols), side), patches)


@QUICK
@given(SHAPES, st.data())
def test_each_patch_is_the_window_at_its_place(shape, data):
    B, C, rows, cols, side = shape
    pixels = numbered(*shape)
    assert grid(pixels, side) == (rows, cols)
    row, col = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    b, c = data.draw(st.integers(0, B - 1)), data.draw(st.integers(0, C - 1))
    window = pixels[b, c, row * side : (row + 1) * side, col * side : (col + 1) * side]
    assert torch.equal(patchify(pixels, side)[b, row * cols + col, c], window.flatten())


@QUICK
@given(st.integers(1, 3), st.integers(1, 12), st.lists(st.integers(1, 3), max_size=2), st.data())
def test_take_gives_the_rows_of_each_tile(B, N, rest, data):
    values = torch.arange(B * N * int(torch.tensor(rest).prod())).reshape(B, N, *rest)
    M = data.draw(st.integers(1, N))
    index = torch.tensor([data.draw(st.permutations(range(N)))[:M] for _ in range(B)])
    found = take(values, index)
    assert found.shape == (B, M, *rest)
    assert all(torch.equal(found[b], values[b, index[b]]) for b in range(B))


@pytest.mark.parametrize(("height", "width"), [(9, 8), (8, 9), (7, 7)])
def test_a_patch_that_does_not_divide_the_tile_is_refused(height, width):
    with pytest.raises(ModelError, match=f"a patch of 4 pixels does not divide a tile of {height} x {width} pixels"):
        patchify(torch.zeros(1, 1, height, width), 4)
