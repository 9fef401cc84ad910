"""Maps of principal components as files: one georeferenced raster and one picture per scene.

C bands, H W pixels of a scene's picture, Y X patches of a scene, K components
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from geomae.evaluation.pca_maps import COLOURS, MapJob
from geomae.rasters import Grid, write_cog
from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from geomae.reports.figures import DIFFERENCE_MAP, INVALID_COLOUR
from geomae.reports.scene_pictures import scene_picture

PICTURE_IN, LEAST_IN = 3.6, 1.6  # longer side of a panel, and least length of the shorter one, in inches
NODATA = 0  # of a map; values start at 1


@dataclass(frozen=True)
class SceneMap:
    """The files of a mapped scene."""

    title: str
    picture: Path
    raster: Path


@dataclass(frozen=True)
class MapPicture:
    """A scene as a picture (H, W, 3) and its components (Y, X, 3), both 0 to 1, from the same upper left corner.

    `height` and `width` are the extent of the scene in `unit`; `map_height` and `map_width` that of the components,
    whose last patches may extend beyond. `valid_YX` tells which patches have components.
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


def write_map(out: Path, job: MapJob, scaled_YXK: NDArray[np.float64], valid_YX: NDArray[np.bool_]) -> SceneMap:
    """Write `pca_map_<name>.tif`, with bytes 1 to 255 (0 is nodata), and `pca_map_<name>.png`.

    `scaled_YXK` (0 to 1) and `valid_YX` are the results of `map_scene`.
    """
    index, grid, lattice = job.part.index, job.grid, job.lattice
    scene = index.source.scenes[job.scene]
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
    ground = f" ({lattice.patch_px * grid.gsd_m:.3g} m)" if grid.gsd_m else ""
    where = f"; {shorten(raster.name, 60)} has its coordinates" if grid.crs else ""
    caption = (
        f"A pixel of the map is a patch of {lattice.patch_px:g} x {lattice.patch_px:g} pixels{ground}, embedded in "
        f"windows of {lattice.size} pixels {overlap}. All maps share one colour scale. Beige: no valid pixel.\n"
        f"Distances are from the upper left corner of the scene{where}."
    )
    title = f"{index.name}: {scene.id}"
    pca_map_picture(picture, _picture(job, scaled_YXK, valid_YX), title=title, caption=caption)
    return SceneMap(title, picture, raster)


def pca_map_picture(path: Path, picture: MapPicture, *, title: str, caption: str) -> None:
    """Publish a picture (PNG) of three panels with one extent.

    They show the true colour, components 1 to 3 as red, green and blue, and component 1 in a colour-blind safe scale.
    """
    longer = max(picture.height, picture.width)
    wide = max(PICTURE_IN * picture.width / longer, LEAST_IN)
    high = max(PICTURE_IN * picture.height / longer, LEAST_IN)
    gap, left, head = 0.75, 0.7, 1.0
    figure = Figure(figsize=(left + 3 * (wide + gap), head + high + 1.1))
    add_title(figure, shorten(title, 100))
    first_YX = np.ma.array(picture.map_YX3[..., 0], mask=~picture.valid_YX)
    colours = np.where(picture.valid_YX[..., None], picture.map_YX3, INVALID_COLOUR)
    one_band: dict[str, Any] = {
        "cmap": colormaps[DIFFERENCE_MAP].with_extremes(bad=INVALID_COLOUR),
        "vmin": 0,
        "vmax": 1,
    }
    panels: list[tuple[str, NDArray[np.float64], float, float, dict[str, Any]]] = [
        (picture.composite, picture.truth_HW3, picture.height, picture.width, {}),
        ("components 1, 2, 3 as red, green, blue", colours, picture.map_height, picture.map_width, {}),
        ("component 1 alone", first_YX, picture.map_height, picture.map_width, one_band),
    ]
    for number, (name, values, height, width, shown) in enumerate(panels):
        axes = add_axes(figure, left + number * (wide + gap), head, wide, high)
        axes.imshow(values, extent=(0, width, height, 0), interpolation="nearest", **shown)
        axes.set_xlim(0, picture.width)
        axes.set_ylim(picture.height, 0)
        axes.set_title(name, fontsize=9, parse_math=False)
        axes.set_xlabel(picture.unit, fontsize=9)
        if number == 0:
            axes.set_ylabel(picture.unit, fontsize=9)
        axes.tick_params(labelsize=8)
    add_text(figure, 0.15, head + high + 0.65, caption, size=8)
    save(figure, path)


def _picture(job: MapJob, scaled_YXK: NDArray[np.float64], valid_YX: NDArray[np.bool_]) -> MapPicture:
    grid, source = job.grid, job.part.index.source
    picture = scene_picture(source, source.scenes[job.scene], grid)
    rows, cols = valid_YX.shape
    patch = job.lattice.patch_px * picture.scale
    ground = (grid.height * picture.scale, grid.width * picture.scale, rows * patch, cols * patch)
    return MapPicture(picture.truth_HW3, picture.composite, scaled_YXK, valid_YX, *ground, picture.unit)


def _coarser(grid: Grid, factor: float) -> tuple[float, float, float, float, float, float]:
    """Return the transform of a grid with the same corner and `factor` times larger pixels."""
    a, b, c, d, e, f = grid.transform
    return a * factor, b * factor, c, d * factor, e * factor, f
