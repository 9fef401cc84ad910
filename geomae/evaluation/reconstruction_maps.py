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

from geomae.catalog.source import Scene
from geomae.catalog.splits import TRAIN
from geomae.evaluation.reconstruction import (
    FittedModels,
    MaskedTiles,
    MaskKind,
    ReconstructionScores,
    batch_of,
    batches,
)
from geomae.evaluation.reconstruction_masks import MaskedWindow, masked_windows, starts
from geomae.files import file_name
from geomae.randomness import generator
from geomae.rasters import Grid, Window, cog_in_strips, read
from geomae.tiles.batches import TileReader
from geomae.tiles.selection import Selection

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UsualErrors:
    """Number of pixels, mean and scatter of a model's errors over the bands, in the unit of the data set."""

    pixels: int
    mean_C: Floats
    scatter_CC: Floats

    @classmethod
    def none(cls, bands: int) -> "UsualErrors":
        """Before any pixel was seen."""
        return cls(0, np.zeros(bands), np.zeros((bands, bands)))

    def joined(self, errors_SC: NDArray[np.floating]) -> "UsualErrors":
        """With another sample of pixels, which are valid in every band."""
        if not len(errors_SC):
            return self
        exact_SC = errors_SC.astype(np.float64)
        here_C, pixels = exact_SC.mean(0), self.pixels + len(exact_SC)
        apart_SC, step_C, share = exact_SC - here_C, here_C - self.mean_C, len(exact_SC) / pixels
        # Chan et al. 1983: the scatter of both parts about their means, and that of the means.
        between_CC = np.outer(step_C, step_C) * self.pixels * share
        return UsualErrors(pixels, self.mean_C + step_C * share, self.scatter_CC + apart_SC.T @ apart_SC + between_CC)

    def anomaly(self, error_CHW: NDArray[np.floating]) -> NDArray[np.float32]:
        """How unusual errors are (1 + C, H, W): first of all bands together, then each band in standard deviations.

        All bands together is the Mahalanobis distance divided by the root of C: about 1 where errors are usual, and
        high where bands err together as they do not where the model was trained. NaN where a band is.
        """
        covariance_CC = self.scatter_CC / self.pixels
        apart_CHW = error_CHW - self.mean_C[:, None, None]
        deviation_C = np.sqrt(np.maximum(np.diag(covariance_CC), np.finfo(np.float32).tiny))
        precision_CC = np.linalg.pinv(covariance_CC, hermitian=True)
        square_HW = np.einsum("chw,ck,khw->hw", apart_CHW, precision_CC, apart_CHW, optimize=True)
        together_HW = np.sqrt(np.maximum(square_HW, 0) / len(apart_CHW))
        return np.concatenate([together_HW[None], apart_CHW / deviation_C[:, None, None]]).astype(np.float32)


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
class SceneMapJob:
    """A scene, and what the names of its maps end with."""

    scores: ReconstructionScores
    scene: Scene
    grid: Grid
    stem: str


def scenes_to_map(all_scores: Sequence[ReconstructionScores], most: int) -> list[SceneMapJob]:
    """The scenes with a CRS that hold a tile: at most `most` of each selection, and each once."""
    jobs: list[SceneMapJob] = []
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
            jobs.append(SceneMapJob(one, scene, grid, f"{name}_{stem}" if taken else stem))
    return jobs


def scenes_with_crs(scores: ReconstructionScores) -> Iterator[tuple[Scene, Grid]]:
    """The georeferenced scenes of the tiles that were compared, in the order of the data set."""
    index = scores.index
    for number in sorted(set(index.tiles["scene"].tolist())):
        grid = index.grids[number]
        if grid is not None and grid.crs is not None:
            yield index.source.scenes[number], grid


def draw_maps(
    out: Path,
    job: SceneMapJob,
    usual: Mapping[str, UsualErrors],
    asked: MapRequest,
    progress: Callable[[int, int], None],
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
            seen = list(masked_windows(valid_CHW, scores.fitted.cell, asked.ratio, asked.seed, job.scene.id, row, done))
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
    fitted: FittedModels, label: str, strip: tuple[Pixels, Valid], chosen: Sequence[MaskedWindow], device: torch.device
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
        shown = MaskedTiles(pixels_BCHW, valid_BCHW, np.stack([one.visible_N for one in batch]), fitted.cell)
        predicted_BCHW = fitted.predict(label, shown).cpu().numpy()
        for one, window, predicted_CHW in zip(batch, windows, predicted_BCHW, strict=True):
            made_CHW[window] = np.where(one.taken_HW, predicted_CHW, made_CHW[window])
    return made_CHW


def usual_errors(fitted: FittedModels, whole: Selection, asked: MapRequest) -> dict[str, UsualErrors] | None:
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


def _size(scores: ReconstructionScores) -> int:
    """The side of the windows that cover a scene, in pixels: that of its tiles."""
    return int(scores.index.tiles["size"].iloc[0])
