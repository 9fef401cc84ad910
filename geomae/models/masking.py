"""Which patches the encoder sees: exact counts, drawn from a generator, so that every mask can be replayed."""

import numpy as np
from numpy.typing import NDArray


def visible_count(patches: int, ratio: float) -> int:
    """Number of visible patches: round((1 - ratio) * N), but at least one visible and one hidden."""
    return min(max(round((1 - ratio) * patches), 1), patches - 1)


def random_order(usable_N: NDArray[np.bool_], visible: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A permutation (N,) of the patches: first the `visible` ones in ascending order, then the hidden ones likewise.

    Visible patches are drawn among the usable ones (enough valid pixels). Raises ValueError with too few of them: the
    tile index leaves such tiles out.
    """
    usable = np.flatnonzero(usable_N)
    if len(usable) < visible:
        raise ValueError(f"{len(usable)} usable patches cannot give {visible} visible ones")
    seen = np.sort(rng.permutation(usable)[:visible])
    hidden = np.setdiff1d(np.arange(len(usable_N)), seen, assume_unique=True)
    return np.concatenate([seen, hidden]).astype(np.int64)


def usable_patches(valid_CHW: NDArray[np.bool_], side: int, least: float) -> NDArray[np.bool_]:
    """Which patches (N,) of a tile have at least the share `least` of valid pixels, over all bands together."""
    C, H, W = valid_CHW.shape
    if valid_CHW.all():
        return np.ones((H // side) * (W // side), dtype=bool)
    cut = valid_CHW.reshape(C, H // side, side, W // side, side)
    share = cut.mean(axis=(0, 2, 4))
    usable: NDArray[np.bool_] = (share >= least).reshape(-1)
    return usable
