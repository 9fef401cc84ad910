"""Maps of principal components: whole scenes, georeferenced and as pictures.

C bands, H W pixels, Y X patches of a scene, K components
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.analysis.pca import Floats
from geomae.encoders.dense import Lattice, Progress, dense_scores
from geomae.encoders.parts import Part
from geomae.rasters import Grid, Window, read, write_cog
from geomae.reports.figures import GAMMA, INVALID_COLOUR
from geomae.reports.pca_map import MapPicture, pca_map_picture
from geomae.reports.stretch import composites, describe, stretch_limits, to_rgb
from geomae.tiles.index import TileIndex
from geomae.workflows.catalog_preview import spread
from geomae.workflows.embed_pca_colours import COLOURS, Colours
from geomae.workflows.run_folder import file_name

MOST_CHIPS = 8  # scenes of a data set without a CRS: many small pictures rather than a map
PICTURE_PX, BLOCK = 1000, 256
NODATA = 0  # of a map; colours begin at 1


@dataclass(frozen=True)
class SceneMap:
    """A scene that was mapped."""

    title: str
    picture: Path
    raster: Path


@dataclass(frozen=True)
class MapJob:
    """A scene to map, as one of the scenes of `part`, and the name of its files."""

    part: Part
    scene: int
    name: str

    @property
    def grid(self) -> Grid:
        """The pixels of the scene."""
        grid = self.part.index.grids[self.scene]
        assert grid is not None, "a scene with tiles has a grid"
        return grid

    @property
    def lattice(self) -> Lattice:
        """Its patches and windows, which are as large as its tiles."""
        size = _size(self.part.index)
        return Lattice(size, self.part.encoder.patch_grid(size, size)[0])

    @property
    def windows(self) -> int:
        """How many windows cover the scene."""
        return len(self.lattice.starts(self.grid.height)) * len(self.lattice.starts(self.grid.width))


def scenes_to_map(parts: Sequence[Part], most: int | None) -> list[MapJob]:
    """Scenes of the tiles that are at least two tiles large: of each data set at most `most`, spread over all.

    By default all, and of a data set without CRS 8.
    """
    found: list[tuple[Part, int]] = []
    for name in dict.fromkeys(part.index.name for part in parts):
        same = [part for part in parts if part.index.name == name]
        size, grids = _size(same[0].index), same[0].index.grids
        scenes = sorted({scene for part in same for scene in part.index.tiles["scene"].tolist()})
        large = [
            (scene, grid)
            for scene, grid in ((scene, grids[scene]) for scene in scenes)
            if grid is not None and min(grid.height, grid.width) >= size and max(grid.height, grid.width) >= 2 * size
        ]
        limit = most if most is not None or any(grid.crs for _, grid in large) else MOST_CHIPS
        chosen = large if limit is None else [large[place] for place in spread(len(large), limit)]
        found += [(same[0], scene) for scene, _ in chosen]
    return [MapJob(*one, name) for one, name in zip(found, _names(found), strict=True)]


def draw_maps(
    jobs: Sequence[MapJob], colours: Colours, out: Path, device: torch.device, progress: Progress
) -> list[SceneMap]:
    """Map one scene after the other; `progress` hears (windows done, windows in all)."""
    maps, first, total = [], 0, sum(job.windows for job in jobs)
    for job in jobs:
        maps.append(_draw(job, colours, out, device, partial(_onward, progress, first, total)))
        first += job.windows
    return maps


def _onward(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _draw(job: MapJob, colours: Colours, out: Path, device: torch.device, progress: Progress) -> SceneMap:
    """Write `pca_map_<name>.tif`, bytes 1 to 255 where there is a valid pixel, and `pca_map_<name>.png`."""
    index, grid, lattice = job.part.index, job.grid, job.lattice
    scene = index.source.scenes[job.scene]
    scores_YXK, valid_YX = dense_scores(
        job.part.encoder, index.source, scene, grid, lattice, colours.pca.transform, device=device, progress=progress
    )
    scaled_YXK = colours.scale(scores_YXK)
    bytes_YXK = np.where(valid_YX[..., None], 1 + np.round(254 * scaled_YXK), NODATA).astype(np.uint8)
    raster, picture = (out / f"pca_map_{job.name}.{suffix}" for suffix in ("tif", "png"))
    write_cog(
        raster,
        np.moveaxis(bytes_YXK, -1, 0),
        crs=grid.crs,
        transform=_coarser(grid, lattice.patch_px),
        nodata=NODATA,
        descriptions=[f"PC{k + 1}" for k in range(COLOURS)],
    )
    overlap = "that overlap by half" if lattice.step < lattice.patches else "side by side"
    caption = (
        f"A pixel of the map is a patch of {lattice.patch_px:g} x {lattice.patch_px:g} pixels, seen in windows of "
        f"{lattice.size} {overlap}. All maps share one set of colours. Beige: no valid pixel."
    )
    title = f"{index.name}: {scene.id}"
    pca_map_picture(picture, _picture(job, scaled_YXK, valid_YX), title=title, caption=caption)
    return SceneMap(title, picture, raster)


def _names(scenes: Sequence[tuple[Part, int]]) -> list[str]:
    """Names of the files of scenes; with that of the data set where two would have one name."""
    short = [file_name(part.index.source.scenes[scene].id) for part, scene in scenes]
    long = [f"{file_name(part.index.name)}_{name}" for (part, _), name in zip(scenes, short, strict=True)]
    return [name if short.count(name) == 1 else whole for name, whole in zip(short, long, strict=True)]


def _picture(job: MapJob, scaled_YXK: NDArray[np.float64], valid_YX: NDArray[np.bool_]) -> MapPicture:
    grid, bands = job.grid, job.part.index.source.bands
    composite, indices = next(iter(composites(bands).items()))
    pixels_CHW, valid_CHW = _overview(job)
    truth_HW3 = to_rgb(pixels_CHW, valid_CHW, indices, *stretch_limits(pixels_CHW, valid_CHW), INVALID_COLOUR, GAMMA)
    unit, scale = ("km", grid.gsd_m / 1000) if grid.gsd_m else ("pixels", 1.0)
    rows, cols = valid_YX.shape
    patch = job.lattice.patch_px * scale
    ground = (grid.height * scale, grid.width * scale, rows * patch, cols * patch)
    return MapPicture(truth_HW3, describe(composite, indices, bands), scaled_YXK, valid_YX, *ground, unit)


def _overview(job: MapJob) -> tuple[Floats, NDArray[np.bool_]]:
    """Every so manieth pixel of a scene, so that at most about 1000 a side remain; read block by block."""
    source, grid = job.part.index.source, job.grid
    step = -(-max(grid.height, grid.width) // PICTURE_PX)
    block = step * BLOCK
    pixels, valid = [], []
    for top in range(0, grid.height, block):
        across = [
            read(
                source,
                source.scenes[job.scene],
                Window(top, left, min(block, grid.height - top), min(block, grid.width - left)),
            )
            for left in range(0, grid.width, block)
        ]
        pixels.append(np.concatenate([one[:, ::step, ::step] for one, _ in across], axis=2))
        valid.append(np.concatenate([one[:, ::step, ::step] for _, one in across], axis=2))
    return np.concatenate(pixels, axis=1), np.concatenate(valid, axis=1)


def _coarser(grid: Grid, factor: float) -> tuple[float, float, float, float, float, float]:
    """The transform of pixels that are `factor` as large, from the same corner."""
    a, b, c, d, e, f = grid.transform
    return a * factor, b * factor, c, d * factor, e * factor, f


def _size(index: TileIndex) -> int:
    """The size of most tiles."""
    return int(index.tiles["size"].mode().iloc[0])
