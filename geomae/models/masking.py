"""Masks: which patches are visible, in what order the tokens stand, and which pixels a prediction is scored on.

B batch, N patches, C bands, G groups of bands with one token per patch each (1 where all bands share a token), X =
G * N tokens (token g * N + n), M patches that are predicted, P pixels of a patch in one band
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.errors import ModelError
from geomae.models.patches import patchify, take
from geomae.sensors.band import Groups


@dataclass(frozen=True)
class MaskRules:
    """How masks are drawn; see `geomae.config.Masking`. Without `groups` all bands share a token."""

    ratio: float
    kind: str = "random"
    scope: str = "consistent"
    band_dropout: float = 0.0
    shuffled: bool = False  # hidden patches in random order, so that the first of them are a fair share
    groups: Groups | None = None


class Mask(NamedTuple):
    """What a batch of tiles shows to the encoder, and what is predicted and scored.

    A tuple with names and not a data class, so that every strategy can take it apart and move it to its device.
    """

    order_BX: Tensor  # visible tokens first, then hidden ones
    visible: int  # number of visible tokens of each tile
    shown_BC: Tensor | None = None  # the bands that the encoder gets; None: all
    groups: Groups | None = None  # of bands with tokens of their own; None: all bands share a token
    predicted: int | None = None  # only the first of the hidden patches count; None: all

    @property
    def patches(self) -> int:
        """Number N of patches of a tile."""
        return int(self.order_BX.shape[1] // len(self.groups or (0,)))

    @property
    def seen_BV(self) -> Tensor:
        """The visible tokens, in order."""
        return self.order_BX[:, : self.visible]

    def visible_BX(self) -> Tensor:
        """Which tokens are visible, by their number: boolean."""
        return torch.zeros_like(self.order_BX, dtype=torch.bool).scatter(1, self.seen_BV, True)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Mask":
        """The mask with `change` made to its tensors, as to move or to cut them."""
        shown_BC = None if self.shown_BC is None else change(self.shown_BC)
        return self._replace(order_BX=change(self.order_BX), shown_BC=shown_BC)

    def seen_and_hidden(self, bands: int) -> tuple[Tensor, Tensor]:
        """What the encoder sees and what it is scored on: two boolean (B, N, C).

        Hidden patches are scored in all bands, also in those that no patch showed. Where no patch is hidden, the hidden
        bands are scored.
        """
        B, N, flag_BX = len(self.order_BX), self.patches, self.visible_BX()
        if self.groups is None:
            seen_BNC = flag_BX[:, :, None].expand(B, N, bands)
        else:
            flag_GBN = flag_BX.reshape(B, -1, N).unbind(1)
            group_C = [next(g for g, group in enumerate(self.groups) if band in group) for band in range(bands)]
            seen_BNC = torch.stack([flag_GBN[g] for g in group_C], dim=-1)
        if self.shown_BC is None:
            return seen_BNC, ~seen_BNC
        shown_BNC = seen_BNC & self.shown_BC[:, None, :]
        return shown_BNC, ~(shown_BNC if self.visible == self.order_BX.shape[1] else seen_BNC)

    def shown_pixels(self, valid_BNCP: Tensor) -> Tensor:
        """The valid pixels of the bands that the encoder gets."""
        return valid_BNCP if self.shown_BC is None else valid_BNCP & self.shown_BC[:, None, :, None]

    def predicted_patches(self) -> Tensor:
        """The patches (B, M) that a training predicts: the hidden ones, or the first `predicted` of them.

        With several tokens per patch, and where only bands are hidden, every patch has something hidden in some tile:
        all are predicted then, and scored where they are hidden.
        """
        if self.groups is not None or self.visible == self.order_BX.shape[1]:
            return torch.arange(self.patches, device=self.order_BX.device).expand(len(self.order_BX), self.patches)
        return self.order_BX[:, self.visible : None if self.predicted is None else self.visible + self.predicted]

    def scored_pixels(self, valid_BNCP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The patches (B, M) to predict, the valid pixels (B, M, C, P) of them, and those of these that are scored."""
        wanted_BM = self.predicted_patches()
        valid_BMCP = take(valid_BNCP, wanted_BM)
        if self.groups is None and self.visible < self.order_BX.shape[1]:  # all that is predicted was hidden
            return wanted_BM, valid_BMCP, valid_BMCP
        _, hidden_BNC = self.seen_and_hidden(valid_BNCP.shape[2])
        return wanted_BM, valid_BMCP, valid_BMCP & hidden_BNC[..., None]

    def count_scored(self, valid_BCHW: Tensor, side: int) -> Tensor:
        """How many pixels of each tile are scored, over all bands, in patches of `side` pixels: (B,)."""
        return self.scored_pixels(patchify(valid_BCHW, side))[2].sum((1, 2, 3))


