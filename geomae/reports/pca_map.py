"""A picture of a map of principal components beside the scene in true colour.

H W pixels of the scene's picture, Y X patches
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from geomae.reports.figures import DIFFERENCE_MAP, INVALID_COLOUR

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
