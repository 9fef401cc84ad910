"""A picture of embeddings along their principal components, coloured by what is known of the tiles.

T tiles, K components
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from geomae.randomness import generator
from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from geomae.reports.palette import Coloured

MARKERS = {"circle": "o", "triangle": "^", "square": "s", "diamond": "D", "wedge": "v", "plus": "P"}
MOST_POINTS = 20_000  # more make a picture no clearer
EDGES = (0.05, 99.95)  # percentiles that the axes reach at least, and a margin
MARGIN = 0.08


def pca_scatter(
    path: Path,
    scores_TK: NDArray[np.float32],
    columns: Sequence[Coloured],
    share_K: NDArray[np.float64],
    *,
    title: str,
    caption: str,
    behind_T: NDArray[np.bool_] | None = None,
) -> None:
    """Publish a picture (PNG): a row per column, with components 1 and 2 and, where there are, 3 and 4.

    `share_K` is each component's share of the variance. Tiles of `behind_T` are drawn lightly behind the others. Of
    more than 20,000 tiles as many are drawn, the same each time.
    """
    pairs = [(first, first + 1) for first in (0, 2) if first + 1 < scores_TK.shape[1]] or [(0, 0)]
    order = generator(0, "scatter").permutation(len(scores_TK))[:MOST_POINTS]  # no value lies on top of all others
    behind_T = np.zeros(len(scores_TK), dtype=np.bool_) if behind_T is None else behind_T
    side, gap, left, head, foot, words = 3.55, 0.75, 0.75, 0.75, 0.75, 2.1
    figure = Figure(figsize=(left + len(pairs) * (side + gap) + words, head + len(columns) * (side + gap) + foot))
    add_title(figure, title)
    for row, column in enumerate(columns):
        top = head + row * (side + gap)
        for number, (across, up) in enumerate(pairs):
            axes = add_axes(figure, left + number * (side + gap), top, side, side)
            for light in (True, False):
                _points(axes, scores_TK[:, [across, up]], column, order[behind_T[order] == light], light=light)
            for set_limits, label, one in (
                (axes.set_xlim, axes.set_xlabel, across),
                (axes.set_ylim, axes.set_ylabel, up),
            ):
                set_limits(*_limits(scores_TK[:, one]))
                label(f"component {one + 1} ({share_K[one]:.1%} of variance)", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        _legend(figure, left + len(pairs) * (side + gap) - 0.25, top, column)
    add_text(figure, 0.15, head + len(columns) * (side + gap) + 0.1, caption, size=8)
    save(figure, path)


def _points(
    axes: Axes, place_T2: NDArray[np.float32], column: Coloured, order: NDArray[np.int64], *, light: bool
) -> None:
    """Draw in a fixed random order, in a few rounds, so that every shape lies now above and now below the others."""
    crowd = max(len(order), 1)
    size = float(np.clip(12_000 / crowd, 5, 26))
    look: dict[str, Any] = (
        {"alpha": 0.18, "linewidths": 0.0} if light else {"alpha": 0.75, "linewidths": 0.3, "edgecolors": "white"}
    )
    for part in np.array_split(order, 8):
        for number, style in enumerate(column.styles):
            chosen = part[column.style_T[part] == number]
            if len(chosen):
                x, y = place_T2[chosen].T
                axes.scatter(x, y, s=size, c=style.colour, marker=MARKERS[style.shape], **look)


def _limits(values_T: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(values_T, EDGES)
    room = MARGIN * (high - low) or 0.5
    return float(low - room), float(high + room)


def _legend(figure: Figure, left: float, top: float, column: Coloured) -> None:
    add_text(figure, left, top, column.title, size=10, weight="bold")
    across, down = figure.get_size_inches()
    handles = [
        Line2D([], [], linestyle="none", marker=MARKERS[style.shape], color=style.colour, markersize=6)
        for style in column.styles
    ]
    legend = figure.legend(
        handles,
        [f"{shorten(style.name, 22)}  {style.count:,}" for style in column.styles],
        loc="upper left",
        bbox_to_anchor=((left - 0.1) / across, 1 - (top + 0.16) / down),
        frameon=False,
        fontsize=8.5,
        handletextpad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
