"""A picture of what alignments do to the scores of encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from geomae.reports.figures import BLUE, ORANGE

GREY = "0.45"


@dataclass(frozen=True)
class Aligned:
    """An encoder's score without alignment (`none`) and behind each, and the alignment that was chosen."""

    label: str
    value: Mapping[str, float]
    chosen: str


def alignments_picture(path: Path, shown: Mapping[str, Sequence[Aligned]], *, title: str, axis: str) -> None:
    """Publish a picture (PNG): a panel for each test set, a row for each encoder, a mark for each alignment."""
    rows = max(map(len, shown.values()))
    longest = max(len(one.label) for each in shown.values() for one in each)
    left, wide, high, head, foot = 0.35 + 0.075 * min(longest, 36), 3.6, 0.34 * rows + 0.2, 1.0, 1.1
    figure = Figure(figsize=(max(left + len(shown) * (wide + 0.25) + 0.1, 7.0), head + high + foot))
    add_title(figure, title)
    every = [value for each in shown.values() for one in each for value in one.value.values()]
    margin = 0.04 * (max(every) - min(every)) or 0.01
    for number, (test, each) in enumerate(shown.items()):
        axes = add_axes(figure, left + number * (wide + 0.25), head, wide, high)
        axes.set_title(shorten(test, 42), fontsize=9, parse_math=False)
        for place, one in enumerate(each):
            axes.plot(list(one.value.values()), [place] * len(one.value), "|", color=GREY, markersize=9, zorder=1)
            axes.plot(one.value[one.chosen], place, "D", color=ORANGE, markersize=7, zorder=2)
            axes.plot(one.value["none"], place, "o", color=BLUE, markersize=5, zorder=3)
        names = [shorten(one.label, 36) for one in each] if number == 0 else []
        axes.set_yticks(range(len(each)), names or [""] * len(each), fontsize=9, parse_math=False)
        axes.set_ylim(len(each) - 0.4, -0.6)
        axes.set_xlim(min(every) - margin, max(every) + margin)
        axes.set_xlabel(axis, fontsize=9)
        axes.tick_params(labelsize=8, axis="x")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    caption = (
        "Blue: without alignment. Grey: behind each alignment.\nOrange: the one taken by the rule, without labels."
    )
    add_text(figure, 0.15, head + high + 0.55, caption, size=8)
    save(figure, path)
