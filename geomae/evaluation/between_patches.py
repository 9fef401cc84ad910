"""Probabilities of pixels from those of patches, the same for scores and for maps.

B tiles, K classes, R x S patches of a tile, H x W pixels of a tile
"""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate


def between_patches(share_BKRS: Tensor, valid_BHW: Tensor) -> Tensor:
    """Probabilities of pixels (B, K, H, W), interpolated bilinearly between the centres of patches.

    Patches without a valid pixel have no prediction, and no weight for the pixels beside them.
    """
    usable_B1RS = adaptive_max_pool2d(valid_BHW[:, None].to(share_BKRS.dtype), share_BKRS.shape[-2:])

    def spread(values: Tensor) -> Tensor:
        return interpolate(values, valid_BHW.shape[-2:], mode="bilinear", align_corners=False)

    if usable_B1RS.all():
        return spread(share_BKRS)
    weight_B1HW = spread(usable_B1RS)
    # Pixels with no usable patch around them are invalid themselves: any values that sum to one will do.
    return torch.where(weight_B1HW > 0, spread(share_BKRS * usable_B1RS) / weight_B1HW, spread(share_BKRS))
