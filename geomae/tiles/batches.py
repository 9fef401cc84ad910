"""Batches of masked tiles for training; each batch is a pure function of the seed and the step.

B tiles of this rank, G of all ranks, C bands, H W pixels, N patches, X tokens of a tile (one per patch and group of
bands)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.models.contrast import Negatives
from geomae.models.masking import Mask, MaskRules, draw_mask, usable_patches, visible_count, visible_tokens
from geomae.randomness import generator
from geomae.rasters import Window
from geomae.tiles.places import Partner, Partners
from geomae.tiles.reader import TileReader, ahead
from geomae.tiles.schedule import BatchSchedule
from geomae.tiles.views import Frame, ViewRules, draw_alteration, draw_partner, draw_view, frame_of, resize


def augment(pixels_CHW: NDArray[Any], which: int) -> NDArray[Any]:
    """One of the eight combinations of flips and quarter turns of a tile (C, H, W); `which` 0 is the identity."""
    turned = np.rot90(pixels_CHW, which % 4, axes=(1, 2))
    return turned[:, :, ::-1] if which >= 4 else turned


@dataclass(frozen=True)
class Batch:
    """Tiles of one data set in physical units, with their masks.

    Where training contrasts views, `second` holds a second view of each tile, from the same or another data set, and
    `negatives` says which tiles of the batch are negatives of which. Gains and offsets are applied to standardised
    values; None applies none.
    """

    dataset: int
    tile_ids: tuple[str, ...]
    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    mask: Mask
    hidden_B: Tensor  # number of scored pixels of each tile, over all bands; stays on the host
    zoom_B: Tensor | None = None  # scene pixels along one pixel of the view; None: nothing is resized
    altered: tuple[Tensor, Tensor] | None = None  # gain and offset (B, C)
    second: "Batch | None" = None
    negatives: Negatives | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; from pinned memory the copy is asynchronous."""
        return self if device.type == "cpu" else self._each(lambda values: values.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in pinned memory, from which a GPU copies asynchronously."""
        return self._each(Tensor.pin_memory)

    def split(self, parts: int) -> list["Batch"]:
        """The batch in `parts` equal parts. A batch with second views must not be split."""
        if parts == 1:
            return [self]
        size = len(self.tile_ids) // parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
        part = ((cut, self._each(lambda values, cut=cut: values[cut])) for cut in cuts)  # type: ignore[misc]
        return [replace(one, tile_ids=self.tile_ids[cut], hidden_B=self.hidden_B[cut]) for cut, one in part]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        gain_and_offset = None if self.altered is None else (change(self.altered[0]), change(self.altered[1]))
        return replace(
            self,
            pixels_BCHW=change(self.pixels_BCHW),
            valid_BCHW=change(self.valid_BCHW),
            mask=self.mask.each(change),
            zoom_B=None if self.zoom_B is None else change(self.zoom_B),
            altered=gain_and_offset,
            second=None if self.second is None else self.second._each(change),
            negatives=None if self.negatives is None else self.negatives.each(change),
        )


@dataclass(frozen=True)
class BatchSpec:
    """How tiles are masked, flipped and rotated, and how their views are drawn."""

    seed: int
    patch: int
    rules: MaskRules
    min_valid_patch: float
    flips: bool
    predict: float = 1.0  # share of the hidden patches that is predicted
    views: ViewRules = field(default_factory=ViewRules)

    def for_validation(self) -> "BatchSpec":
        """The same without band dropout, flips and changed values, and with every hidden patch predicted."""
        rules = replace(self.rules, band_dropout=0.0, shuffled=False)
        views = ViewRules(self.views.scales, self.views.paired, alone=self.views.alone)
        return replace(self, rules=rules, flips=False, predict=1.0, views=views)


class _Item(NamedTuple):
    """One tile of a batch."""

    pixels_CHW: NDArray[np.float32]
    valid_CHW: NDArray[np.bool_]
    order_X: NDArray[np.int64]
    shown_C: NDArray[np.bool_] | None
    zoom: float = 1.0
    altered: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class _Draw:
    """The random generators for one tile of a batch: one per purpose, so that no draw depends on another."""

    spec: BatchSpec
    indices: tuple[int | str, ...]
    purposes: str = ""  # prefix of their names

    def of(self, purpose: str) -> np.random.Generator:
        """The generator of one purpose."""
        return generator(self.spec.seed, f"{self.purposes}{purpose}", *self.indices)

    def view(self, reader: TileReader, scene: int, window: Window, side: int) -> _Item | None:
        """A window resized to `side` pixels, augmented and masked; None where too few of its patches are valid."""
        return self.item(*resize(*reader.window(scene, window), side), window.height / side)

    def item(self, pixels: NDArray[np.float32], valid: NDArray[np.bool_], zoom: float = 1.0) -> _Item | None:
        """The same for pixels that were already read."""
        spec, views = self.spec, self.spec.views
        which = int(self.of("turn").integers(8)) if spec.flips else 0
        pixels, valid = augment(pixels, which), augment(valid, which)
        usable = usable_patches(valid, spec.patch, spec.min_valid_patch)
        C, H, W = valid.shape
        if spec.rules.kind != "bands" and usable.sum() < visible_count(len(usable), spec.rules.ratio):
            return None
        order, shown = draw_mask(usable, (H // spec.patch, W // spec.patch), C, spec.rules, self.of("mask"))
        altered = draw_alteration(C, views, self.of("alteration")) if views.paired else None
        return _Item(pixels, valid, order, shown, zoom, altered)


def training_batch(
    readers: Sequence[TileReader], order: BatchSchedule, spec: BatchSpec, step: int, rank: int, ranks: int
) -> Batch:
    """The tiles of `step` for `rank`. All ranks together get the tiles that a single rank would get."""
    number, tiles = order.tiles(step)
    stream = order.streams[number]
    share = len(tiles) // ranks
    mine = tiles[rank * share : (rank + 1) * share]
    reader, partner = readers[stream.dataset], readers[stream.partner]
    partners, grouped = order.partners, stream.groups is not None
    firsts, seconds, with_partner = [], [], []
    for k, position in mine:
        first, window = _first_view(_Draw(spec, (number, k)), reader, position, grouped)
        firsts.append(first)
        if partners is not None:
            known = partners.of(stream.dataset, position) if spec.views.places else ()
            others = [one for one in known if one.dataset == stream.partner]
            draw = _Draw(spec, (number, k), "second ")
            second = _partner_view(draw, reader, partner, position, window, others) if others else None
            with_partner.append(second is not None)
            if second is None and partner is reader and spec.views.alone:
                second, _ = _first_view(draw, reader, position, grouped)
            seconds.append(second)
    batch = _stack(stream.dataset, [reader.tile_ids[position] for _, position in mine], firsts, spec)
    if partners is None:
        return batch
    bands, side = len(partner.bands), firsts[0].valid_CHW.shape[-1]
    shown = [one or _blank(_Draw(spec, (number, k)), bands, side) for (k, _), one in zip(mine, seconds, strict=True)]
    every_G = np.array([position for _, position in tiles])
    same_GG = partners.same_ground(stream.dataset, every_G, max(spec.views.scales))
    negatives = Negatives(
        torch.from_numpy(~same_GG[rank * share : (rank + 1) * share]),
        torch.tensor([one is not None for one in seconds]),
        torch.tensor(with_partner),
        rank * share,
    )
    return replace(batch, second=_stack(stream.partner, list(batch.tile_ids), shown, spec), negatives=negatives)


def _first_view(draw: _Draw, reader: TileReader, position: int, grouped: bool = False) -> tuple[_Item, Window]:
    """A view of a random window around a tile, and the window; the tile itself where too few patches of it are valid.

    With `grouped` (tiles are drawn by groups) the window stays on the ground of its tile's group, so that no blocks of
    other groups are decoded.
    """
    tile, views = reader.frame(position), draw.spec.views
    if views.scaled:
        around, ground = tile, reader.ground
        if grouped and reader.groups is not None:
            around, ground = replace(tile, scene=int(reader.groups.group_T[position])), reader.ground_of_groups
        window = draw_view(around, views.scales, draw.spec.patch, ground, draw.of("window"))
        found = draw.view(reader, tile.scene, window, round(tile.side))
        if found is not None:
            return found, window
    whole = draw.item(*reader.read(position))
    if whole is None:
        raise ValueError(f"{reader.tile_ids[position]}: too few valid patches; leave such tiles out before training")
    return whole, tile.window()


def _partner_view(
    draw: _Draw, reader: TileReader, partner: TileReader, position: int, window: Window, others: Sequence[Partner]
) -> _Item | None:
    """A view of the ground of `window` in a scene of `others`; None where it has too few valid patches."""
    tile = reader.frame(position)
    one = others[int(draw.of("partner").integers(len(others)))]
    drawn = frame_of(tile.scene, window)
    # The centres of tile and partner are one point on the ground; a pixel of the tile is `zoom` pixels of the partner.
    row, col = (
        there + one.zoom * (centre - origin)
        for there, centre, origin in ((one.row, drawn.row, tile.row), (one.col, drawn.col, tile.col))
    )
    around = Frame(one.scene, row, col, one.zoom * drawn.side)
    there = draw_partner(around, partner.ground, draw.of("window"))
    return None if there is None else draw.view(partner, one.scene, there, round(tile.side))


def _blank(draw: _Draw, bands: int, side: int) -> _Item:
    """A blank view for a tile without a second view in another data set; it does not count in the loss."""
    item = draw.item(np.zeros((bands, side, side), np.float32), np.ones((bands, side, side), np.bool_))
    assert item is not None
    return item


def fixed_batches(
    reader: TileReader,
    dataset: int,
    positions: Sequence[int],
    spec: BatchSpec,
    size: int,
    rank: int = 0,
    ranks: int = 1,
    partners: Partners | None = None,
) -> Iterator[tuple[Batch, bool]]:
    """This rank's share of the tiles, not augmented, each with a mask that depends on the seed and the tile only.

    A batch holds tiles of one size; the smallest size comes first. Every rank gets the same number of batches, because
    some distributed strategies communicate in every forward pass: a rank that has no batch left repeats the first one,
    marked false. With `partners` of this index only, each tile also has a second view of its own ground, and the other
    tiles of its batch are its negatives.
    """
    plain = replace(spec.for_validation(), views=ViewRules())
    side_P = reader.side_T[list(positions)]
    alike = [[positions[place] for place in np.flatnonzero(side_P == side).tolist()] for side in np.unique(side_P)]
    chunks = [one[start : start + size] for one in alike for start in range(0, len(one), size)]
    for turn in range(-(-len(chunks) // ranks)):
        number = turn * ranks + rank
        counted = number < len(chunks)
        chosen = chunks[number if counted else 0]
        ids = [reader.tile_ids[position] for position in chosen]
        named = list(zip(ids, chosen, strict=True))
        items = [_first_view(_Draw(plain, (name,), "validation "), reader, position)[0] for name, position in named]
        batch = _stack(dataset, ids, items, plain)
        if partners is not None:
            paired = replace(spec.for_validation(), flips=True)
            seconds = [
                _first_view(_Draw(paired, (name,), "validation second "), reader, position)[0]
                for name, position in named
            ]
            negative = torch.from_numpy(~partners.same_ground(0, np.array(chosen), max(spec.views.scales)))
            every_B = torch.ones(len(chosen), dtype=torch.bool)
            # Held-out tiles have no partners; where training contrasts partners only, their own views replace these.
            negatives = Negatives(negative, every_B, ~every_B if spec.views.alone else every_B)
            batch = replace(batch, second=_stack(dataset, ids, seconds, paired), negatives=negatives)
        yield batch, counted


def read_ahead(
    readers: Sequence[TileReader],
    order: BatchSchedule,
    spec: BatchSpec,
    steps: range,
    rank: int,
    ranks: int,
    threads: int,
    pin: bool,
) -> Iterator[Batch]:
    """The batches of `steps` in order, prepared in advance by `threads` threads (0: on demand)."""

    def make(step: int) -> Batch:
        batch = training_batch(readers, order, spec, step, rank, ranks)
        return batch.pinned() if pin else batch

    return ahead(make, steps, threads)


def _stack(dataset: int, ids: list[str], items: Sequence[_Item], spec: BatchSpec) -> Batch:
    pixels, valid, order = (
        torch.from_numpy(np.stack(column))
        for column in (
            [one.pixels_CHW for one in items],
            [one.valid_CHW for one in items],
            [one.order_X for one in items],
        )
    )
    shown_BC = [one.shown_C for one in items if one.shown_C is not None]
    patches, bands = order.shape[1] // len(spec.rules.groups or (0,)), valid.shape[1]
    visible = visible_tokens(patches, bands, spec.rules)
    hidden = patches - visible
    predicted = max(round(spec.predict * hidden), 1) if spec.predict < 1 else None
    shown = torch.from_numpy(np.stack(shown_BC)) if shown_BC else None
    mask = Mask(order, visible, shown, spec.rules.groups, predicted)
    if spec.rules.groups is None and hidden and bool(valid.all()):  # most batches: nothing to count
        hidden_B = torch.full((len(ids),), (predicted or hidden) * spec.patch**2 * bands)
    else:
        hidden_B = mask.count_scored(valid, spec.patch)
    zoom_B = torch.tensor([one.zoom for one in items]) if spec.views.scaled or spec.views.paired else None
    altered = [one.altered for one in items if one.altered is not None]
    gains_and_offsets = (
        torch.from_numpy(np.stack([gain_C for gain_C, _ in altered])),
        torch.from_numpy(np.stack([offset_C for _, offset_C in altered])),
    ) if altered else None  # fmt: skip
    return Batch(dataset, tuple(ids), pixels, valid, mask, hidden_B, zoom_B, gains_and_offsets)
