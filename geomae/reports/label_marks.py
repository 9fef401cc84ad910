"""Labels drawn over imagery: points and outlines of polygons, in class colours that suit colour-blind readers."""

from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from geomae.reports.canvas import COLOURS, REST_COLOUR, shorten
from geomae.tiles.marks import Mark

REST = "other"
HALO = [withStroke(linewidth=2.6, foreground="white")]  # keeps a dark line visible on dark ground


def class_colours(marks: Sequence[Sequence[Mark]]) -> dict[str | None, str]:
    """Return the colour of each class, the most frequent first; classes beyond the palette share one colour."""
    counts = Counter(mark.name for tile in marks for mark in tile if mark.name is not None)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return {name: COLOURS[place] if place < len(COLOURS) else REST_COLOUR for place, name in enumerate(names)}


def draw_marks(axes: Axes, marks: Sequence[Mark], colours: dict[str | None, str], size: int) -> None:
    """Draw marks over the picture of a tile of `size` pixels, in which pixel 0 extends from -0.5 to 0.5."""
    for mark in marks:
        x, y = (mark.xy_V2 - 0.5).T
        colour = colours.get(mark.name, REST_COLOUR)
        if len(mark.xy_V2) == 1:
            axes.plot(x, y, "o", markersize=6, color=colour, markeredgecolor="white", markeredgewidth=0.8)
        else:
            axes.plot(x, y, color=colour, linewidth=1.2, path_effects=HALO)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)


def marks_legend(figure: Figure, top: float, colours: dict[str | None, str]) -> None:
    """Add a legend of classes and their colours, in one row, `top` inches below the upper edge."""
    known = [(str(name), colour) for name, colour in colours.items() if colour != REST_COLOUR]
    rest = [(REST, REST_COLOUR)] if len(known) < len(colours) else []
    handles = [Line2D([], [], color=colour, linewidth=3, label=shorten(name, 14)) for name, colour in [*known, *rest]]
    across, down = figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.1 / across, 1 - top / down),
        ncols=max(len(handles), 1),
        fontsize=7,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.0,
        borderpad=0,
    )
