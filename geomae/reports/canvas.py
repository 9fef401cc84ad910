"""A sheet of paper to draw on: lengths in inches from the upper left corner, no pyplot and no global state."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from geomae.files import publish_file

DPI = 110


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def add_picture_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes without ticks, with a thin frame."""
    axes = add_axes(figure, left, top, width, height)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="0.4")
    return axes


def add_text(figure: Figure, left: float, top: float, text: str, *, size: float = 9, weight: str = "normal") -> Text:
    """Add text whose upper left corner is at a place in inches; a `$` in it is a `$`."""
    across, down = figure.get_size_inches()
    return figure.text(
        *(left / across, 1 - top / down, text), fontsize=size, fontweight=weight, ha="left", va="top", parse_math=False
    )


def add_title(figure: Figure, title: str) -> None:
    """Add the title of the whole sheet, shortened to its width."""
    add_text(figure, 0.15, 0.15, shorten(title, int(figure.get_size_inches()[0] * 8.5)), size=13, weight="bold")


def save(figure: Figure, path: Path) -> None:
    """Publish the figure as a PNG whose bytes depend on nothing but what is drawn."""
    with publish_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing")  # names of any script; a box stands for it
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def shorten(text: str, longest: int) -> str:
    """Give the text with its middle left out where it is longer than `longest`; both ends of a tile's name matter."""
    if len(text) <= longest:
        return text
    end = (longest - 1) * 2 // 3
    return f"{text[: longest - 1 - end]}…{text[-end:]}"


def space_out(places: Sequence[float], distance: float) -> list[float]:
    """Move increasing places as little as it takes to be `distance` apart, each cluster about its own middle."""
    clusters: list[list[float]] = []
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and _begin(clusters[-1], distance) < _begin(clusters[-2], distance) + distance * len(
            clusters[-2]
        ):
            last = clusters.pop()
            clusters[-1] += last
    return [_begin(cluster, distance) + distance * number for cluster in clusters for number in range(len(cluster))]


def _begin(cluster: Sequence[float], distance: float) -> float:
    return sum(cluster) / len(cluster) - distance * (len(cluster) - 1) / 2
