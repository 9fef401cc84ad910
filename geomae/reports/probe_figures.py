"""Pictures of probes and fine-tuned models: scores, few labels, confusion, reliability, and alignments.

K classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from geomae.metrics.calibration import ReliabilityBin
from geomae.reports.canvas import add_axes, add_text, add_title, panels, save, shorten
from geomae.reports.figures import BLUE, ORANGE

CONFUSION_COLOURS = "Blues"
MOST_NUMBERS = 12  # largest number of classes for which each cell shows its number
GREY = "0.45"
CURVE_COLOURS = [colormaps["tab10"](number) for number in range(10)]
MARKERS = "osD^vP*X<>"


def confusion_picture(
    path: Path, matrices: Sequence[tuple[str, NDArray[np.float64]]], names: Sequence[str], *, title: str, unit: str
) -> None:
    """Publish a picture (PNG) of confusion matrices `(title, counts_KK)`, with truth in rows, prediction in columns.

    Cells show the fraction of the row; row names show the number of `unit` (tiles, pixels) of each class.
    """
    classes = len(names)
    side = float(np.clip(0.55 * classes, 1.8, 7.0))
    left, head, gap, foot = (
        0.3 + 0.085 * min(max(map(len, names)), 18) + 0.55,
        1.05,
        0.35,
        0.45 + 0.06 * min(max(map(len, names)), 18),
    )
    across = max(len(matrices) * (left + side + gap) + 0.2, 6.0)
    figure = Figure(figsize=(across, head + side + foot))
    add_title(figure, title)
    for number, (name, counts_KK) in enumerate(matrices):
        begin = 0.1 + number * (left + side + gap)
        add_text(figure, begin + 0.05, head - 0.42, shorten(name, int((left + side) * 12)), size=9)
        _matrix(add_axes(figure, begin + left, head, side, side), counts_KK, names, unit)
    save(figure, path)


def reliability_picture(path: Path, curves: Sequence[tuple[str, Sequence[ReliabilityBin]]], unit: str) -> None:
    """Publish a reliability diagram (PNG): accuracy (y) against mean confidence (x), per bin of confidence."""
    figure = Figure(figsize=(7.4, 4.6))
    add_title(figure, "Reliability")
    axes = add_axes(figure, 0.8, 0.75, 3.3, 3.3)
    axes.plot((0, 1), (0, 1), color="0.6", linewidth=1)
    for number, (name, bins) in enumerate(curves):
        total = sum(one.rows for one in bins)
        x, y = [one.confidence for one in bins], [one.accuracy for one in bins]
        sizes = [8 + 120 * one.rows / total for one in bins]
        axes.plot(x, y, color=f"C{number}", linewidth=1)
        axes.scatter(x, y, sizes, color=f"C{number}", zorder=3)
        add_text(figure, 4.4, 0.85 + 0.25 * number, shorten(name, 34), size=9).set_color(f"C{number}")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("mean confidence", fontsize=9)
    axes.set_ylabel(f"fraction of {unit} predicted correctly", fontsize=9)
    axes.tick_params(labelsize=8)
    add_text(figure, 4.4, 3.8, f"The area of a dot grows with its number of {unit}.", size=8)
    save(figure, path)


def _matrix(axes: Axes, counts_KK: NDArray[np.float64], names: Sequence[str], unit: str) -> None:
    truth_K = counts_KK.sum(1)
    share_KK = counts_KK / np.where(truth_K > 0, truth_K, 1)[:, None]
    axes.imshow(share_KK, cmap=CONFUSION_COLOURS, vmin=0, vmax=1, interpolation="nearest")
    places = range(len(names))
    short = [shorten(name, 18) for name in names]
    rows = [f"{name}\n{count:,.0f}" for name, count in zip(short, truth_K, strict=True)]
    axes.set_xticks(places, short, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(places, rows, parse_math=False)
    axes.tick_params(labelsize=8, length=0)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel(f"truth ({unit})", fontsize=9)
    if len(names) > MOST_NUMBERS:
        return
    for row in places:
        for column in places:
            share = share_KK[row, column]
            text = f"{share:.2f}" if truth_K[row] > 0 else "–"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "0.2")


@dataclass(frozen=True)
class Aligned:
    """An encoder's score without alignment (`none`) and after each alignment, and the alignment that was chosen."""

    label: str
    value: Mapping[str, float]
    chosen: str


