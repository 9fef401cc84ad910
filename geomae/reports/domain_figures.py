"""Pictures of two domains: their spectra and distances, and the change of errors by an adaptation.

C bands; lengths on paper are in inches
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from geomae.reports.canvas import COLOURS, REST_COLOUR, add_axes, add_text, add_title, save, shorten
from geomae.reports.figures import BLUE, ORANGE, band_places, plain_axes, plain_unit, wavelength_axis
from geomae.sensors import Band

MARKERS = ("o", "^")
WIDE = 100  # ratio of largest to smallest value above which an axis is logarithmic

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DomainSpectrum:
    """Mean and standard deviation of each band of a domain; NaN where no pixel is valid."""

    name: str
    bands: Sequence[Band]
    mean_C: Floats
    std_C: Floats


@dataclass(frozen=True)
class Distance:
    """A distance between domains for one encoder, that between random halves of the source, and its significance."""

    value: float
    null_value: float | None
    significant: bool


@dataclass(frozen=True)
class Line:
    """The relative change of one error in a domain, in percent, with its 95 % interval where it is known."""

    domain: str
    label: str
    change: float
    interval: tuple[float, float] | None


def adaptation_curve(path: Path, rows: Sequence[Mapping[str, Any]], name: str, kept: int, *, title: str) -> None:
    """Publish a picture (PNG) of the metric `name` against the step, with a line at the step `kept`."""
    figure = Figure(figsize=(7, 4.4))
    add_title(figure, "Error on held-out tiles while adapting")
    axes = add_axes(figure, 0.95, 0.65, 5.8, 3.1)
    errors = {row["step"]: row[name] for row in rows if name in row}
    axes.plot(list(errors), list(errors.values()), color=ORANGE, marker="o", markersize=4, label="fixed masks")
    axes.axvline(kept, color=BLUE, linewidth=1.2, linestyle="--", label=f"kept: step {kept}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def changes_picture(path: Path, lines: Sequence[Line], *, names: Mapping[str, str]) -> None:
    """Publish a picture (PNG) of changes of the error, one panel per domain. `names`: domain -> its selector."""
    domains = list(dict.fromkeys(one.domain for one in lines))
    rows = max(sum(one.domain == domain for one in lines) for domain in domains)
    left, wide, high, head = 1.5, 3.4, 0.28 * rows + 0.2, 0.8
    figure = Figure(figsize=(left + len(domains) * (wide + 0.3) + 0.1, head + high + 1.0))
    add_title(figure, "Change of the reconstruction error")
    ends = [value for one in lines for value in (one.change, *(one.interval or ()), 0.0)]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    for number, domain in enumerate(domains):
        axes = add_axes(figure, left + number * (wide + 0.3), head, wide, high)
        axes.set_title(shorten(f"{domain}: {names[domain]}", 44), fontsize=9, parse_math=False)
        shown = [one for one in lines if one.domain == domain]
        for place, one in enumerate(shown):
            if one.interval is not None:
                axes.plot(one.interval, (place, place), color=BLUE, linewidth=2, solid_capstyle="butt")
            axes.plot(one.change, place, "D" if place == 0 else "o", color=BLUE, markersize=6)
        axes.axvline(0, color="0.3", linewidth=1)
        axes.set_yticks(
            range(len(shown)), [one.label for one in shown] if number == 0 else [""] * len(shown), fontsize=9
        )
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlim(min(ends) - margin, max(ends) + margin)
        axes.set_xlabel("change of the RMSE, %", fontsize=9)
        axes.tick_params(labelsize=8, axis="x")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    caption = "Held-out tiles, hidden valid pixels. Lines: 95 % over resampled groups, where there are at least ten."
    add_text(figure, 0.15, head + high + 0.6, caption, size=8)
    save(figure, path)


def gap_spectra(path: Path, domains: Sequence[DomainSpectrum], unit: str, title: str) -> None:
    """Publish a picture (PNG): the mean of each band in both domains, with one standard deviation on each side."""
    figure = Figure(figsize=(10.4, 4.7))
    add_title(figure, title)
    axes = add_axes(figure, 0.95, 0.75, 6.0, 3.2)
    every = sorted({band for one in domains for band in one.bands}, key=lambda band: band.wavelength_um)
    place_of = dict(zip(every, band_places(every), strict=True))
    for number, one in enumerate(domains):
        order = sorted(range(len(one.bands)), key=lambda place: one.bands[place].wavelength_um)
        at = np.array([place_of[one.bands[place]] for place in order])
        mean, std, colour = one.mean_C[order], one.std_C[order], COLOURS[number]
        axes.fill_between(at, mean - std, mean + std, color=colour, alpha=0.16, linewidth=0)
        for edge in (mean - std, mean + std):
            axes.plot(at, edge, color=colour, linewidth=0.7, linestyle=("-", "--")[number])
        label = shorten(one.name, 34)
        axes.plot(at, mean, color=colour, linewidth=1.8, marker=MARKERS[number], markersize=5, label=label)
    axes.set_ylabel(f"{plain_unit(unit)}\nmean ± one standard deviation", fontsize=9)
    wavelength_axis(axes, band_places(every), every, named=False)
    axes.set_xlabel("wavelength, µm" if axes.get_xscale() == "log" else "band", fontsize=9)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5)
    for text in legend.get_texts():
        text.set_parse_math(False)
    save(figure, path)


def gap_distances(path: Path, panels: Mapping[str, Mapping[str, Distance]], title: str) -> None:
    """Publish a picture (PNG): one panel per measure, with each encoder's distance and that of random halves."""
    encoders = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    wide, gap, left, head, row = 2.1, 0.3, 1.9, 1.15, 0.42
    height = row * len(encoders) + 0.15
    figure = Figure(figsize=(left + len(panels) * (wide + gap), head + height + 1.05))
    add_title(figure, title)
    for number, (measure, panel) in enumerate(panels.items()):
        axes = add_axes(figure, left + number * (wide + gap), head, wide, height)
        for place, label in enumerate(encoders):
            if label not in panel:
                continue
            one = panel[label]
            if one.null_value is not None:
                axes.plot([one.null_value, one.value], [place, place], color="0.75", linewidth=1, zorder=1)
                axes.plot(one.null_value, place, marker="D", color=REST_COLOUR, markersize=5, linestyle="none")
            face = COLOURS[0] if one.significant else "white"
            axes.plot(one.value, place, marker="o", markersize=7, color=COLOURS[0], markerfacecolor=face)
        axes.set_ylim(len(encoders) - 0.5, -0.5)
        axes.set_yticks(
            range(len(encoders)), [shorten(one, 22) for one in encoders] if number == 0 else [""] * len(encoders)
        )
        for text in axes.get_yticklabels():
            text.set_parse_math(False)
        axes.margins(x=0.12)
        shown = [value for one in panel.values() for value in (one.value, one.null_value) if value is not None]
        if min(shown) > 0 and max(shown) > WIDE * min(shown):
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", nbins=4)
        axes.set_title(measure, fontsize=9)
        plain_axes(axes)
    handles = [
        Line2D([], [], linestyle="none", marker="o", color=COLOURS[0], label="source to target, significant"),
        Line2D([], [], linestyle="none", marker="o", color=COLOURS[0], markerfacecolor="white",
               label="source to target, not significant"),
        Line2D([], [], linestyle="none", marker="D", color=REST_COLOUR, markersize=5, label="halves of the source"),
    ]  # fmt: skip
    width, down = figure.get_size_inches()
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.1 / width, 1 - (head + height + 0.42) / down),
                  frameon=False, fontsize=8.5, ncols=3)  # fmt: skip
    add_text(figure, 0.15, 0.5, "Each panel has its own scale; a lower distance is a smaller gap.", size=9)
    save(figure, path)
