"""Pictures of two domains: their spectra and distances, and the change of errors by an adaptation.

C bands; lengths on paper are in inches
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from geomae.reports.canvas import COLOURS, REST_COLOUR, panels, save, shorten
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
    figure, (axes,) = panels(1, 7, 4.2, "Error on held-out tiles while adapting")
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
    caption = "Held-out tiles, hidden valid pixels. Lines: 95 % over resampled groups, where there are at least ten."
    title = "Change of the reconstruction error"
    figure, sheet = panels(len(domains), 0.6 + 4.2 * len(domains), 1.7 + 0.28 * rows, title, caption, share=False)
    ends = [value for one in lines for value in (one.change, *(one.interval or ()), 0.0)]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    for axes, domain in zip(sheet, domains, strict=True):
        axes.set_title(shorten(f"{domain}: {names[domain]}", 44), fontsize=9, parse_math=False)
        shown = [one for one in lines if one.domain == domain]
        for place, one in enumerate(shown):
            if one.interval is not None:
                axes.plot(one.interval, (place, place), color=BLUE, linewidth=2, solid_capstyle="butt")
            axes.plot(one.change, place, "D" if place == 0 else "o", color=BLUE, markersize=6)
        axes.axvline(0, color="0.3", linewidth=1)
        axes.set_yticks(range(len(shown)), [one.label for one in shown], fontsize=9)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlim(min(ends) - margin, max(ends) + margin)
        axes.set_xlabel("change of the RMSE, %", fontsize=9)
        axes.tick_params(labelsize=8, axis="x")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def gap_spectra(path: Path, domains: Sequence[DomainSpectrum], unit: str, title: str) -> None:
    """Publish a picture (PNG): the mean of each band in both domains, with one standard deviation on each side."""
    figure, (axes,) = panels(1, 10.4, 4.5, title)
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


def gap_distances(path: Path, distances: Mapping[str, Mapping[str, Distance]], title: str) -> None:
    """Publish a picture (PNG): one panel per measure, with each encoder's distance and that of random halves."""
    encoders = list(dict.fromkeys(label for panel in distances.values() for label in panel))
    caption = "Each panel has its own scale; a lower distance is a smaller gap."
    figure, sheet = panels(len(distances), 2.2 + 2.4 * len(distances), 2.2 + 0.42 * len(encoders), title)
    for axes, (measure, panel) in zip(sheet, distances.items(), strict=True):
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
        axes.set_yticks(range(len(encoders)), [shorten(one, 22) for one in encoders], parse_math=False)
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
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=8.5, ncols=3, title=caption,
                  title_fontsize=9, alignment="left")  # fmt: skip
    save(figure, path)
