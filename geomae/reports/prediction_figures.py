"""The picture of a predicted map: true colour, map with legend, and confidence, side by side.

C bands, H W pixels of the picture, K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb as colour_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from geomae.reports.figures import DIFFERENCE_MAP, INVALID_COLOUR

PANEL_IN, LEAST_IN = 3.6, 1.6  # longer side of a panel, and least length of the shorter one, in inches
ROW_IN = 0.2  # height of a row of the legend
MOST_ENTRIES = 24


@dataclass(frozen=True)
class LegendEntry:
    """A class with its code in the map, its name, its colour, and its area as text."""

    code: int
    name: str
    colour: str
    area: str


@dataclass(frozen=True)
class PredictedScene:
    """A scene as a picture (H, W, 3), and its predicted map (y, x). Heights and widths are in `unit`.

    `code_yx` are class codes with `nodata`, or numbers with NaN. `confidence_yx` is 0 to 100 with `nodata`; it is None
    for numbers.
    """

    truth_HW3: NDArray[np.float64]
    composite: str
    code_yx: NDArray[Any]
    confidence_yx: NDArray[Any] | None
    height: float
    width: float
    map_height: float
    map_width: float
    unit: str
    nodata: int = 255


def predicted_picture(
    path: Path, scene: PredictedScene, legend: Sequence[LegendEntry], *, title: str, caption: str, quantity: str = ""
) -> None:
    """Publish a picture (PNG) of true colour, map with legend, and confidence; for numbers, of the first two."""
    longer = max(scene.height, scene.width)
    wide, high = (max(PANEL_IN * side / longer, LEAST_IN) for side in (scene.width, scene.height))
    gap, left, head, panels = 0.75, 0.7, 1.0, 2 + (scene.confidence_yx is not None)
    beside = 3.4 if legend else 0.9
    tall = max(high, ROW_IN * min(len(legend), MOST_ENTRIES) + 0.3)
    figure = Figure(figsize=(left + panels * (wide + gap) + beside, head + tall + 1.1))
    add_title(figure, shorten(title, 100))
    shown: list[tuple[str, Any, tuple[float, float], dict[str, Any]]] = [
        (scene.composite, scene.truth_HW3, (scene.height, scene.width), {})
    ]
    ground = (scene.map_height, scene.map_width)
    if scene.confidence_yx is None:
        numbers = np.ma.masked_invalid(scene.code_yx)
        shown.append((quantity or "predicted", numbers, ground, _continuous()))
    else:
        shown.append(("map", _coloured(scene, legend), ground, {}))
        masked = np.ma.masked_equal(scene.confidence_yx, scene.nodata)
        shown.append(("confidence, %", masked, ground, _continuous() | {"vmin": 0, "vmax": 100}))
    for number, (name, values, (height, width), how) in enumerate(shown):
        axes = add_axes(figure, left + number * (wide + gap), head, wide, high)
        image = axes.imshow(values, extent=(0, width, height, 0), interpolation="nearest", **how)
        axes.set_xlim(0, scene.width)
        axes.set_ylim(scene.height, 0)
        axes.set_title(name, fontsize=9, parse_math=False)
        axes.set_xlabel(scene.unit, fontsize=9)
        axes.tick_params(labelsize=8)
        if number == 0:
            axes.set_ylabel(scene.unit, fontsize=9)
    bar = add_axes(figure, left + panels * (wide + gap) - gap + 0.12, head, 0.12, high)
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=8)
    if legend:
        _add_legend(figure, legend, left + panels * (wide + gap) + 0.1, head)
    add_text(figure, 0.15, head + tall + 0.65, caption, size=8)
    save(figure, path)


def _continuous() -> dict[str, Any]:
    return {"cmap": colormaps[DIFFERENCE_MAP].with_extremes(bad=INVALID_COLOUR)}


def _coloured(scene: PredictedScene, legend: Sequence[LegendEntry]) -> NDArray[np.float64]:
    colours = np.tile(np.array(INVALID_COLOUR, dtype=np.float64), (scene.nodata + 1, 1))
    for entry in legend:
        colours[entry.code] = colour_to_rgb(entry.colour)
    return colours[scene.code_yx.astype(np.int64)]


def _add_legend(figure: Figure, legend: Sequence[LegendEntry], left: float, top: float) -> None:
    for place, entry in enumerate(legend[:MOST_ENTRIES]):
        y = top + ROW_IN * place
        axes = add_axes(figure, left, y, 0.22, 0.14)
        axes.set_axis_off()
        axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=entry.colour, edgecolor="0.4", linewidth=0.5))
        add_text(figure, left + 0.3, y, shorten(f"{entry.name}  {entry.area}".rstrip(), 40), size=8)
    if len(legend) > MOST_ENTRIES:
        add_text(figure, left, top + ROW_IN * MOST_ENTRIES, f"and {len(legend) - MOST_ENTRIES} more", size=8)
