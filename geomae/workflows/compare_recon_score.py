"""Every candidate on the same tiles under the same masks: each tile is read once, and sums are kept, not pixels.

T tiles, B tiles of a batch, C bands, N cells
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.analysis.reconstruction_errors import DATA_RANGE_STD, ErrorSums, error_sums
from geomae.analysis.shared_masks import visible_cells
from geomae.errors import CatalogError, ModelError
from geomae.models.masking import visible_count
from geomae.randomness import generator
from geomae.sensors import Band
from geomae.tiles.ahead import ahead
from geomae.tiles.index import TileIndex
from geomae.tiles.reader import TileReader
from geomae.workflows.compare_recon_models import Fitted, Shown
from geomae.workflows.selected import Selected

BATCH_PIXELS = 32 * 64 * 64  # of one band; larger batches are no faster, and large tiles must not fill memory
MASKED, VISIBLE = "masked", "visible"
Pixels = NDArray[np.float32]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskKind:
    """How the cells of a tile are hidden."""

    kind: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.kind} {self.ratio:g}"


Tile = tuple[int, Pixels, Valid, dict[MaskKind, Valid]]  # its position, what is shown of its cells under each mask


@dataclass(frozen=True)
class Scores:
    """The sums of every candidate on the tiles of one selection, by (label, mask, masked or visible)."""

    selected: Selected
    fitted: Fitted
    index: TileIndex
    left_out: int
    sums: dict[tuple[str, MaskKind, str], ErrorSums]

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are compared."""
        return tuple(self.selected.imagery.bands[place] for place in self.fitted.bands)

    @property
    def range_C(self) -> NDArray[np.float64]:
        """The data range of PSNR and SSIM."""
        return data_range(self.selected, self.fitted)

    def hidden(self, mask: MaskKind) -> float:
        """The share of a tile's cells that a mask hides: the ratio that was asked for, in whole cells."""
        cells = (int(self.index.tiles["size"].iloc[0]) // self.fitted.cell) ** 2
        return 1 - visible_count(cells, mask.ratio) / cells


def data_range(selected: Selected, fitted: Fitted) -> NDArray[np.float64]:
    """The data range of the bands that are compared, in the unit of the data set: six standard deviations."""
    return DATA_RANGE_STD * np.array([selected.imagery.std_C[place] for place in fitted.bands])


def score(
    selected: Selected,
    fitted: Fitted,
    labels: Sequence[str],
    masks: Sequence[MaskKind],
    most: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Compare on at most `most` tiles of a selection, drawn by the seed.

    Tiles in which a mask finds too few cells with valid pixels are left out for all masks, and counted. Raises
    CatalogError where none is left, and ModelError for predictions that are not finite.
    """
    drawn = np.sort(generator(seed, "comparison tiles", selected.name).permutation(len(selected.index))[:most])
    index = selected.index.take(drawn)
    reader = TileReader(index, bands=[band.name for band in selected.imagery.bands])
    bands = tuple(selected.imagery.bands[place] for place in fitted.bands)
    range_C = torch.from_numpy(data_range(selected, fitted)).to(device)
    places = list(fitted.bands)
    parts: dict[tuple[str, MaskKind, str], list[ErrorSums]] = {}
    kept: list[int] = []
    for positions, shown in batches(reader, fitted.cell, masks, seed, device):
        kept += positions
        for mask, tiles in shown.items():
            valid = tiles.valid_BCHW[:, places]
            visible = tiles.visible_B1HW
            for label in labels:
                predicted = fitted.predict(label, tiles)
                if not torch.isfinite(predicted).all():
                    raise ModelError(f"{label}: predicts values of {selected.name} that are not finite; train it again")
                for pixels, counted in ((MASKED, valid & ~visible), (VISIBLE, valid & visible)):
                    sums = error_sums(predicted, tiles.pixels_BCHW[:, places], counted, valid, bands, range_C)
                    parts.setdefault((label, mask, pixels), []).append(sums)
        progress(positions[-1] + 1, len(reader))
    if not kept:
        raise CatalogError(f"{selected.name}: no tile has enough valid cells to be shown; hide more with --mask-ratio")
    joined = {key: ErrorSums.joined(values) for key, values in parts.items()}
    return Scores(selected, fitted, index.take(np.array(kept)), len(reader) - len(kept), joined)


def batch_of(size: int) -> int:
    """How many tiles of `size` pixels a side make a batch."""
    return max(BATCH_PIXELS // size**2, 1)


def batches(
    reader: TileReader, cell: int, masks: Sequence[MaskKind], seed: int, device: torch.device
) -> Iterator[tuple[list[int], dict[MaskKind, Shown]]]:
    """Tiles of one size with their masks, as positions and what is shown under each mask.

    Every tile is read once, by a thread that is a batch ahead of the models.
    """
    waiting: list[Tile] = []
    most = batch_of(int(reader.index.tiles["size"].max()))

    def together() -> tuple[list[int], dict[MaskKind, Shown]]:
        positions, *tiles, cells = zip(*waiting, strict=True)
        pixels, valid = (torch.from_numpy(np.stack(values)).to(device) for values in tiles)
        shown = {mask: Shown(pixels, valid, np.stack([one[mask] for one in cells]), cell) for mask in masks}
        return list(positions), shown

    def look(position: int) -> Tile | None:
        pixels_CHW, valid_CHW = reader.read(position)
        tile_id = reader.tile_ids[position]
        drawn = {mask: visible_cells(valid_CHW, cell, mask.ratio, mask.kind, seed, tile_id) for mask in masks}
        cells = {mask: one for mask, one in drawn.items() if one is not None}
        return (position, pixels_CHW, valid_CHW, cells) if len(cells) == len(masks) else None

    def read(first: int) -> list[Tile]:
        looked = map(look, range(first, min(first + most, len(reader))))
        return [one for one in looked if one is not None]

    for tile in chain.from_iterable(ahead(read, range(0, len(reader), most), 1)):
        if waiting and (len(waiting) == most or waiting[0][1].shape != tile[1].shape):
            yield together()
            waiting = []
        waiting.append(tile)
    if waiting:
        yield together()
