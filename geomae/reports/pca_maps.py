"""Maps of principal components: whole scenes, georeferenced and as pictures, in one set of colours.

C bands, H W pixels, n patches, Y X patches of a scene, D features, K components

H W pixels of the scene's picture, Y X patches

C bands, H W pixels, Y X patches of a scene, K components
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn.functional import adaptive_max_pool2d

from geomae.encoders.dense import Lattice, Progress, dense_scores
from geomae.encoders.extraction import EncoderTiles
from geomae.errors import StorageError
from geomae.evaluation.pca import Floats, Pca, fit_pca, load_pca
from geomae.files import file_name, read_json, write_json
from geomae.randomness import generator
from geomae.rasters import Grid, Window, read, write_cog
from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from geomae.reports.figures import DIFFERENCE_MAP, GAMMA, INVALID_COLOUR
from geomae.reports.stretch import composites, describe, stretch_limits, to_rgb
from geomae.tiles.batches import TileReader
from geomae.tiles.index import TileIndex
from geomae.tiles.selection import evenly_spread

COLOURS = 3
FITTED_TILES, FITTED_BATCH = 2048, 64  # a sample of the train tiles has patches enough
THINNED = 7  # every so manieth patch counts for the limits; prime to the sides of usual patch grids
LIMITS = (2.0, 98.0)  # percentiles of the patches that become black and full colour


@dataclass(frozen=True)
class Colours:
    """Three principal components of patch embeddings, and which scores become black and full colour in every map."""

    pca: Pca
    low_K: NDArray[np.float64]
    high_K: NDArray[np.float64]

    def save(self, folder: Path) -> None:
        """Publish as `pca_map.npz` and `pca_map.json`."""
        self.pca.save(folder / "pca_map.npz")
        write_json(folder / "pca_map.json", {"low": self.low_K, "high": self.high_K})

    def scale(self, scores_YXK: Floats) -> NDArray[np.float64]:
        """Scores as colours, 0 to 1."""
        scaled: NDArray[np.float64] = np.clip((scores_YXK - self.low_K) / (self.high_K - self.low_K), 0, 1)
        return scaled


def load_colours(folder: Path) -> Colours | None:
    """The colours of an earlier run, None where it made no maps. Raises StorageError where they are damaged."""
    if not (folder / "pca_map.json").is_file():
        return None
    limits = read_json(folder / "pca_map.json")
    try:
        low_K, high_K = (np.array(limits[key], dtype=np.float64).reshape(COLOURS) for key in ("low", "high"))
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{folder / 'pca_map.json'}: holds no limits of colours ({error}); restore it") from error
    return Colours(load_pca(folder / "pca_map.npz"), low_K, high_K)


def fit_colours(
    parts: Sequence[EncoderTiles], fitted_T: NDArray[np.bool_], seed: int, identity: str, device: torch.device
) -> Colours:
    """Fit three components to the valid patches of the tiles `fitted_T` of all parts, of at most 2048 of them."""
    places = [(number, position) for number, part in enumerate(parts) for position in range(len(part.index))]
    chosen = np.flatnonzero(fitted_T)
    if len(chosen) > FITTED_TILES:
        chosen = np.sort(generator(seed, "pca map").choice(chosen, FITTED_TILES, replace=False))
    thinned: list[Floats] = []

    def patches() -> Iterator[Floats]:
        for patches_nD in _patches(parts, [places[tile] for tile in chosen], device):
            thinned.append(patches_nD[::THINNED])
            yield patches_nD

    pca = fit_pca(patches(), COLOURS, identity)
    low_K, high_K = np.percentile(pca.transform(np.concatenate(thinned)), LIMITS, axis=0)
    return Colours(pca, low_K, np.where(high_K > low_K, high_K, low_K + 1))


def _patches(
    parts: Sequence[EncoderTiles], places: Sequence[tuple[int, int]], device: torch.device
) -> Iterator[Floats]:
    """Valid patch embeddings (n, D) of tiles, given as (part, position), some tiles at a time."""
    by_part: Mapping[int, list[int]] = {number: [p for n, p in places if n == number] for number, _ in places}
    for number, positions in by_part.items():
        encoder, index = parts[number].encoder, parts[number].index
        reader = TileReader(index, 0, [band.name for band in encoder.bands])
        sizes = index.tiles["size"].to_numpy()
        for size in sorted(set(sizes[positions].tolist())):
            same = [position for position in positions if sizes[position] == size]
            rows, cols = encoder.patch_grid(size, size)
            for first in range(0, len(same), FITTED_BATCH):
                pixels_BCHW, valid_BCHW = map(torch.from_numpy, reader.many(same[first : first + FITTED_BATCH]))
                embedded_BND = encoder.embed(pixels_BCHW.to(device), valid_BCHW.to(device))[1]
                shares = adaptive_max_pool2d(valid_BCHW.any(dim=1).float(), (rows, cols))
                yield embedded_BND.float().cpu().numpy()[shares.flatten(1).numpy() > 0]


PICTURE_IN, LEAST_IN = 3.6, 1.6  # longer and least shorter side of a panel


@dataclass(frozen=True)
class MapPicture:
    """A scene as a picture (H, W, 3) and its components (Y, X, 3), both 0 to 1, over the same ground.

    `height` and `width` of that ground are in `unit`; `map_height` and `map_width` those of the components, whose last
    patches may reach beyond. `valid_YX` says where there are components.
    """

    truth_HW3: NDArray[np.float64]
    composite: str
    map_YX3: NDArray[np.float64]
    valid_YX: NDArray[np.bool_]
    height: float
    width: float
    map_height: float
    map_width: float
    unit: str


def pca_map_picture(path: Path, picture: MapPicture, *, title: str, caption: str) -> None:
    """Publish a picture (PNG) of three panels of one extent: true colour, components 1 to 3 as red, green and blue, and
    the first alone in colours that everybody can tell apart."""
    longer = max(picture.height, picture.width)
    wide = max(PICTURE_IN * picture.width / longer, LEAST_IN)
    high = max(PICTURE_IN * picture.height / longer, LEAST_IN)
    gap, left, head = 0.75, 0.7, 1.0
    figure = Figure(figsize=(left + 3 * (wide + gap), head + high + 1.1))
    add_title(figure, shorten(title, 100))
    first_YX = np.ma.array(picture.map_YX3[..., 0], mask=~picture.valid_YX)
    colours = np.where(picture.valid_YX[..., None], picture.map_YX3, INVALID_COLOUR)
    lonely: dict[str, Any] = {"cmap": colormaps[DIFFERENCE_MAP].with_extremes(bad=INVALID_COLOUR), "vmin": 0, "vmax": 1}
    panels: list[tuple[str, NDArray[np.float64], float, float, dict[str, Any]]] = [
        (picture.composite, picture.truth_HW3, picture.height, picture.width, {}),
        ("components 1, 2, 3 as red, green, blue", colours, picture.map_height, picture.map_width, {}),
        ("component 1 alone", first_YX, picture.map_height, picture.map_width, lonely),
    ]
    for number, (name, values, height, width, look) in enumerate(panels):
        axes = add_axes(figure, left + number * (wide + gap), head, wide, high)
        axes.imshow(values, extent=(0, width, height, 0), interpolation="nearest", **look)
        axes.set_xlim(0, picture.width)
        axes.set_ylim(picture.height, 0)
        axes.set_title(name, fontsize=9, parse_math=False)
        axes.set_xlabel(picture.unit, fontsize=9)
        if number == 0:
            axes.set_ylabel(picture.unit, fontsize=9)
        axes.tick_params(labelsize=8)
    add_text(figure, 0.15, head + high + 0.65, caption, size=8)
    save(figure, path)


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
class PcaMapJob:
    """A scene to map, as one of the scenes of `part`, and the name of its files."""

    part: EncoderTiles
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


def scenes_to_map(parts: Sequence[EncoderTiles], most: int | None) -> list[PcaMapJob]:
    """Scenes of the tiles that are at least two tiles large: of each data set at most `most`, spread over all.

    By default all, and of a data set without CRS 8.
    """
    found: list[tuple[EncoderTiles, int]] = []
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
        chosen = large if limit is None else [large[place] for place in evenly_spread(len(large), limit)]
        found += [(same[0], scene) for scene, _ in chosen]
    return [PcaMapJob(*one, name) for one, name in zip(found, _names(found), strict=True)]


def draw_maps(
    jobs: Sequence[PcaMapJob], colours: Colours, out: Path, device: torch.device, progress: Progress
) -> list[SceneMap]:
    """Map one scene after the other; `progress` hears (windows done, windows in all)."""
    maps, first, total = [], 0, sum(job.windows for job in jobs)
    for job in jobs:
        maps.append(_draw(job, colours, out, device, partial(_onward, progress, first, total)))
        first += job.windows
    return maps


def _onward(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _draw(job: PcaMapJob, colours: Colours, out: Path, device: torch.device, progress: Progress) -> SceneMap:
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


def _names(scenes: Sequence[tuple[EncoderTiles, int]]) -> list[str]:
    """Names of the files of scenes; with that of the data set where two would have one name."""
    short = [file_name(part.index.source.scenes[scene].id) for part, scene in scenes]
    long = [f"{file_name(part.index.name)}_{name}" for (part, _), name in zip(scenes, short, strict=True)]
    return [name if short.count(name) == 1 else whole for name, whole in zip(short, long, strict=True)]


def _picture(job: PcaMapJob, scaled_YXK: NDArray[np.float64], valid_YX: NDArray[np.bool_]) -> MapPicture:
    grid, bands = job.grid, job.part.index.source.bands
    composite, indices = next(iter(composites(bands).items()))
    pixels_CHW, valid_CHW = _overview(job)
    truth_HW3 = to_rgb(pixels_CHW, valid_CHW, indices, *stretch_limits(pixels_CHW, valid_CHW), INVALID_COLOUR, GAMMA)
    unit, scale = ("km", grid.gsd_m / 1000) if grid.gsd_m else ("pixels", 1.0)
    rows, cols = valid_YX.shape
    patch = job.lattice.patch_px * scale
    ground = (grid.height * scale, grid.width * scale, rows * patch, cols * patch)
    return MapPicture(truth_HW3, describe(composite, indices, bands), scaled_YXK, valid_YX, *ground, unit)


def _overview(job: PcaMapJob) -> tuple[Floats, NDArray[np.bool_]]:
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
