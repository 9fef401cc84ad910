"""Curves of a comparison of reconstructions: mean spectra, error against band and against mask ratio.

C bands; lengths on paper are in inches
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geomae.analysis.reconstruction_errors import Floats
from geomae.reports.canvas import add_axes, add_text, add_title, save
from geomae.reports.figures import LONGEST_OPTICAL_UM, WAVELENGTH_TICKS_UM
from geomae.reports.palette import COLOURS
from geomae.sensors import Band

MARKERS = ("o", "^", "s", "D", "v", "P", "X")
INK = "#1b1f24"


def mean_spectra(
    path: Path, bands: Sequence[Band], truth_C: Floats, means: Mapping[str, Floats], unit: str, title: str
) -> None:
    """Publish a picture (PNG): the mean spectrum of masked pixels, true and by each model, and what they are off by."""
    order = sorted(range(len(bands)), key=lambda place: bands[place].wavelength_um)
    place_C = places([bands[place] for place in order])
    figure = Figure(figsize=(9.6, 6.2))
    add_title(figure, title)
    above, below = add_axes(figure, 0.95, 0.85, 6.2, 2.6), add_axes(figure, 0.95, 3.65, 6.2, 1.7)
    above.plot(place_C, truth_C[order], color=INK, linewidth=2.2, marker="o", markersize=4, label="truth")
    for number, (label, mean_C) in enumerate(means.items()):
        style = _style(number)
        above.plot(place_C, mean_C[order], label=label, **style)
        below.plot(place_C, (mean_C - truth_C)[order], **style)
    below.axhline(0, color=INK, linewidth=1)
    above.set_ylabel(f"mean of masked pixels,\n{_plain(unit)}", fontsize=9)
    below.set_ylabel(f"model - truth,\n{_plain(unit)}", fontsize=9)
    for axes in (above, below):
        wavelength_axis(axes, place_C, [bands[place] for place in order], named=axes is below)
    _legend(above)
    save(figure, path)


def error_by_band(path: Path, bands: Sequence[str], errors: Mapping[str, Floats], unit: str, title: str) -> None:
    """Publish a picture (PNG): RMSE of masked pixels against the band, a mark per model."""
    figure = Figure(figsize=(9.6, 4.4))
    add_title(figure, title)
    axes = add_axes(figure, 0.95, 0.75, 6.2, 2.95)
    place_C = np.arange(len(bands), dtype=np.float64)
    for number, (label, error_C) in enumerate(errors.items()):
        axes.plot(place_C, error_C, label=label, **_style(number))
    axes.set_xticks(place_C, bands, rotation=30 if len(bands) > 8 else 0)
    axes.set_xlabel("band", fontsize=9)
    _error_axis(axes, unit)
    save(figure, path)


def error_by_ratio(path: Path, curves: Mapping[str, tuple[Floats, Floats]], unit: str, title: str) -> None:
    """Publish a picture (PNG): RMSE of masked pixels, mean over bands, against the share of a tile that is hidden."""
    figure = Figure(figsize=(9.6, 4.4))
    add_title(figure, title)
    axes = add_axes(figure, 0.95, 0.75, 6.2, 2.95)
    for number, (label, (ratio, error)) in enumerate(curves.items()):
        axes.plot(100 * ratio, error, label=label, **_style(number))
    axes.set_xlabel("hidden share of the tile, %", fontsize=9)
    _error_axis(axes, unit)
    save(figure, path)


def _error_axis(axes: Axes, unit: str) -> None:
    axes.set_ylabel(f"RMSE of masked pixels, {_plain(unit)}", fontsize=9)
    axes.set_ylim(bottom=0)
    plain_axes(axes)
    _legend(axes)


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": "-" if number < len(COLOURS) else "--",
        "linewidth": 1.3,
        "markersize": 4.5,
    }


def places(bands: Sequence[Band]) -> Floats:
    """Wavelengths in micrometres; numbers where a band is no optical one."""
    optical = bands[-1].wavelength_um < LONGEST_OPTICAL_UM
    return np.array([one.wavelength_um if optical else number for number, one in enumerate(bands)], dtype=np.float64)


def wavelength_axis(axes: Axes, place_C: Floats, bands: Sequence[Band], *, named: bool) -> None:
    """Make the horizontal axis one of wavelengths, or of bands where these are no optical ones; `named` lists them."""
    plain_axes(axes)
    if bands[-1].wavelength_um >= LONGEST_OPTICAL_UM:
        axes.set_xticks(place_C, [band.name for band in bands])
        return
    axes.set_xscale("log")  # visible bands are narrow and close, infrared ones wide and far apart
    low, high = place_C[0] * 0.94, place_C[-1] * 1.06
    axes.set_xlim(low, high)
    ticks = [tick for tick in WAVELENGTH_TICKS_UM if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    if named:
        axes.set_xlabel("wavelength, µm", fontsize=9)
        names = ", ".join(f"{band.name} {band.wavelength_um:.3g}" for band in bands)
        add_text(axes.figure, 0.15, 5.85, f"Bands by wavelength, µm: {names}", size=8)  # type: ignore[arg-type]


def plain_axes(axes: Axes) -> None:
    """Small ticks, a light grid, no frame above and to the right."""
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5)


def _plain(unit: str) -> str:
    return unit.replace("_", " ")
