"""Reconstructions, errors and anomalies of whole scenes, as GeoTIFFs with the georeference of the scene.

C bands, H W pixels of a strip of a scene, S pixels of a sample, B masked windows of a batch
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.catalog import Scene
from geomae.catalog.splits import TRAIN
from geomae.evaluation.reconstruction import (
    FittedModels,
    MaskedTiles,
    Pixels,
    ReconstructionScores,
    Valid,
    batch_of,
    masked_batches,
)
from geomae.evaluation.reconstruction_masks import MaskedWindow, MaskKind, masked_windows, starts
from geomae.files import file_names, scene_names
from geomae.randomness import generator
from geomae.rasters import Grid, Window, cog_in_strips, read
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import Progress

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UsualErrors:
    """Number of pixels, mean vector and scatter matrix of a model's errors by band, in the unit of the data set."""

    pixels: int
    mean_C: Floats
    scatter_CC: Floats

    @classmethod
    def none(cls, bands: int) -> "UsualErrors":
        """The state before the first pixel."""
        return cls(0, np.zeros(bands), np.zeros((bands, bands)))

    def joined(self, errors_SC: NDArray[np.floating]) -> "UsualErrors":
        """The state with a further sample of pixels, which are valid in every band."""
        if not len(errors_SC):
            return self
        exact_SC = errors_SC.astype(np.float64)
        here_C, pixels = exact_SC.mean(0), self.pixels + len(exact_SC)
        deviation_SC, step_C, share = exact_SC - here_C, here_C - self.mean_C, len(exact_SC) / pixels
        # Chan et al. 1983: scatter of both parts about their means, plus scatter of the means.
        between_CC = np.outer(step_C, step_C) * self.pixels * share
        scatter_CC = self.scatter_CC + deviation_SC.T @ deviation_SC + between_CC
        return UsualErrors(pixels, self.mean_C + step_C * share, scatter_CC)

    def anomaly(self, error_CHW: NDArray[np.floating]) -> NDArray[np.float32]:
        """Anomaly scores (1 + C, H, W): first of all bands together, then of each band in standard deviations.

        The score of all bands is the Mahalanobis distance divided by the root of C: about 1 for usual errors, and high
        for combinations of errors that are rare in the training split. NaN where a band is.
        """
        covariance_CC = self.scatter_CC / self.pixels
        deviation_CHW = error_CHW - self.mean_C[:, None, None]
        deviation_C = np.sqrt(np.maximum(np.diag(covariance_CC), np.finfo(np.float32).tiny))
        precision_CC = np.linalg.pinv(covariance_CC, hermitian=True)
        square_HW = np.einsum("chw,ck,khw->hw", deviation_CHW, precision_CC, deviation_CHW, optimize=True)
        together_HW = np.sqrt(np.maximum(square_HW, 0) / len(deviation_CHW))
        return np.concatenate([together_HW[None], deviation_CHW / deviation_C[:, None, None]]).astype(np.float32)


@dataclass(frozen=True)
class MapOptions:
    """Maps of at most `scenes` scenes per selection; usual errors are measured on `tiles` train tiles."""

    ratio: float = 0.75
    scenes: int = 4
    tiles: int = 256
    seed: int = 0

    @property
    def mask(self) -> MaskKind:
        """The mask of usual errors: random, as the complementary masks of maps are."""
        return MaskKind("random", self.ratio)


@dataclass(frozen=True)
class SceneMap:
    """A scene to map, and the ends of the names of its maps, by the label of the model."""

    scores: ReconstructionScores
    scene: Scene
    grid: Grid
    stems: Mapping[str, str]


