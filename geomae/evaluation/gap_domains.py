"""The two domains of a gap: their tiles, groups, labels, some pixels of each tile, and reconstruction errors.

T tiles of a side, P pixels of a tile, C bands

T tiles, C bands
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.encoders import Encoder, EncoderSpec, OwnEncoder
from geomae.errors import BandMismatchError, CatalogError
from geomae.evaluation.gap import Pixels, reconstruction_gap, subsample_tiles
from geomae.evaluation.permutations import DomainComparison, GapFigure
from geomae.evaluation.reconstruction import MASKED, Candidate, MaskKind, fit, score
from geomae.runtime.devices import Compute
from geomae.sensors import Band
from geomae.tiles.batches import TileReader
from geomae.tiles.overlaps import check_no_pixel_overlap
from geomae.tiles.selection import Selection, share_bands

Kind = TypeVar("Kind", bound=np.generic)

SOURCE, TARGET = "source", "target"
LATTICE = 32  # pixels of a tile are taken on a lattice of at most so many a side


@dataclass(frozen=True)
class GapDomain:
    """A domain. `unit_T` names what is independent of the rest: a tile's group, else its block, else the tile itself.

    `label_T` is empty where a tile has none. Of many tiles some are drawn; `tiles` counts all.
    """

    role: str
    selected: Selection
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
class GapDomains:
    """Both domains. `same_bands` says whether their bands are the same measurements, in the same unit and order."""

    source: GapDomain
    target: GapDomain
    same_bands: bool

    def __iter__(self) -> Any:
        return iter((self.source, self.target))

    @property
    def paired(self) -> int:
        """Groups that occur in both domains."""
        return len(set(self.source.unit_T) & set(self.target.unit_T))


def read_domains(chosen: Sequence[Selection], seed: int) -> GapDomains:
    """Source and target, in the bands that they share where they share any.

    Raises ConfigError where tiles of one overlap tiles of the other, and CatalogError for fewer than two on a side.
    """
    source, target = chosen
    check_no_pixel_overlap(source.index, target.index, f"--source {source.name}")
    try:
        chosen, same = share_bands(chosen), True
    except BandMismatchError:  # an encoder may take either as it is
        same = False
    here, there = (_side(one, role, seed) for one, role in zip(chosen, (SOURCE, TARGET), strict=True))
    return GapDomains(here, there, same and len({one.imagery.unit for one in chosen}) == 1)


def read_pixels(side: GapDomain, progress: Callable[[str, int, int], None]) -> Pixels:
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


def _side(selected: Selection, role: str, seed: int) -> GapDomain:
    tiles = len(selected.index)
    if tiles < 2:
        raise CatalogError(f"--{role} {selected.name}: has {tiles} tile; a gap takes two or more on either side")
    index = selected.index.take(subsample_tiles(tiles, seed, role))
    label_T = np.array(["" if label is None else str(label) for label in index.tiles["label"].tolist()])
    return GapDomain(role, replace(selected, index=index), index.independent_units(), label_T, tiles)


MASK = MaskKind("random", 0.75)
MOST_TILES = 256  # of each domain, drawn by the seed

Sums = tuple[NDArray[np.float64], NDArray[np.float64]]


def reconstruct(
    compute: Compute,
    entrant: EncoderSpec,
    encoders: Mapping[str, Encoder],
    sides: GapDomains,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> tuple[list[GapFigure], str | None]:
    """The errors of a model on both domains; without figures, why there are none."""
    if entrant.baseline:
        return [], None
    own = next(iter(encoders.values()))
    if not isinstance(own, OwnEncoder) or own.model.mae.decoder is None:
        return [], f"{entrant.label} has no decoder, so nothing can be reconstructed with it"
    if not sides.same_bands:
        return [], f"{entrant.label}: errors in other bands or units on either side cannot be compared"
    candidate = Candidate(entrant.references[0], own.model)
    found = []
    for side in sides:
        try:
            found.append(_errors(compute, candidate, side, seed, progress))
        except CatalogError as error:
            return [], str(error)
    (first, bands, units_N), (second, others, units_M) = found
    if bands != others:
        return [], f"{entrant.label} reconstructs other bands on either side, whose errors cannot be compared"
    contrast = DomainComparison.of(units_N, units_M, seed)
    return reconstruction_gap(first, second, contrast, sides.source.selected.imagery.unit), None


def _errors(
    compute: Compute, candidate: Candidate, side: GapDomain, seed: int, progress: Callable[[str, int, int], None]
) -> tuple[Sums, tuple[int, ...], list[str]]:
    """Squared errors and pixels (T, C) of tiles, the bands that they are of, and the groups of the tiles."""
    device = compute.fabric.device
    fitted = fit([candidate], side.selected, device, compute.precision)
    exact = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    label = candidate.label
    scores = score(
        side.selected, fitted, [label], [MASK], MOST_TILES, seed, exact,
        lambda done, total: progress(f"reconstructing {side.name} by {label}", done, total),
    )  # fmt: skip
    sums = scores.sums[label, MASK, MASKED]
    unit = dict(zip(side.selected.index.tiles["tile_id"], side.unit_T, strict=True))
    units = [unit[tile_id] for tile_id in scores.index.tiles["tile_id"]]
    return (sums.square_TC, sums.pixels_TC), fitted.bands, units
