"""Which tiles of a comparison are shown, and their panels.

T tiles, C bands, H W pixels
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch

from geomae.errors import ConfigError, nearest
from geomae.evaluation.reconstruction import MASKED, MaskKind, ReconstructionScores, batches
from geomae.files import file_name
from geomae.metrics.reconstruction import ALL, figures
from geomae.randomness import generator
from geomae.reports.reconstruction_figures import ComparedTile, comparison_panel
from geomae.tiles.batches import TileReader
from geomae.tiles.index import TileIndex

RANKED = ("best", "median", "worst")


@dataclass(frozen=True)
class TilesToShow:
    """Tiles to show of each selection: by their error, so many at random, and by their ids."""

    ranked: tuple[str, ...]
    random: int
    tile_ids: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """A tile that is shown, why, and its picture."""

    path: Path
    scores: ReconstructionScores
    why: str
    tile: ComparedTile


def parse_show(text: str) -> TilesToShow:
    """Read `best,median,worst,random:4` and tile ids, in any number and order."""
    words = [one.strip() for one in text.split(",") if one.strip()]
    drawn = [one for one in words if re.fullmatch(r"random:\d{1,3}", one)]
    ranked = tuple(one for one in words if one in RANKED)
    named = tuple(one for one in words if one not in (*RANKED, *drawn))
    return TilesToShow(ranked, sum(int(one.partition(":")[2]) for one in drawn), named)


def check_show(show: TilesToShow, tile_ids: Sequence[str]) -> None:
    """Raise ConfigError for what is neither a tile id of a selection nor one of our own words."""
    known = set(tile_ids)
    for tile_id in show.tile_ids:
        if tile_id not in known:
            words = (*RANKED, "random:4")
            near = nearest(tile_id, words) if get_close_matches(tile_id, words) else nearest(tile_id, known)
            raise ConfigError(f"--show {tile_id}: no tile of the data sets has this id; {near}")


def draw_panels(
    out: Path,
    scores: ReconstructionScores,
    labels: Sequence[str],
    mask: MaskKind,
    show: TilesToShow,
    seed: int,
    device: torch.device,
) -> Iterator[Panel]:
    """Publish a panel of each tile that is shown of a selection, under one mask."""
    unit, bands = scores.selected.imagery.unit, scores.bands
    places = list(scores.fitted.bands)
    for why, index in _chosen(scores, labels[0], mask, show, seed):
        reader = TileReader(index, bands=[band.name for band in scores.selected.imagery.bands])
        found = list(batches(reader, scores.fitted.cell, [mask], seed, device))
        if not found:  # a tile that was named, with too few valid cells to be compared
            continue
        ((_, shown),) = found
        tiles = shown[mask]
        visible = tiles.visible_B1HW
        truth = tiles.pixels_BCHW[:, places]
        made = {label: truth.where(visible, scores.fitted.predict(label, tiles))[0].cpu().numpy() for label in labels}
        tile = ComparedTile(
            reader.tile_ids[0],
            truth[0].cpu().numpy(),
            visible[0, 0].cpu().numpy(),
            tiles.valid_BCHW[0, places].cpu().numpy(),
            made,
        )
        path = out / f"panel_{file_name(scores.selected.name)}_{file_name(why)}.png"
        hidden = float(np.mean(~tiles.visible_BN))
        title = f"{scores.selected.name}: {why}, {hidden:.0%} hidden ({mask.kind})"
        comparison_panel(path, tile, bands, unit, title)
        yield Panel(path, scores, why, tile)


def _chosen(
    scores: ReconstructionScores, label: str, mask: MaskKind, show: TilesToShow, seed: int
) -> Iterator[tuple[str, TileIndex]]:
    """Tiles by the RMSE of the first model (mean over bands), drawn ones, and those named, compared or not."""
    index, whole = scores.index, scores.selected.index
    error_T = figures(scores.sums[label, mask, MASKED], scores.bands, scores.range_C)["rmse", ALL]
    order = [int(one) for one in np.argsort(error_T, kind="stable") if not np.isnan(error_T[one])]
    rank = {"best": 0, "median": len(order) // 2, "worst": -1}
    if order:
        yield from ((why, index.take(np.array([order[rank[why]]]))) for why in show.ranked)
    drawn = generator(seed, "tiles to show", scores.selected.name).permutation(len(index))[: show.random]
    yield from ((f"random {number}", index.take(np.array([place]))) for number, place in enumerate(drawn, 1))
    places = {tile_id: place for place, tile_id in enumerate(whole.tiles["tile_id"].tolist())}
    yield from ((one, whole.take(np.array([places[one]]))) for one in show.tile_ids if one in places)
