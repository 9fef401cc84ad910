"""The two domains of a gap: their tiles, what belongs together, labels, and some pixels of each tile.

T tiles of a side, P pixels of a tile, C bands
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.embedding_gap import draw_tiles
from geomae.analysis.gap_pixels import Pixels
from geomae.errors import BandMismatchError, CatalogError, ConfigError
from geomae.sensors import Band
from geomae.tiles.reader import TileReader
from geomae.workflows.probe_embed import share_bands
from geomae.workflows.selected import Selected

SOURCE, TARGET = "source", "target"
SHOWN = 5  # names in an error
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

    Raises ConfigError where tiles are in both, and CatalogError for fewer than two on a side.
    """
    _check_apart(*chosen)
    try:
        chosen, same = share_bands(chosen), True
    except BandMismatchError:  # an encoder may take either as it is
        same = False
    source, target = (_side(one, role, seed) for one, role in zip(chosen, (SOURCE, TARGET), strict=True))
    return Sides(source, target, same and source.selected.imagery.unit == target.selected.imagery.unit)


def read_pixels(side: Side, progress: Callable[[str, int, int], None]) -> Pixels:
    """Pixels of each tile on a lattice, in the bands of the side."""
    reader = TileReader(side.selected.index, bands=[band.name for band in side.bands])
    tiles = []
    for position in range(len(reader)):
        pixels_CHW, valid_CHW = reader.read(position)
        step = -(-pixels_CHW.shape[1] // LATTICE)
        tiles.append(tuple(one[:, ::step, ::step].reshape(len(one), -1).T for one in (pixels_CHW, valid_CHW)))
        progress(f"reading pixels of {side.name}", position + 1, len(reader))
    most = max(len(valid_PC) for _, valid_PC in tiles)
    values, valid = (
        np.stack([np.pad(tile[number], ((0, most - len(tile[number])), (0, 0))) for tile in tiles]) for number in (0, 1)
    )
    return Pixels(values, valid, side.unit_T)


def _side(selected: Selected, role: str, seed: int) -> Side:
    tiles = len(selected.index)
    if tiles < 2:
        raise CatalogError(f"--{role} {selected.name}: has {tiles} tile; a gap takes two or more on either side")
    index = selected.index.take(draw_tiles(tiles, seed, role))
    columns = (index.tiles[name].tolist() for name in ("group", "block", "tile_id"))
    unit_T = [
        str(group) if group is not None else f"{index.name} block {block}" if block else f"{index.name} {tile}"
        for group, block, tile in zip(*columns, strict=True)
    ]
    label_T = np.array(["" if label is None else str(label) for label in index.tiles["label"].tolist()])
    return Side(role, replace(selected, index=index), unit_T, label_T, tiles)


def _check_apart(source: Selected, target: Selected) -> None:
    if source.index.name != target.index.name:
        return
    shared = sorted(set(source.index.tiles["tile_id"]) & set(target.index.tiles["tile_id"]))
    if shared:
        more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise ConfigError(
            f"--target {target.name}: {len(shared)} of its tiles are in --source {source.name} too "
            f"({', '.join(shared[:SHOWN])}{more}); choose selectors that share no tile"
        )