def visible_first(visible_BN: Tensor) -> Tensor:
    """Patches in the order (visible, hidden), both ascending. Raises ModelError where the tiles show unlike numbers."""
    counts = visible_BN.sum(1)
    if int(counts.min()) != int(counts.max()) or not 0 < int(counts[0]) < visible_BN.shape[1]:
        raise ModelError("visible_BN: every tile of a batch must show the same number of patches, and hide some")
    return (~visible_BN).to(torch.uint8).argsort(dim=1, stable=True)


def mask_from_patches(visible_BN: Tensor, groups: Groups | None = None) -> Mask:
    """The mask that shows these patches (boolean), alike in all groups. Raises ModelError as `visible_first` does."""
    tokens = len(groups or (0,))
    order_BX = visible_first(visible_BN.repeat(1, tokens))
    return Mask(order_BX, int(visible_BN[0].sum()) * tokens, groups=groups)


def draw_mask(
    usable_N: NDArray[np.bool_], shape: tuple[int, int], bands: int, rules: MaskRules, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Tokens in the order (visible, hidden), both ascending: (X,), token g * N + n; and the bands shown (C,), or None.

    Visible patches are drawn among the usable ones (enough valid pixels). Raises ValueError with too few of them: the
    tile index leaves such tiles out.
    """
    groups = len(rules.groups or (0,))
    if rules.kind == "bands":
        return _hide_bands(len(usable_N), bands, groups, rules, rng)
    visible = visible_count(len(usable_N), rules.ratio)
    if usable_N.sum() < visible:
        raise ValueError(f"{int(usable_N.sum())} usable patches cannot give {visible} visible ones")
    draws = groups if rules.scope == "independent" else 1
    seen = [np.sort(PLACES[rules.kind](usable_N, shape, visible, rng)) for _ in range(draws)]
    order = _order([seen[g % draws] for g in range(groups)], len(usable_N))
    if rules.shuffled:
        order[groups * visible :] = rng.permutation(order[groups * visible :])
    shown = _drop_bands(bands, rules.band_dropout, rng) if rules.band_dropout > 0 else None
    return order, shown


def visible_count(patches: int, ratio: float) -> int:
    """Number of visible patches: round((1 - ratio) * N), but at least one visible and one hidden."""
    return min(max(round((1 - ratio) * patches), 1), patches - 1)


def visible_tokens(patches: int, bands: int, rules: MaskRules) -> int:
    """Number of visible tokens of a tile, the same for all tiles of one size."""
    groups = len(rules.groups or (0,))
    if rules.kind != "bands":
        return groups * visible_count(patches, rules.ratio)
    return visible_count(groups, rules.ratio) * patches if groups > 1 else patches


def random_places(
    usable_N: NDArray[np.bool_], shape: tuple[int, int], visible: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Visible patches drawn one by one (He et al. 2022, section 3)."""
    return rng.permutation(np.flatnonzero(usable_N))[:visible]


def block_places(
    usable_N: NDArray[np.bool_], shape: tuple[int, int], visible: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """What contiguous rectangles leave visible (the idea of BEiT, Bao et al. 2022, algorithm 1).

    Rectangles cover a tenth to a third of the grid each, with sides of unlike length. Of the last one only as many rows
    are hidden as the count asks for, the last of them in part.
    """
    rows, cols = shape
    seen = usable_N.reshape(shape).copy()
    while seen.sum() > visible:
        area, aspect = rng.uniform(0.1, 0.33) * rows * cols, np.exp(rng.uniform(-1, 1) * np.log(3))
        height = min(max(round((area * aspect) ** 0.5), 1), rows)
        width = min(max(round((area / aspect) ** 0.5), 1), cols)
        # They may reach over the edges, so that corners are hidden as often as the middle.
        top, left = rng.integers(1 - height, rows), rng.integers(1 - width, cols)
        block = np.zeros_like(seen)
        block[max(top, 0) : top + height, max(left, 0) : left + width] = True
        too_many = int(seen.sum()) - visible
        seen.flat[np.flatnonzero(seen & block)[:too_many]] = False
    return np.flatnonzero(seen)


def grid_places(
    usable_N: NDArray[np.bool_], shape: tuple[int, int], visible: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A regular lattice at a random offset: with a quarter visible, every second patch of every second row.

    Patches are taken in the order of an ordered dither (Bayer 1973), which is a lattice for every power of four and as
    even as can be between them.
    """
    side = 1 << (max(shape) - 1).bit_length()
    rank = _bayer(side)
    down, right = rng.integers(side, size=2)
    rank = np.roll(rank, (down, right), axis=(0, 1))[: shape[0], : shape[1]].reshape(-1)
    usable = np.flatnonzero(usable_N)
    return usable[np.argsort(rank[usable], kind="stable")[:visible]]


PLACES = {"random": random_places, "block": block_places, "grid": grid_places}


def usable_patches(valid_CHW: NDArray[np.bool_], side: int, least: float) -> NDArray[np.bool_]:
    """Which patches (N,) of a tile have at least the share `least` of valid pixels, over all bands together."""
    C, H, W = valid_CHW.shape
    if valid_CHW.all():
        return np.ones((H // side) * (W // side), dtype=bool)
    cut = valid_CHW.reshape(C, H // side, side, W // side, side)
    share = cut.mean(axis=(0, 2, 4))
    usable: NDArray[np.bool_] = (share >= least).reshape(-1)
    return usable


def _hide_bands(
    patches: int, bands: int, groups: int, rules: MaskRules, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Hide whole groups, or, where all bands share a token, whole bands; every place is visible in the others."""
    units = groups if groups > 1 else bands
    if units < 2:
        raise ValueError("masks of bands need at least two bands")
    shown = np.zeros(units, dtype=bool)
    shown[rng.permutation(units)[: visible_count(units, rules.ratio)]] = True
    if groups == 1:
        return np.arange(patches), shown
    every, none = np.arange(patches), np.arange(0)
    return _order([every if one else none for one in shown], patches), None


def _order(seen: list[NDArray[np.int64]], patches: int) -> NDArray[np.int64]:
    """Visible tokens, then hidden ones, from the visible places of each group."""
    visible = np.concatenate([group * patches + places for group, places in enumerate(seen)])
    hidden = np.setdiff1d(np.arange(len(seen) * patches), visible, assume_unique=True)
    return np.concatenate([visible, hidden]).astype(np.int64)


def _drop_bands(bands: int, chance: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Each band is kept from the encoder with this chance, but one always stays."""
    shown: NDArray[np.bool_] = rng.random(bands) >= chance
    shown[rng.integers(bands)] |= not shown.any()
    return shown


def _bayer(side: int) -> NDArray[np.int64]:
    """The threshold matrix of ordered dithering, of a side that is a power of two."""
    if side == 1:
        return np.zeros((1, 1), dtype=np.int64)
    half = 4 * _bayer(side // 2)
    return np.block([[half, half + 2], [half + 3, half + 1]])
