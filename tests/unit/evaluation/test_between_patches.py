"""Probabilities of pixels between the centres of patches, also beside patches without a valid pixel."""

import torch
from torch.nn.functional import interpolate

from geomae.evaluation.between_patches import between_patches


def test_patches_without_a_valid_pixel_have_no_part_in_their_neighbours():
    """Three patches of 4 pixels, of which the last shows nothing and has some class; the second is half valid."""
    share_BKRS = torch.tensor([[[[0.9, 0.7, 0.0]], [[0.1, 0.3, 1.0]]]])
    valid_BHW = (torch.arange(12) < 6).expand(1, 4, 12)
    first = between_patches(share_BKRS, valid_BHW)[0, 0, 0]
    assert first[2:6].tolist() == sorted(first[2:6].tolist(), reverse=True)
    assert torch.allclose(first[6:8], torch.tensor(0.7)) and first[5] > 0.7
    assert torch.allclose(between_patches(share_BKRS, valid_BHW).sum(1), torch.ones(1, 4, 12))


def test_between_valid_patches_it_is_plain_interpolation():
    share_BKRS = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    plain = interpolate(share_BKRS, (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(between_patches(share_BKRS, torch.ones(2, 16, 16, dtype=torch.bool)), plain)
