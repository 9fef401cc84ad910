"""Self-attention in shifted windows of a grid of patches (Liu et al. 2021, section 3.2), around any block.

B batch, G tokens per patch, X = G * rows * cols tokens, D width, W windows, L = G * w * w tokens of a window
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from geomae.errors import ModelError


def attend_in_windows(
    block: nn.Module, x_BXD: Tensor, shape: tuple[int, int], tokens: int, window: int, shift: int
) -> Tensor:
    """Tokens (B, X, D), group after group and each row by row, after `block` within windows of w x w patches.

    Shifted windows wrap around the edges; a mask keeps apart what does not lie together. Raises ModelError where
    windows do not divide the grid.
    """
    rows, cols = shape
    check_window(window, shape)
    B, D = len(x_BXD), x_BXD.shape[-1]
    x = x_BXD.reshape(B, tokens, rows, cols, D)
    if shift:
        x = x.roll((-shift, -shift), dims=(2, 3))
    x = x.reshape(B, tokens, rows // window, window, cols // window, window, D).permute(0, 2, 4, 1, 3, 5, 6)
    x = x.reshape(-1, tokens * window**2, D)
    mask = None
    if shift:
        mask = _apart(shape, tokens, window, shift, x.device).to(x.dtype).repeat(B, 1, 1)[:, None]
    windows: Tensor = block(x, attn_mask=mask)
    x = windows.reshape(B, rows // window, cols // window, tokens, window, window, D).permute(0, 3, 1, 4, 2, 5, 6)
    x = x.reshape(B, tokens, rows, cols, D)
    if shift:
        x = x.roll((shift, shift), dims=(2, 3))
    return x.reshape(B, -1, D)


def check_window(window: int, shape: tuple[int, int]) -> None:
    """Raise ModelError where windows do not divide the grid."""
    if shape[0] % window or shape[1] % window:
        raise ModelError(
            f"decoder.window: {window} does not divide a grid of {shape[0]} x {shape[1]} patches; choose one that does"
        )


@lru_cache(maxsize=8)
def _apart(shape: tuple[int, int], tokens: int, window: int, shift: int, device: torch.device) -> Tensor:
    """What is added to the attention of each shifted window (W, L, L): minus infinity between wrapped parts."""
    region = torch.zeros(shape, dtype=torch.long)
    for axis, size in enumerate(shape):
        place = torch.arange(size)
        part = (place >= size - window).long() + (place >= size - shift).long()
        region = 3 * region + (part[:, None] if axis == 0 else part[None, :])
    cut = region.reshape(shape[0] // window, window, shape[1] // window, window).permute(0, 2, 1, 3)
    cut = cut.reshape(-1, window**2).repeat(1, tokens)
    return torch.zeros(1).masked_fill(cut[:, :, None] != cut[:, None, :], float("-inf")).to(device)
