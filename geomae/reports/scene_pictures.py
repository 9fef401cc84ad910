"""A whole scene as a small picture, read block by block.

C bands, H W pixels of the picture
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import Scene, Source
from geomae.rasters import Grid, Window, read, sweeping
from geomae.reports.canvas import composites, describe_composite, stretch_limits, to_rgb
from geomae.reports.figures import GAMMA, INVALID_COLOUR

PICTURE_PX = 1000  # of the longer side, at most
READ_PX = 512  # side of the blocks that are read, about, so that memory does not grow with the scene


@dataclass(frozen=True)
class ScenePicture:
    """A scene as a picture (H, W, 3), 0 to 1, in true colour or the composite that `composite` names.

    `scale` is the side of a pixel of the scene in `unit`: kilometres, or pixels where the size is unknown.
    """

    truth_HW3: NDArray[np.float64]
    composite: str
    unit: str
    scale: float


def scene_picture(source: Source, scene: Scene, grid: Grid) -> ScenePicture:
    """Read a scene and return its picture."""
    composite, indices = next(iter(composites(source.bands).items()))
    with sweeping():
        pixels_CHW, valid_CHW = _overview(source, scene, grid)
    limits = stretch_limits(pixels_CHW, valid_CHW, fenced=True)
    truth_HW3 = to_rgb(pixels_CHW, valid_CHW, indices, *limits, INVALID_COLOUR, GAMMA)
    unit, scale = ("km", grid.gsd_m / 1000) if grid.gsd_m else ("pixels", 1.0)
    return ScenePicture(truth_HW3, describe_composite(composite, indices, source.bands), unit, scale)


def _overview(source: Source, scene: Scene, grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read every n-th pixel of a scene, block by block, so that at most PICTURE_PX per side remain."""
    step = -(-max(grid.height, grid.width) // PICTURE_PX)
    block = max(READ_PX // step, 1) * step
    pixels, valid = [], []
    for top in range(0, grid.height, block):
        across = []
        for left in range(0, grid.width, block):
            window = Window(top, left, min(block, grid.height - top), min(block, grid.width - left))
            across.append([whole[:, ::step, ::step].copy() for whole in read(source, scene, window)])
        pixels.append(np.concatenate([one for one, _ in across], axis=2))
        valid.append(np.concatenate([one for _, one in across], axis=2))
    return np.concatenate(pixels, axis=1), np.concatenate(valid, axis=1)
