"""The two domains of a gap: their tiles, what belongs together, labels, and some pixels of each tile.

T tiles of a side, P pixels of a tile, C bands
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.embedding_gap import draw_tiles
from geomae.analysis.gap_pixels import Pixels
from geomae.errors import BandMismatchError, CatalogError
from geomae.sensors import Band
from geomae.tiles.reader import TileReader
from geomae.workflows.apart import check_apart
from geomae.workflows.probe_embed import share_bands
from geomae.workflows.selected import Selected

Kind = TypeVar("Kind", bound=np.generic)

SOURCE, TARGET = "source", "target"
LATTICE = 32  # pixels of a tile are taken on a lattice of at most so many a side


@dataclass(frozen=True)
class Side:
    """A domain. `unit_T` names what is independent of the rest: a tile's group, else its block, else the tile itself.

    `label_T` is empty where a tile has none. Of many tiles some are drawn; `tiles` counts all.
    """

    role: str
    selected: Selected
    unit_T: list[str]
    label_T: NDArray[np.str_]
    tiles: int

    def __len__(self) -> int:
        return len(self.unit_T)

    @property
    def name(self) -> str:
        """The selector."""
        return self.selected.name

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance of its pixels."""
        return self.selected.imagery.gsd_m

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are looked at."""
        return self.selected.imagery.bands


@dataclass(frozen=True)
class Sides:
    """Both domains. `same_bands` says whether their bands are the same measurements, in the same unit and order."""

    source: Side
    target: Side
    same_bands: bool

    def __iter__(self) -> Any:
        return iter((self.source, self.target))

    @property
    def paired(self) -> int:
        """Groups that occur in both domains."""
        return len(set(self.source.unit_T) & set(self.target.unit_T))


def read_sides(chosen: Sequence[Selected], seed: int) -> Sides:
    """Source and target, in the bands that they share where they share any.

    Raises ConfigError where tiles of one overlap tiles of the other, and CatalogError for fewer than two on a side.
    """
    source, target = chosen
    check_apart(source.index, target.index, f"--source {source.name}")
    try:
        chosen, same = share_bands(chosen), True
    except BandMismatchError:  # an encoder may take either as it is
        same = False
    here, there = (_side(one, role, seed) for one, role in zip(chosen, (SOURCE, TARGET), strict=True))
    return Sides(here, there, same and len({one.imagery.unit for one in chosen}) == 1)


def read_pixels(side: Side, progress: Callable[[str, int, int], None]) -> Pixels:
    """Pixels of each tile on a lattice, in the bands of the side."""
    reader = TileReader(side.selected.index, bands=[band.name for band in side.bands])
    values, valid = [], []
    for position in range(len(reader)):
        pixels_CHW, valid_CHW = reader.read(position)
        step = -(-pixels_CHW.shape[1] // LATTICE)
        values.append(pixels_CHW[:, ::step, ::step].reshape(len(pixels_CHW), -1).T)
        valid.append(valid_CHW[:, ::step, ::step].reshape(len(valid_CHW), -1).T)
        progress(f"reading pixels of {side.name}", position + 1, len(reader))
    return Pixels(_stacked(values), _stacked(valid), side.unit_T, sum(map(len, values)))


def _stacked(tiles: Sequence[NDArray[Kind]]) -> NDArray[Kind]:
    """Tiles (P, C) of any number of pixels as one array; what is missing is zero, and not valid."""
    most = max(map(len, tiles))
    return np.stack([np.pad(tile_PC, ((0, most - len(tile_PC)), (0, 0))) for tile_PC in tiles])


def _side(selected: Selected, role: str, seed: int) -> Side:
    tiles = len(selected.index)
    if tiles < 2:
        raise CatalogError(f"--{role} {selected.name}: has {tiles} tile; a gap takes two or more on either side")
    index = selected.index.take(draw_tiles(tiles, seed, role))
    label_T = np.array(["" if label is None else str(label) for label in index.tiles["label"].tolist()])
    return Side(role, replace(selected, index=index), index.independent_units(), label_T, tiles)
