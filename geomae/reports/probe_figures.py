"""Pictures of a probe: every encoder's score with its interval, and what few labels are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from geomae.reports.figures import BLUE, ORANGE

COLOURS = [colormaps["tab10"](number) for number in range(10)]
MARKERS = "osD^vP*X<>"
GREY = "0.45"


@dataclass(frozen=True)
class Bar:
    """The score of an encoder on a test set; `singles` are those of its seeds."""

    label: str
    baseline: bool
    value: float
    interval: tuple[float, float] | None
    singles: tuple[float, ...] = ()


def scores_picture(path: Path, bars: Mapping[str, Sequence[Bar]], *, title: str, axis: str, caption: str) -> None:
    """Publish a picture (PNG) of the scores by test set: points with intervals, baselines in grey."""
    rows = max(map(len, bars.values()))
    longest = max(len(bar.label) for shown in bars.values() for bar in shown)
    left, wide, high, head, foot = 0.35 + 0.075 * min(longest, 36), 3.6, 0.34 * rows + 0.2, 1.0, 0.95
    figure = Figure(figsize=(max(left + len(bars) * (wide + 0.25) + 0.1, 7.0), head + high + foot))
    add_title(figure, title)
    every = [bar for shown in bars.values() for bar in shown]
    known = [value for bar in every for value in (bar.value, *bar.singles, *(bar.interval or ()))]
    margin = 0.04 * (max(known) - min(known)) or 0.01
    for number, (test, shown) in enumerate(bars.items()):
        axes = add_axes(figure, left + number * (wide + 0.25), head, wide, high)
        axes.set_title(shorten(test, 42), fontsize=9, parse_math=False)
        for place, bar in enumerate(shown):
            colour = GREY if bar.baseline else BLUE
            if bar.interval is not None:
                axes.plot(bar.interval, (place, place), color=colour, linewidth=2, solid_capstyle="butt", zorder=1)
            axes.plot(bar.singles, [place] * len(bar.singles), "|", color=ORANGE, markersize=9, zorder=2)
            axes.plot(bar.value, place, "s" if bar.baseline else "o", color=colour, markersize=6, zorder=3)
        names = [shorten(bar.label, 36) for bar in shown] if number == 0 else []
        axes.set_yticks(range(len(shown)), names or [""] * len(shown), fontsize=9, parse_math=False)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(min(known) - margin, max(known) + margin)
        axes.set_xlabel(axis, fontsize=9)
        axes.tick_params(labelsize=8, axis="x")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    add_text(figure, 0.15, head + high + 0.55, caption, size=8)
    save(figure, path)


@dataclass(frozen=True)
class Curve:
    """The mean score of an encoder by number of labels per class, its standard deviation over draws, that of all."""

    label: str
    value: Mapping[int, float]
    spread: Mapping[int, float]
    everything: float


def few_labels_picture(
    path: Path, curves: Mapping[str, Sequence[Curve]], *, title: str, axis: str, caption: str
) -> None:
    """Publish a picture (PNG) of the scores of few labels, a panel per test set."""
    wide, high, head, foot = 4.0, 3.0, 1.0, 0.9
    names = [curve.label for curve in next(iter(curves.values()))]
    legend = 0.6 + 0.075 * min(max(map(len, names)), 36)
    figure = Figure(figsize=(0.75 + len(curves) * (wide + 0.45) + legend, head + high + foot))
    add_title(figure, title)
    for number, (test, shown) in enumerate(curves.items()):
        axes = add_axes(figure, 0.75 + number * (wide + 0.45), head, wide, high)
        axes.set_title(shorten(test, 46), fontsize=9, parse_math=False)
        shots = sorted({count for curve in shown for count in curve.value})
        for index, curve in enumerate(shown):
            # Side by side, so that one bar does not hide another.
            shift = 1 + 0.05 * (index - (len(shown) - 1) / 2)
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            axes.errorbar(
                [count * shift for count in curve.value], list(curve.value.values()), list(curve.spread.values()),
                color=colour, marker=marker, markersize=5, linewidth=1.4, capsize=2, label=shorten(curve.label, 36),
            )  # fmt: skip
            axes.axhline(curve.everything, color=colour, linewidth=0.9, linestyle=":")
        axes.set_xscale("log")
        axes.set_xticks(shots, [str(count) for count in shots])
        axes.minorticks_off()
        axes.set_xlabel("labels per class", fontsize=9)
        if number == 0:
            axes.set_ylabel(axis, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    add_text(figure, 0.15, head + high + 0.58, caption, size=8)
    save(figure, path)
