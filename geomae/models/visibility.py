"""From the order of the tokens to what the encoder is shown and what its prediction is scored on, per patch and band.

B batch, N patches, C bands, G groups, X = G * N tokens (token g * N + n), M patches that are predicted
"""

import torch
from torch import Tensor

from geomae.models.patches import take
from geomae.sensors.groups import Groups


def seen_and_hidden(
    order_BX: Tensor, visible: int, shown_BC: Tensor | None, groups: Groups | None, bands: int
) -> tuple[Tensor, Tensor]:
    """What the encoder sees and what it is scored on: two boolean (B, N, C).

    `order_BX` lists the visible tokens first; `shown_BC` tells which bands of a tile the encoder gets (None: all).
    Hidden patches are scored in all bands, also in those that no patch showed. Where no patch is hidden, the hidden
    bands are scored.
    """
    B, N = len(order_BX), order_BX.shape[1] // len(groups or (0,))
    flag_BX = torch.zeros_like(order_BX, dtype=torch.bool).scatter(1, order_BX[:, :visible], True)
    if groups is None:
        seen_BNC = flag_BX[:, :, None].expand(B, N, bands)
    else:
        flag_GBN = flag_BX.reshape(B, -1, N).unbind(1)
        group_C = [next(g for g, group in enumerate(groups) if band in group) for band in range(bands)]
        seen_BNC = torch.stack([flag_GBN[g] for g in group_C], dim=-1)
    if shown_BC is None:
        return seen_BNC, ~seen_BNC
    shown_BNC = seen_BNC & shown_BC[:, None, :]
    return shown_BNC, ~(shown_BNC if visible == order_BX.shape[1] else seen_BNC)


def predicted_patches(order_BX: Tensor, visible: int, groups: Groups | None, predicted: int | None = None) -> Tensor:
    """The patches (B, M) that a training predicts: the hidden ones, or the first `predicted` of them.

    With several tokens per patch, and where only bands are hidden, every patch has something hidden in some tile: all
    are predicted then, and scored where they are hidden.
    """
    if groups is not None or visible == order_BX.shape[1]:
        N = order_BX.shape[1] // len(groups or (0,))
        return torch.arange(N, device=order_BX.device).expand(len(order_BX), N)
    return order_BX[:, visible : None if predicted is None else visible + predicted]


def scored_pixels(
    valid_BNCP: Tensor,
    order_BX: Tensor,
    visible: int,
    shown_BC: Tensor | None,
    groups: Groups | None,
    predicted: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The patches (B, M) to predict, the valid pixels (B, M, C, P) of them, and those of these that are scored."""
    wanted_BM = predicted_patches(order_BX, visible, groups, predicted)
    valid_BMCP = take(valid_BNCP, wanted_BM)
    if groups is None and visible < order_BX.shape[1]:  # all that is predicted was hidden
        return wanted_BM, valid_BMCP, valid_BMCP
    _, hidden_BNC = seen_and_hidden(order_BX, visible, shown_BC, groups, valid_BNCP.shape[2])
    return wanted_BM, valid_BMCP, valid_BMCP & hidden_BNC[..., None]