def write_scene_maps(
    out: Path,
    all_scores: Sequence[ReconstructionScores],
    options: MapOptions,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Publish maps of scenes of the compared tiles; `say` is called for data sets without maps.

    Returns their paths: `recon_LABEL_SCENE.tif`, `error_LABEL_SCENE.tif` and `anomaly_LABEL_SCENE.tif`.
    """
    for one in all_scores if options.scenes else ():
        if not any(True for _ in scenes_with_crs(one)):
            say(f"{one.selected.name}: no scene has a CRS, so that it has no maps")
    maps: list[Path] = []
    usual: dict[str, dict[str, UsualErrors] | None] = {}
    for scene_map in scenes_to_map(all_scores, options.scenes):
        name = scene_map.scores.index.name
        if name not in usual:
            usual[name] = usual_errors(scene_map.scores.fitted, options)
            if usual[name] is None:
                say(f"{name}: no hidden pixel is valid in every band, so that it has no maps")
        errors = usual[name]
        if errors is not None:
            maps += write_maps(out, scene_map, errors, options, progress)
    return maps


def scenes_to_map(all_scores: Sequence[ReconstructionScores], most: int) -> list[SceneMap]:
    """The scenes with a CRS that have a compared tile: at most `most` of each selection, each scene once."""
    mapped: list[tuple[ReconstructionScores, Scene, Grid]] = []
    known: set[tuple[str, str]] = set()
    for one in all_scores:
        chosen = [
            (scene, grid)
            for scene, grid in scenes_with_crs(one)
            if (one.index.name, scene.id) not in known and min(grid.height, grid.width) >= _size(one)
        ]
        for scene, grid in chosen[:most]:
            known.add((one.index.name, scene.id))
            mapped.append((one, scene, grid))
    names = scene_names([(one.index.name, scene.id) for one, scene, _ in mapped])
    labels = [(place, label) for place, (one, _, _) in enumerate(mapped) for label in one.fitted.labels]
    # Names must be unique: label `a` of scene `b_c` is not label `a_b` of scene `c`.
    stems = dict(zip(labels, file_names(f"{label}_{names[place]}" for place, label in labels), strict=True))
    return [
        SceneMap(one, scene, grid, {label: stems[place, label] for label in one.fitted.labels})
        for place, (one, scene, grid) in enumerate(mapped)
    ]


def scenes_with_crs(scores: ReconstructionScores) -> Iterator[tuple[Scene, Grid]]:
    """The georeferenced scenes of the tiles that were compared, in the order of the data set."""
    index = scores.index
    for number in sorted(set(index.tiles["scene"].tolist())):
        grid = index.grids[number]
        if grid is not None and grid.crs is not None:
            yield index.source.scenes[number], grid


def write_maps(
    out: Path,
    scene_map: SceneMap,
    usual: Mapping[str, UsualErrors],
    options: MapOptions,
    progress: Progress = lambda what, done, total: None,
) -> list[Path]:
    """Publish the maps of a scene of every model; returns their paths.

    The scene is read, predicted and written in strips of the height of a tile, to save memory.
    """
    scores, fitted, grid = scene_map.scores, scene_map.scores.fitted, scene_map.grid
    size, scene, places = _size(scores), scene_map.scene, list(fitted.places)
    names, unit = [band.name for band in fitted.bands], scores.selected.imagery.unit
    layers = {  # descriptions of the bands, and their unit
        "recon": (names, unit),
        "error": ([f"{name}, reconstruction - truth" for name in names], unit),
        "anomaly": (["all bands", *names], "standard deviations"),
    }
    paths = {(kind, label): out / f"{kind}_{stem}.tif" for label, stem in scene_map.stems.items() for kind in layers}
    rows = starts(grid.height, size)
    with contextlib.ExitStack() as stack:
        write = {
            (kind, label): stack.enter_context(
                cog_in_strips(path, grid, descriptions=layers[kind][0], unit=layers[kind][1])
            )
            for (kind, label), path in paths.items()
        }
        for number, row in enumerate(rows):
            done = rows[number - 1] + size - row if number else 0  # rows of this strip that the previous one wrote
            pixels_CHW, valid_CHW = read(scores.index.source, scene, Window(row, 0, size, grid.width))
            windows = list(masked_windows(valid_CHW, fitted.cell, options.ratio, options.seed, scene.id, row, done))
            for label in fitted.labels:
                predicted_CHW = predict_strip(fitted, label, pixels_CHW, valid_CHW, windows)
                predicted_CHW = np.where(valid_CHW[places], predicted_CHW, np.nan)
                error_CHW = predicted_CHW - pixels_CHW[places]
                strips = {"recon": predicted_CHW, "error": error_CHW, "anomaly": usual[label].anomaly(error_CHW)}
                for kind, strip_CHW in strips.items():
                    write[kind, label](row + done, strip_CHW[:, done:])
            progress(f"strips of {scene.id}", number + 1, len(rows))
    return list(paths.values())


def predict_strip(
    fitted: FittedModels, label: str, pixels_CHW: Pixels, valid_CHW: Valid, windows: Sequence[MaskedWindow]
) -> Pixels:
    """A strip (C, H, W) in the compared bands, each pixel predicted while hidden; NaN where it is not predicted."""
    size, most = pixels_CHW.shape[1], batch_of(pixels_CHW.shape[1])
    strip_CHW = np.full((len(fitted.places), *pixels_CHW.shape[1:]), np.nan, dtype=np.float32)
    for begin in range(0, len(windows), most):
        batch = windows[begin : begin + most]
        cuts = [np.s_[:, :, one.col : one.col + size] for one in batch]
        stacked = (torch.from_numpy(np.stack([part[cut] for cut in cuts])) for part in (pixels_CHW, valid_CHW))
        pixels_BCHW, valid_BCHW = (values.to(fitted.device) for values in stacked)
        tiles = MaskedTiles(pixels_BCHW, valid_BCHW, np.stack([one.visible_N for one in batch]), fitted.cell)
        predicted_BCHW = fitted.predict(label, tiles).cpu().numpy()
        for one, cut, predicted_CHW in zip(batch, cuts, predicted_BCHW, strict=True):
            strip_CHW[cut] = np.where(one.taken_HW, predicted_CHW, strip_CHW[cut])
    return strip_CHW


def usual_errors(fitted: FittedModels, options: MapOptions) -> dict[str, UsualErrors] | None:
    """Statistics of the errors of each model on the train split, on hidden pixels that are valid in every band.

    Without a train split all tiles of the data set are used. None without such a pixel.
    """
    selected = fitted.selected
    same_size_T = selected.whole.tiles["size"].isin(selected.index.tiles["size"]).to_numpy()  # masks fit these alone
    whole = selected.whole.take(np.flatnonzero(same_size_T))
    train = np.flatnonzero((whole.tiles["split"] == TRAIN).to_numpy())
    index = whole.take(train) if len(train) else whole
    drawn = generator(options.seed, "usual errors", whole.name).permutation(len(index))[: options.tiles]
    reader = TileReader(index.take(np.sort(drawn)))
    places, mask = list(fitted.places), options.mask
    usual = dict.fromkeys(fitted.labels, UsualErrors.none(len(places)))
    for _, by_mask in masked_batches(reader, fitted, [mask], options.seed):
        tiles = by_mask[mask]
        counted = tiles.valid_BCHW[:, places].all(1) & ~tiles.visible_B1HW[:, 0]
        for label in fitted.labels:
            error_BCHW = fitted.predict(label, tiles) - tiles.pixels_BCHW[:, places]
            usual[label] = usual[label].joined(error_BCHW.permute(0, 2, 3, 1)[counted].cpu().numpy())
    return usual if all(one.pixels for one in usual.values()) else None


def _size(scores: ReconstructionScores) -> int:
    """The side in pixels of the windows that cover a scene: that of its tiles."""
    return int(scores.index.tiles["size"].iloc[0])
