"""Reconstructions, errors and anomalies of whole scenes, as GeoTIFFs that lie where the scene does.

C bands, H W pixels of a strip of a scene, B looks of a batch
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.analysis.anomaly import UsualErrors
from geomae.analysis.scene_cover import Look, looks, starts
from geomae.catalog.source import Scene
from geomae.catalog.splits import TRAIN
from geomae.randomness import generator
from geomae.rasters import Grid, Window, cog_in_strips, read
from geomae.tiles.reader import TileReader
from geomae.workflows.compare_recon_models import Fitted, Shown
from geomae.workflows.compare_recon_score import MaskKind, Scores, batch_of, batches
from geomae.workflows.run_folder import file_name
from geomae.workflows.selected import Selected

Pixels = NDArray[np.float32]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class MapRequest:
    """How maps are made: of at most `scenes` per selection; what errors are usual is told from `tiles` train tiles."""

    labels: Sequence[str]
    ratio: float
    scenes: int
    tiles: int
    seed: int
    device: torch.device

    @property
    def mask(self) -> MaskKind:
        """Complementary masks are dealt at random, and what is usual has to be under masks of the same kind."""
        return MaskKind("random", self.ratio)


@dataclass(frozen=True)
class MapJob:
    """A scene, and what the names of its maps end with."""

    scores: Scores
    scene: Scene
    grid: Grid
    stem: str


def scenes_to_map(all_scores: Sequence[Scores], most: int) -> list[MapJob]:
    """The scenes with a CRS that hold a tile: at most `most` of each selection, and each once."""
    jobs: list[MapJob] = []
    for one in all_scores:
        name, size = one.index.name, _size(one)
        known = {(job.scores.index.name, job.scene.id) for job in jobs}
        chosen = [
            (scene, grid)
            for scene, grid in scenes_with_crs(one)
            if (name, scene.id) not in known and min(grid.height, grid.width) >= size
        ]
        for scene, grid in chosen[:most]:
            stem = file_name(scene.id)
            taken = any(job.stem == stem for job in jobs)
            jobs.append(MapJob(one, scene, grid, f"{name}_{stem}" if taken else stem))
    return jobs


def scenes_with_crs(scores: Scores) -> Iterator[tuple[Scene, Grid]]:
    """The georeferenced scenes of the tiles that were compared, in the order of the data set."""
    index = scores.index
    for number in sorted(set(index.tiles["scene"].tolist())):
        grid = index.grids[number]
        if grid is not None and grid.crs is not None:
            yield index.source.scenes[number], grid


def draw_maps(
    out: Path, job: MapJob, usual: Mapping[str, UsualErrors], asked: MapRequest, progress: Callable[[int, int], None]
) -> list[Path]:
    """Publish the maps of a scene of every model; gives their paths.

    The scene is read, predicted and written in strips as high as a tile, so that a whole satellite scene fits memory.
    """
    scores, grid, size = job.scores, job.grid, _size(job.scores)
    names, unit, places = [band.name for band in scores.bands], scores.selected.imagery.unit, list(scores.fitted.bands)
    told = {
        "recon": (names, unit),
        "error": ([f"{name}, reconstruction - truth" for name in names], unit),
        "anomaly": (["all bands", *names], "standard deviations"),
    }
    paths = {(kind, label): out / f"{kind}_{label}_{job.stem}.tif" for label in asked.labels for kind in told}
    rows = starts(grid.height, size)
    with contextlib.ExitStack() as stack:
        write = {
            (kind, label): stack.enter_context(
                cog_in_strips(path, grid, descriptions=told[kind][0], unit=told[kind][1])
            )
            for (kind, label), path in paths.items()
        }
        for number, row in enumerate(rows):
            done = rows[number - 1] + size - row if number else 0  # rows of this strip that the last one wrote
            pixels_CHW, valid_CHW = read(scores.index.source, job.scene, Window(row, 0, size, grid.width))
            seen = list(looks(valid_CHW, scores.fitted.cell, asked.ratio, asked.seed, job.scene.id, row, done))
            for label in asked.labels:
                made_CHW = predict_strip(scores.fitted, label, (pixels_CHW, valid_CHW), seen, asked.device)
                made_CHW = np.where(valid_CHW[places], made_CHW, np.nan)
                error_CHW = made_CHW - pixels_CHW[places]
                strips = {"recon": made_CHW, "error": error_CHW, "anomaly": usual[label].anomaly(error_CHW)}
                for kind, strip_CHW in strips.items():
                    write[kind, label](row + done, strip_CHW[:, done:])
            progress(number + 1, len(rows))
    return list(paths.values())


def predict_strip(
    fitted: Fitted, label: str, strip: tuple[Pixels, Valid], chosen: Sequence[Look], device: torch.device
) -> Pixels:
    """A strip (C, H, W) in the bands that are compared, each pixel predicted while hidden; NaN where none looked."""
    pixels_CHW, valid_CHW = strip
    size, most = pixels_CHW.shape[1], batch_of(pixels_CHW.shape[1])
    made_CHW = np.full((len(fitted.bands), *pixels_CHW.shape[1:]), np.nan, dtype=np.float32)
    for begin in range(0, len(chosen), most):
        batch = chosen[begin : begin + most]
        windows = [np.s_[:, :, one.col : one.col + size] for one in batch]
        tiles = (torch.from_numpy(np.stack([part[one] for one in windows])) for part in (pixels_CHW, valid_CHW))
        pixels_BCHW, valid_BCHW = (values.to(device) for values in tiles)
        shown = Shown(pixels_BCHW, valid_BCHW, np.stack([one.visible_N for one in batch]), fitted.cell)
        predicted_BCHW = fitted.predict(label, shown).cpu().numpy()
        for one, window, predicted_CHW in zip(batch, windows, predicted_BCHW, strict=True):
            made_CHW[window] = np.where(one.taken_HW, predicted_CHW, made_CHW[window])
    return made_CHW


def usual_errors(fitted: Fitted, whole: Selected, asked: MapRequest) -> dict[str, UsualErrors] | None:
    """What the errors of each model are like on the train split, on hidden pixels that are valid in every band.

    `whole` is the data set with all its tiles, which count where none is of the train split. None without such a pixel.
    """
    train = np.flatnonzero((whole.index.tiles["split"] == TRAIN).to_numpy())
    index = whole.index.take(train) if len(train) else whole.index
    drawn = generator(asked.seed, "usual errors", whole.name).permutation(len(index))[: asked.tiles]
    reader = TileReader(index.take(np.sort(drawn)))
    places = list(fitted.bands)
    found = dict.fromkeys(asked.labels, UsualErrors.none(len(places)))
    for _, masked in batches(reader, fitted.cell, [asked.mask], asked.seed, asked.device):
        shown = masked[asked.mask]
        counted = shown.valid_BCHW[:, places].all(1) & ~shown.visible_B1HW[:, 0]
        for label in asked.labels:
            error_BCHW = fitted.predict(label, shown) - shown.pixels_BCHW[:, places]
            found[label] = found[label].joined(error_BCHW.permute(0, 2, 3, 1)[counted].cpu().numpy())
    return found if all(one.pixels for one in found.values()) else None


def _size(scores: Scores) -> int:
    """The side of the windows that cover a scene, in pixels: that of its tiles."""
    return int(scores.index.tiles["size"].iloc[0])
