"""One mask for models of different patch sizes.

N cells, C bands, H W pixels
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomae.errors import ModelError
from geomae.evaluation.reconstruction_masks import (
    MaskKind,
    common_cell,
    complementary_cells,
    for_patches,
    to_pixels,
    visible_cells,
)
from geomae.models.masking import visible_count
from geomae.randomness import generator

VALID = np.ones((2, 48, 48), dtype=bool)


def test_the_common_cell_is_the_least_common_multiple():
    assert common_cell({"one": 8}, 64) == 8
    assert common_cell({"one": 8, "two": 12}, 48) == 24
    assert common_cell({"one": 4, "two": 16}, 64) == 16


@pytest.mark.parametrize(("patches", "tile"), [({"a": 8, "b": 12}, 64), ({"a": 16, "b": 24}, 48), ({"c": 32}, 32)])
def test_no_common_grid_is_one_line_that_names_all(patches, tile):
    with pytest.raises(ModelError) as caught:
        common_cell(patches, tile)
    message = str(caught.value)
    assert "\n" not in message
    assert all(f"{size} ({label})" in message for label, size in patches.items())
    assert f"{tile} pixels" in message


def test_every_model_sees_the_same_pixels():
    cells = visible_cells(VALID, 24, MaskKind("random", 0.5), 0, "tile")[None]
    pixels = to_pixels(cells[0], 48, 48, 24)
    assert pixels.sum() == 2 * 24 * 24
    for patch in (8, 12):
        patches = for_patches(cells, (2, 2), 24, patch)
        assert np.array_equal(to_pixels(patches[0], 48, 48, patch), pixels)


@pytest.mark.parametrize("kind", ["random", "block", "grid"])
def test_a_mask_is_a_function_of_its_arguments(kind):
    arguments = {"valid_CHW": VALID, "cell": 8, "mask": MaskKind(kind, 0.75), "seed": 3, "tile_id": "a/0/0"}
    first = visible_cells(**arguments)
    assert first.sum() == 9
    assert np.array_equal(first, visible_cells(**arguments))
    changes = ({"seed": 4}, {"tile_id": "b"}, {"mask": MaskKind(kind, 0.5)})
    others = [visible_cells(**arguments | change) for change in changes]
    assert not any(np.array_equal(first, other) for other in others)


def test_cells_without_valid_pixels_are_not_shown_and_tiles_of_them_are_left_out():
    valid = VALID.copy()
    valid[:, :32] = False
    shown = to_pixels(visible_cells(valid, 8, MaskKind("random", 0.75), 0, "tile"), 48, 48, 8)
    assert not shown[:32].any()
    assert visible_cells(valid, 8, MaskKind("random", 0.5), 0, "tile") is None


@given(st.integers(2, 100), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_complementary_masks_predict_every_cell_once_while_it_is_hidden(count, ratio, seed):
    usable = generator(seed, "usable").random(count) < 0.8
    masks = complementary_cells(usable, ratio, generator(seed, "masks"))
    assert (np.sum([predicted for _, predicted in masks], axis=0) == 1).all()
    for visible, predicted in masks:
        assert not (visible & predicted).any()
        assert visible.sum() == visible_count(count, ratio)
        wanted = min(visible.sum(), (usable & ~predicted).sum())
        assert (visible & usable).sum() == wanted
