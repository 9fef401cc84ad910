"""Masks: which patches are visible, the order of the tokens, and the pixels on which a prediction is scored.

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
    """Rules by which masks are drawn; see `geomae.config.Masking`. Without `groups`, all bands share a token."""

    ratio: float
    kind: str = "random"
    scope: str = "consistent"
    band_dropout: float = 0.0
    shuffled: bool = False  # hidden patches in random order, so that the first of them are a random sample
    groups: Groups | None = None


class Mask(NamedTuple):
    """Which tokens of a batch the encoder sees, and which patches are predicted and scored.

    A named tuple and not a data class, so that every training strategy can move its tensors to a device.
    """

    order_BX: Tensor  # visible tokens first, then hidden ones
    visible: int  # number of visible tokens of each tile
    shown_BC: Tensor | None = None  # the bands that the encoder gets; None: all
    groups: Groups | None = None  # groups of bands, each with a token of its own; None: all bands share a token
    predicted: int | None = None  # number of hidden patches to predict, the first ones; None: all

    @property
    def patches(self) -> int:
        """Number N of patches of a tile."""
        return int(self.order_BX.shape[1] // len(self.groups or (0,)))

    @property
    def seen_BV(self) -> Tensor:
        """The visible tokens, in order."""
        return self.order_BX[:, : self.visible]

    def visible_BX(self) -> Tensor:
        """Boolean (B, X) by token number: whether the token is visible."""
        return torch.zeros_like(self.order_BX, dtype=torch.bool).scatter(1, self.seen_BV, True)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Mask":
        """Apply `change` to every tensor, for example to move or to slice it."""
        shown_BC = None if self.shown_BC is None else change(self.shown_BC)
        return self._replace(order_BX=change(self.order_BX), shown_BC=shown_BC)

    def seen_and_hidden(self, bands: int) -> tuple[Tensor, Tensor]:
        """Which patches the encoder sees in which bands, and which are scored: two boolean tensors (B, N, C).

        Hidden patches are scored in all bands, including those that the encoder never gets. Where no patch is hidden,
        the hidden bands are scored.
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
        """The valid pixels (B, N, C, P) of the bands that the encoder gets, in visible and hidden patches."""
        return valid_BNCP if self.shown_BC is None else valid_BNCP & self.shown_BC[:, None, :, None]

    def predicted_patches(self) -> Tensor:
        """The patches (B, M) that are predicted in training: the hidden ones, or the first `predicted` of these.

        With several tokens per patch, and where only bands are hidden, any patch may be partly hidden. Then all patches
        are predicted, and scored where they are hidden.
        """
        if self.groups is not None or self.visible == self.order_BX.shape[1]:
            return torch.arange(self.patches, device=self.order_BX.device).expand(len(self.order_BX), self.patches)
        return self.order_BX[:, self.visible : None if self.predicted is None else self.visible + self.predicted]

    def scored_pixels(self, valid_BNCP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The patches (B, M) to predict, their valid pixels (B, M, C, P), and which of these are scored."""
        wanted_BM = self.predicted_patches()
        valid_BMCP = take(valid_BNCP, wanted_BM)
        if self.groups is None and self.visible < self.order_BX.shape[1]:  # all predicted patches were hidden
            return wanted_BM, valid_BMCP, valid_BMCP
        _, hidden_BNC = self.seen_and_hidden(valid_BNCP.shape[2])
        return wanted_BM, valid_BMCP, valid_BMCP & hidden_BNC[..., None]

    def count_scored(self, valid_BCHW: Tensor, side: int) -> Tensor:
        """Number of scored pixels of each tile (B,), summed over bands, for patches of `side` pixels."""
        return self.scored_pixels(patchify(valid_BCHW, side))[2].sum((1, 2, 3))


def visible_first(visible_BN: Tensor) -> Tensor:
    """Patches (B, N) in the order (visible, hidden), both ascending.

    Raises ModelError where tiles show different numbers of patches, none, or all.
    """
    counts = visible_BN.sum(1)
    if int(counts.min()) != int(counts.max()) or not 0 < int(counts[0]) < visible_BN.shape[1]:
        raise ModelError("visible_BN: every tile of a batch must show the same number of patches, and hide some")
    return (~visible_BN).to(torch.uint8).argsort(dim=1, stable=True)


def mask_from_patches(visible_BN: Tensor, groups: Groups | None = None) -> Mask:
    """The mask that shows the patches `visible_BN` in all groups. Raises ModelError as `visible_first` does."""
    tokens = len(groups or (0,))
    order_BX = visible_first(visible_BN.repeat(1, tokens))
    return Mask(order_BX, int(visible_BN[0].sum()) * tokens, groups=groups)


def draw_mask(
    usable_N: NDArray[np.bool_], shape: tuple[int, int], bands: int, rules: MaskRules, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Draw the order of the tokens (X,), visible ones first, and the bands that are shown (C,), None for all.

    Token g * N + n is patch n in group g. Both parts are ascending; `rules.shuffled` shuffles the hidden one. Visible
    patches are drawn among the usable ones (those with enough valid pixels). Raises ValueError where these are too
    few; the tile index leaves such tiles out.
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
    """Number of visible patches: round((1 - ratio) * N), with at least one visible and one hidden."""
    return min(max(round((1 - ratio) * patches), 1), patches - 1)


def visible_tokens(patches: int, bands: int, rules: MaskRules) -> int:
    """Number of visible tokens of a tile with this number of patches and bands."""
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
    """Visible patches after hiding random rectangles (as in BEiT, Bao et al. 2022, algorithm 1).

    Each rectangle covers a tenth to a third of the grid, with an aspect ratio between 1/3 and 3. The last one is cut,
    row by row, so that the number of visible patches is met.
    """
    rows, cols = shape
    seen = usable_N.reshape(shape).copy()
    while seen.sum() > visible:
        area, aspect = rng.uniform(0.1, 0.33) * rows * cols, np.exp(rng.uniform(-1, 1) * np.log(3))
        height = min(max(round((area * aspect) ** 0.5), 1), rows)
        width = min(max(round((area / aspect) ** 0.5), 1), cols)
        # Rectangles may cross the edges; otherwise corners would be hidden less often than the middle.
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

    Patches are taken in the order of Bayer's dither matrix (1973): a lattice where the visible fraction is a power of
    1/4, and spread as evenly as possible otherwise.
    """
    side = 1 << (max(shape) - 1).bit_length()
    rank = _bayer(side)
    down, right = rng.integers(side, size=2)
    rank = np.roll(rank, (down, right), axis=(0, 1))[: shape[0], : shape[1]].reshape(-1)
    usable = np.flatnonzero(usable_N)
    return usable[np.argsort(rank[usable], kind="stable")[:visible]]


PLACES = {"random": random_places, "block": block_places, "grid": grid_places}


def usable_patches(valid_CHW: NDArray[np.bool_], side: int, least: float) -> NDArray[np.bool_]:
    """Select the patches (N,) of a tile whose fraction of valid pixels, over all bands, is at least `least`."""
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
    """Hide whole groups, or whole bands where all bands share a token; the others are visible everywhere."""
    units = groups if groups > 1 else bands
    if units < 2:
        raise ValueError("masks of bands need at least two bands or groups")
    shown = np.zeros(units, dtype=bool)
    shown[rng.permutation(units)[: visible_count(units, rules.ratio)]] = True
    if groups == 1:
        return np.arange(patches), shown
    every, none = np.arange(patches), np.arange(0)
    return _order([every if one else none for one in shown], patches), None


def _order(seen: list[NDArray[np.int64]], patches: int) -> NDArray[np.int64]:
    """Token numbers (X,), visible ones first, from the visible patches of each group."""
    visible = np.concatenate([group * patches + places for group, places in enumerate(seen)])
    hidden = np.setdiff1d(np.arange(len(seen) * patches), visible, assume_unique=True)
    return np.concatenate([visible, hidden]).astype(np.int64)


def _drop_bands(bands: int, chance: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw the bands (C,) that are shown: each is dropped with probability `chance`, but at least one stays."""
    shown: NDArray[np.bool_] = rng.random(bands) >= chance
    shown[rng.integers(bands)] |= not shown.any()
    return shown


def _bayer(side: int) -> NDArray[np.int64]:
    """Bayer's matrix of ordered dithering; `side` is a power of two."""
    if side == 1:
        return np.zeros((1, 1), dtype=np.int64)
    half = 4 * _bayer(side // 2)
    return np.block([[half, half + 2], [half + 3, half + 1]])
