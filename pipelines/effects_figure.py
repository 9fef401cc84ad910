"""A picture of effects: one difference per row, with its interval, in groups of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from geomae.reports.canvas import add_axes, add_text, add_title, save
from geomae.reports.figures import BLUE, ORANGE


@dataclass(frozen=True)
class Effect:
    """A row: `value` with its interval, if there is one, and the single values behind a mean."""

    group: str
    label: str
    value: float
    interval: tuple[float, float] | None
    singles: tuple[float, ...] = ()


def effects_picture(path: Path, effects: Sequence[Effect], *, title: str, axis: str, caption: str) -> None:
    """Publish a picture (PNG) of effects relative to zero."""
    row, head, left = 0.3, 0.65, 3.6
    figure = Figure(figsize=(9.0, head + row * len(effects) + 1.15))
    add_title(figure, title)
    axes = add_axes(figure, left, head, 5.0, row * len(effects))
    for place, one in enumerate(effects):
        if one.interval is not None:
            axes.plot(one.interval, [place, place], color=BLUE, linewidth=1.6, solid_capstyle="butt")
        axes.plot(one.singles, [place] * len(one.singles), "|", color=ORANGE, markersize=8)
        axes.plot([one.value], [place], "o", color=BLUE, markersize=6)
        if place == 0 or effects[place - 1].group != one.group:
            add_text(figure, 0.15, head + row * place + 0.09, one.group, size=9, weight="bold")
            if place:
                axes.axhline(place - 0.5, color="0.85", linewidth=0.8)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(effects)), [one.label for one in effects], fontsize=9)
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.set_xlabel(axis)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    add_text(figure, 0.15, head + row * len(effects) + 0.65, caption, size=8)
    save(figure, path)
