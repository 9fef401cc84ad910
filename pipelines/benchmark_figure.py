"""Pictures of a benchmark: every measure of every test set on one scale, and the score by minutes of training."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from geomae.metrics.predictions import metric_name
from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from pipelines.benchmark_scores import RANK, SCORE, Row
from pipelines.benchmark_tasks import LINEAR, PIXELS, Task, in_order

# The palette of Okabe and Ito (2008), safe for colour-blind readers; the marker shape carries the same information.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "os^DvP*X<>"
ACROSS, LEGEND = 3, 4  # panels and legend entries per row
MINUTES = re.compile(r"(.+)-(\d+(?:\.\d+)?)min")
DISPLAYED = {
    PIXELS: "pixels (mean IoU)",
    "knn5": "5 neighbours",
    "knn20": "20 neighbours",
    LINEAR: "linear, all labels",
}


def benchmark_picture(path: Path, rows: Sequence[Row], labels: Sequence[str], tasks: Sequence[Task]) -> None:
    """Publish a picture (PNG): a panel for each test set, a row for each measure, all on one scale."""
    shown = [row for row in rows if row.seed is None and _has_place(row)]
    panels = [(task, test.name) for task in tasks for test in task.probe.tests]
    row_height = 0.14 * max(len(labels), 3) + 0.12
    heights = [row_height * len(_measures(shown, task.name, test)) for task, test in panels]
    lines = [max(heights[start : start + ACROSS]) + 1.05 for start in range(0, len(panels), ACROSS)]
    width, left, head = 3.0, 1.5, 1.05 + 0.2 * -(-len(labels) // LEGEND)
    across = min(len(panels), ACROSS)
    figure = Figure(figsize=(max(across * (left + width) + 0.2, 7.5), head + sum(lines)))
    add_title(figure, "Benchmark of encoders")
    ends = [value for row in shown for value in (row.low, row.high, row.value) if value is not None]
    limits = (max(min(ends) - 0.03, 0.0), min(max(ends) + 0.03, 1.0))
    for place, (task, test) in enumerate(panels):
        line, column = divmod(place, ACROSS)
        begin = left + column * (left + width), head + sum(lines[:line])
        axes = add_axes(figure, *begin, width, heights[place])
        _panel(axes, [row for row in shown if (row.task, row.test) == (task.name, test)], labels)
        axes.set_xlim(limits)
        axes.set_title(shorten(f"{task.name}: {test}", 52), fontsize=8, parse_math=False)
        axes.set_xlabel(metric_name(next(iter(task.probe.truths.values())).measure.main), fontsize=8)
    _legend(figure, labels)
    caption = "lines: 95 % over resampled groups, or tiles where there are fewer than ten groups"
    add_text(figure, 0.15, 0.45, caption, size=8)
    save(figure, path)


def _panel(axes: Axes, rows: Sequence[Row], labels: Sequence[str]) -> None:
    measures = in_order(row.measure for row in rows)
    step = 0.8 / max(len(labels), 2)
    for row in rows:
        number = labels.index(row.encoder)
        height = measures.index(row.measure) + step * (number - (len(labels) - 1) / 2)
        colour, marker = _look(number)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [height, height], color=colour, linewidth=1.0, solid_capstyle="butt")
        axes.plot([row.value], [height], marker, color=colour, markersize=4)
    for place in range(1, len(measures)):
        axes.axhline(place - 0.5, color="0.85", linewidth=0.8)
    axes.set_yticks(range(len(measures)), [_displayed(name) for name in measures], fontsize=8)
    axes.set_ylim(len(measures) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    handles = [
        figure.axes[0].plot([], [], _look(number)[1], color=_look(number)[0], markersize=5, label=shorten(label, 28))[0]
        for number, label in enumerate(labels)
    ]
    corner = (0.01, 1 - 0.62 / figure.get_size_inches()[1])
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=corner,
        ncols=LEGEND,
        fontsize=8,
        frameon=False,
    )


@dataclass(frozen=True)
class Curve:
    """The value of a measure by minutes of training, and the values of untrained encoders."""

    title: str
    axis: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    level: Mapping[str, float]


def curves(rows: Sequence[Row], labels: Sequence[str], *, scored: bool) -> list[Curve]:
    """Curves of encoders called NAME-Nmin: of the score, or of the main measure of each test set; needs two points."""
    timed = {label: match for label in labels if (match := MINUTES.fullmatch(label))}
    if len(timed) < 2:
        return []
    found = []
    wanted = (SCORE,) if scored else (LINEAR, PIXELS)
    here = [row for row in rows if row.seed is None and row.measure in wanted]
    for task, test in dict.fromkeys((row.task, row.test) for row in here):
        values = {row.encoder: row.value for row in here if (row.task, row.test) == (task, test)}
        lines: dict[str, list[tuple[float, float]]] = {}
        for label, match in timed.items():
            if label in values:
                lines.setdefault(match[1], []).append((float(match[2]), values[label]))
        level = {label: value for label, value in values.items() if label not in timed}
        measure = next(row.measure for row in here if (row.task, row.test) == (task, test))
        title = task if task == test else f"{task}: {test}"
        found.append(Curve(title, _displayed(measure), {name: sorted(line) for name, line in lines.items()}, level))
    return [one for one in found if one.lines]


def curve_picture(path: Path, points: Sequence[Curve]) -> None:
    """Publish a picture (PNG) of curves against minutes, a panel for each, all on one scale."""
    width, height, left, head = 3.4, 2.6, 0.85, 0.85
    across = min(len(points), ACROSS)
    lines = -(-len(points) // ACROSS)
    figure = Figure(figsize=(max(across * (width + left + 1.3), 6), head + lines * (height + 1.0)))
    add_title(figure, "Score by minutes of training")
    ends = [y for one in points for y in (*one.level.values(), *(y for line in one.lines.values() for _, y in line))]
    for place, one in enumerate(points):
        row, column = divmod(place, ACROSS)
        begin = left + column * (width + left + 1.3), head + row * (height + 1.0)
        axes = add_axes(figure, *begin, width, height)
        for number, (name, line) in enumerate(one.lines.items()):
            colour, marker = _look(number)
            axes.plot(*zip(*line, strict=True), marker + "-", color=colour, markersize=5, label=name)
        for number, (name, value) in enumerate(one.level.items(), len(one.lines)):
            style = ("--", ":", "-.")[number % 3]
            axes.axhline(value, color=_look(number)[0], linewidth=1.2, linestyle=style, label=shorten(name, 22))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(sorted({x for line in one.lines.values() for x, _ in line}))
        axes.set_ylim(min(ends) - 0.02, max(ends) + 0.02)
        axes.set_xlabel("minutes of training", fontsize=9)
        axes.set_ylabel(one.axis, fontsize=9)
        axes.set_title(shorten(one.title, 52), fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(figure, path)


def _has_place(row: Row) -> bool:
    return row.measure not in (RANK, SCORE) and " minus " not in row.measure


def _measures(rows: Sequence[Row], task: str, test: str) -> list[str]:
    return in_order(row.measure for row in rows if (row.task, row.test) == (task, test))


def _look(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _displayed(measure: str) -> str:
    few = re.fullmatch(rf"{LINEAR}-(\d+)", measure)
    return f"linear, {few[1]} a class" if few else DISPLAYED.get(measure, measure)
