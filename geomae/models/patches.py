"""Tiles to patches and back.

B batch, C bands, H W pixels of a tile, N patches, P = p*p pixels of a patch in one band
"""

from torch import Tensor

from geomae.errors import ModelError


def patchify(pixels_BCHW: Tensor, side: int) -> Tensor:
    """Cut tiles (B, C, H, W) into patches (B, N, C, P), row by row; `side` must divide H and W."""
    B, C = pixels_BCHW.shape[:2]
    rows, cols = grid(pixels_BCHW, side)
    cut = pixels_BCHW.reshape(B, C, rows, side, cols, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, rows * cols, C, side * side)


def unpatchify(patches_BNCP: Tensor, rows: int, cols: int) -> Tensor:
    """The inverse of `patchify`: patches (B, N, C, P) to tiles (B, C, rows * p, cols * p)."""
    B, _, C, P = patches_BNCP.shape
    side = round(P**0.5)
    laid = patches_BNCP.reshape(B, rows, cols, C, side, side)
    return laid.permute(0, 3, 1, 4, 2, 5).reshape(B, C, rows * side, cols * side)


def grid(pixels_BCHW: Tensor, side: int) -> tuple[int, int]:
    """Rows and columns of patches in a tile. Raises ModelError where `side` does not divide it."""
    height, width = pixels_BCHW.shape[-2], pixels_BCHW.shape[-1]
    if height % side or width % side:
        raise ModelError(
            f"a patch of {side} pixels does not divide a tile of {height} x {width} pixels; cut tiles to a multiple"
        )
    return height // side, width // side


def take(values_BN: Tensor, index_BM: Tensor) -> Tensor:
    """Rows `index_BM` of each tile: (B, N, ...) to (B, M, ...)."""
    shape = (*index_BM.shape, *values_BN.shape[2:])
    index = index_BM.reshape(*index_BM.shape, *(1 for _ in values_BN.shape[2:])).expand(shape)
    return values_BN.gather(1, index)