def alignments_picture(path: Path, shown: Mapping[str, Sequence[Aligned]], *, title: str, axis: str) -> None:
    """Publish a picture (PNG): one panel per test set, one row per encoder, one mark per alignment."""
    caption = (
        "Blue: without alignment. Grey: after each alignment.\nOrange: the one chosen by the rule, without labels."
    )
    names = [shorten(one.label, 36) for one in max(shown.values(), key=len)]
    figure, sheet = panels(len(shown), 3.0 + 3.8 * len(shown), 1.9 + 0.34 * len(names), title, caption)
    every = [value for each in shown.values() for one in each for value in one.value.values()]
    margin = 0.04 * (max(every) - min(every)) or 0.01
    for axes, (test, each) in zip(sheet, shown.items(), strict=True):
        axes.set_title(shorten(test, 42), fontsize=9, parse_math=False)
        for place, one in enumerate(each):
            axes.plot(list(one.value.values()), [place] * len(one.value), "|", color=GREY, markersize=9, zorder=1)
            axes.plot(one.value[one.chosen], place, "D", color=ORANGE, markersize=7, zorder=2)
            axes.plot(one.value["none"], place, "o", color=BLUE, markersize=5, zorder=3)
        axes.set_xlim(min(every) - margin, max(every) + margin)
        _label_rows(axes, names, axis)
    save(figure, path)


@dataclass(frozen=True)
class Bar:
    """The score of an encoder on a test set; `singles` are the scores of its seeds."""

    label: str
    baseline: bool
    value: float
    interval: tuple[float, float] | None
    singles: tuple[float, ...] = ()


def scores_picture(path: Path, bars: Mapping[str, Sequence[Bar]], *, title: str, axis: str, caption: str) -> None:
    """Publish a picture (PNG) of the scores by test set: points with intervals, baselines in grey."""
    names = [shorten(bar.label, 36) for bar in max(bars.values(), key=len)]
    figure, sheet = panels(len(bars), 3.0 + 3.8 * len(bars), 1.8 + 0.34 * len(names), title, caption)
    every = [bar for shown in bars.values() for bar in shown]
    known = [value for bar in every for value in (bar.value, *bar.singles, *(bar.interval or ()))]
    margin = 0.04 * (max(known) - min(known)) or 0.01
    for axes, (test, shown) in zip(sheet, bars.items(), strict=True):
        axes.set_title(shorten(test, 42), fontsize=9, parse_math=False)
        for place, bar in enumerate(shown):
            colour = GREY if bar.baseline else BLUE
            if bar.interval is not None:
                axes.plot(bar.interval, (place, place), color=colour, linewidth=2, solid_capstyle="butt", zorder=1)
            axes.plot(bar.singles, [place] * len(bar.singles), "|", color=ORANGE, markersize=9, zorder=2)
            axes.plot(bar.value, place, "s" if bar.baseline else "o", color=colour, markersize=6, zorder=3)
        axes.set_xlim(min(known) - margin, max(known) + margin)
        _label_rows(axes, names, axis)
    save(figure, path)


def _label_rows(axes: Axes, names: Sequence[str], axis: str) -> None:
    """Label the rows with names, the first on top, and the horizontal axis with `axis`."""
    axes.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(axis, fontsize=9)
    axes.tick_params(labelsize=8, axis="x")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class Curve:
    """An encoder's score with few labels: mean and standard deviation over draws, by labels per class.

    `everything` is the score with all labels.
    """

    label: str
    value: Mapping[int, float]
    spread: Mapping[int, float]
    everything: float


def few_labels_picture(
    path: Path, curves: Mapping[str, Sequence[Curve]], *, title: str, axis: str, caption: str
) -> None:
    """Publish a picture (PNG) of the scores with few labels, one panel per test set."""
    figure, sheet = panels(len(curves), 3.4 + 4.4 * len(curves), 4.9, title, caption)
    for axes, (test, shown) in zip(sheet, curves.items(), strict=True):
        axes.set_title(shorten(test, 46), fontsize=9, parse_math=False)
        shots = sorted({count for curve in shown for count in curve.value})
        for index, curve in enumerate(shown):
            # Shifted a little, so that error bars do not cover each other.
            shift = 1 + 0.05 * (index - (len(shown) - 1) / 2)
            colour, marker = CURVE_COLOURS[index % len(CURVE_COLOURS)], MARKERS[index % len(MARKERS)]
            axes.errorbar(
                [count * shift for count in curve.value], list(curve.value.values()), list(curve.spread.values()),
                color=colour, marker=marker, markersize=5, linewidth=1.4, capsize=2, label=shorten(curve.label, 36),
            )  # fmt: skip
            axes.axhline(curve.everything, color=colour, linewidth=0.9, linestyle=":")
        axes.set_xscale("log")
        axes.set_xticks(shots, [str(count) for count in shots])
        axes.minorticks_off()
        axes.set_xlabel("labels per class", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    sheet[0].set_ylabel(axis, fontsize=9)
    sheet[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    save(figure, path)
