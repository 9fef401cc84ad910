"""Reconstructions, errors and anomalies of whole scenes, as GeoTIFFs that lie where the scene does.

C bands, H W pixels of the scene, B looks of a batch
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.analysis.anomaly import UsualErrors
from geomae.analysis.scene_cover import Look, looks
from geomae.catalog.source import Scene
from geomae.catalog.splits import TRAIN
from geomae.errors import CatalogError
from geomae.randomness import generator
from geomae.rasters import Grid, Window, read, write_cog
from geomae.tiles.reader import TileReader
from geomae.workflows.compare_recon_models import Fitted, Shown
from geomae.workflows.compare_recon_score import BATCH, MaskKind, Scores, batches
from geomae.workflows.run_folder import file_name
from geomae.workflows.selected import Selected

Pixels = NDArray[np.float32]
Valid = NDArray[np.bool_]
KINDS = ("recon", "error", "anomaly")


@dataclass(frozen=True)
class MapRequest:
    """How maps are made: of at most `scenes` per selection; what errors are usual is told from `tiles` train tiles."""

    labels: Sequence[str]
    mask: MaskKind
    scenes: int
    tiles: int
    seed: int
    device: torch.device


def draw_maps(
    out: Path,
    all_scores: Sequence[Scores],
    whole: Mapping[str, Selected],
    asked: MapRequest,
    progress: Callable[[str, int, int], None],
) -> Iterator[Path]:
    """Publish the maps of scenes that have a CRS, of every model, a scene once; gives their paths.

    `whole` are the data sets with all their tiles: anomalies are relative to the errors on the train split (on all
    tiles, where there is none).
    """
    usual: dict[str, Mapping[str, UsualErrors]] = {}
    drawn: dict[str, str] = {}
    for one in all_scores:
        name, size = one.index.name, int(one.index.tiles["size"].iloc[0])
        new = [(scene, grid) for scene, grid in scenes_with_crs(one) if drawn.get(file_name(scene.id)) != name]
        chosen = [(scene, grid) for scene, grid in new if min(grid.height, grid.width) >= size][: asked.scenes]
        for number, (scene, grid) in enumerate(chosen, 1):
            if name not in usual:
                usual[name] = usual_errors(one.fitted, whole[name], asked)
            stem = file_name(scene.id)
            stem = f"{name}_{stem}" if stem in drawn else stem
            drawn[stem] = name
            pixels_CHW, valid_CHW = read(one.index.source, scene, Window(0, 0, grid.height, grid.width))
            seen = list(looks(valid_CHW, size, one.fitted.cell, asked.mask.ratio, asked.seed, scene.id))
            for label in asked.labels:
                made_CHW = predict_scene(one.fitted, label, (pixels_CHW, valid_CHW), seen, size, asked.device)
                paths = {kind: out / f"{kind}_{label}_{stem}.tif" for kind in KINDS}
                _publish(paths, one, grid, (pixels_CHW, valid_CHW), made_CHW, usual[name][label])
                yield from paths.values()
            progress(f"maps of {one.selected.name}", number, len(chosen))


def scenes_with_crs(scores: Scores) -> Iterator[tuple[Scene, Grid]]:
    """The georeferenced scenes of the tiles that were compared, in the order of the data set."""
    index = scores.index
    for number in sorted(set(index.tiles["scene"].tolist())):
        grid = index.grids[number]
        if grid is not None and grid.crs is not None:
            yield index.source.scenes[number], grid


def predict_scene(
    fitted: Fitted, label: str, scene: tuple[Pixels, Valid], chosen: Sequence[Look], size: int, device: torch.device
) -> Pixels:
    """A scene (C, H, W) in the bands that are compared, each pixel predicted while hidden; NaN where none looked."""
    pixels_CHW, valid_CHW = scene
    made_CHW = np.full((len(fitted.bands), *pixels_CHW.shape[1:]), np.nan, dtype=np.float32)
    for begin in range(0, len(chosen), BATCH):
        batch = chosen[begin : begin + BATCH]
        windows = [np.s_[:, one.row : one.row + size, one.col : one.col + size] for one in batch]
        tiles = (torch.from_numpy(np.stack([part[one] for one in windows])) for part in (pixels_CHW, valid_CHW))
        pixels_BCHW, valid_BCHW = (values.to(device) for values in tiles)
        shown = Shown(pixels_BCHW, valid_BCHW, np.stack([one.visible_N for one in batch]), fitted.cell)
        predicted_BCHW = fitted.predict(label, shown).cpu().numpy()
        for one, window, predicted_CHW in zip(batch, windows, predicted_BCHW, strict=True):
            made_CHW[window] = np.where(one.taken_HW, predicted_CHW, made_CHW[window])
    return made_CHW


def usual_errors(fitted: Fitted, whole: Selected, asked: MapRequest) -> dict[str, UsualErrors]:
    """What the errors of each model are like on the train split, on hidden pixels that are valid in every band.

    Raises CatalogError where there is no such pixel.
    """
    train = np.flatnonzero((whole.index.tiles["split"] == TRAIN).to_numpy())
    index = whole.index.take(train) if len(train) else whole.index
    drawn = generator(asked.seed, "usual errors", whole.name).permutation(len(index))[: asked.tiles]
    reader = TileReader(index.take(np.sort(drawn)))
    places = list(fitted.bands)
    samples: dict[str, list[NDArray[np.float32]]] = {
        label: [np.empty((0, len(places)), np.float32)] for label in asked.labels
    }
    for _, masked in batches(reader, fitted.cell, [asked.mask], asked.seed, asked.device):
        shown = masked[asked.mask]
        counted = shown.valid_BCHW[:, places].all(1) & ~shown.visible_B1HW[:, 0]
        for label in asked.labels:
            error_BCHW = fitted.predict(label, shown) - shown.pixels_BCHW[:, places]
            samples[label].append(error_BCHW.permute(0, 2, 3, 1)[counted].cpu().numpy())
    joined = {label: np.concatenate(parts) for label, parts in samples.items()}
    if not len(joined[asked.labels[0]]):
        problem = (
            f"{whole.name}: no train tile has a hidden pixel that is valid in every band, for anomalies to differ from"
        )
        raise CatalogError(f"{problem}; --scenes 0 makes no maps")
    return {label: UsualErrors.of(errors_SC) for label, errors_SC in joined.items()}


def _publish(
    paths: Mapping[str, Path],
    scores: Scores,
    grid: Grid,
    truth: tuple[Pixels, Valid],
    made_CHW: Pixels,
    usual: UsualErrors,
) -> None:
    places, unit = list(scores.fitted.bands), scores.selected.imagery.unit
    names = [band.name for band in scores.bands]
    made_CHW = np.where(truth[1][places], made_CHW, np.nan)
    error_CHW = made_CHW - truth[0][places]
    written = {
        "recon": (made_CHW, names, unit),
        "error": (error_CHW, [f"{name}, reconstruction - truth" for name in names], unit),
        "anomaly": (usual.anomaly(error_CHW), ["all bands", *names], "standard deviations"),
    }
    for kind, (pixels_CHW, descriptions, unit_written) in written.items():
        nodata = float("nan")
        write_cog(paths[kind], pixels_CHW, grid=grid, nodata=nodata, descriptions=descriptions, unit=unit_written)
