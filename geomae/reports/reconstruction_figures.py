"""Pictures that compare reconstructions: panels of tiles, spectra, errors by band and by mask ratio, and a slider.

C bands, H W pixels; lengths on paper are in inches
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

from geomae.evaluation.reconstruction import ReconstructedTile
from geomae.metrics.reconstruction import Floats
from geomae.reports.canvas import (
    COLOURS,
    add_axes,
    add_picture_axes,
    add_text,
    add_title,
    composites,
    describe_composite,
    panels,
    save,
    shorten,
    stretch_limits,
    to_rgb,
)
from geomae.reports.figures import (
    DIFFERENCE_MAP,
    HIDDEN_COLOUR,
    INVALID_COLOUR,
    band_places,
    plain_axes,
    plain_unit,
    wavelength_axis,
)
from geomae.reports.page import Html, data_uri, render
from geomae.sensors import Band

Picture = npt.NDArray[np.float64]
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
INK = "#1b1f24"
TRUTH = "#c3c9d0"  # a broad grey line behind the others, since one of their colours is nearly black


CAPTION_LETTERS = 14  # letters of 8 points on an inch


@dataclass(frozen=True)
class Slide:
    """A tile of the slider as pictures (height, width, 3), 0 to 1: the truth, and the reconstruction of each model."""

    title: str
    truth: Picture
    reconstructions: Mapping[str, Picture]


def comparison_panel(path: Path, tile: ReconstructedTile, bands: Sequence[Band], unit: str, title: str) -> None:
    """Publish a picture (PNG): truth and reconstructions above, the visible input and absolute errors below.

    There is one block per composite (true and false colour), with one stretch; all errors share one scale.
    """
    triples = composites(bands)
    labels = list(tile.reconstructions)
    errors = {(name, label): _error_HW(tile, label, indices) for name, indices in triples.items() for label in labels}
    known = np.concatenate([one[np.isfinite(one) & ~tile.visible_HW] for one in errors.values()])
    limit = (float(np.percentile(known, 99)) if known.size else 0.0) or 1.0
    side, gap, head, text = 1.55, 0.08, 0.75, 0.58
    block = 2 * (side + gap) + text + 0.1
    width = max(0.15 + (len(labels) + 1) * (side + gap) + 0.95, 7.0)
    caption = _caption(tile, unit, int(width * CAPTION_LETTERS))
    foot = 0.25 + 0.15 * len(caption.splitlines())
    figure = Figure(figsize=(width, head + len(triples) * block + foot))
    add_title(figure, title)
    add_text(figure, 0.15, 0.45, shorten(tile.tile_id, int(width * 12)), size=9)
    colours = colormaps[DIFFERENCE_MAP].with_extremes(bad=INVALID_COLOUR)
    for number, (name, indices) in enumerate(triples.items()):
        top = head + number * block
        composite = f"{describe_composite(name, indices, bands)};\n{_limits(tile, indices, bands, unit)}"
        add_text(figure, 0.15, top, composite, size=8.5)
        pictures = tile_pictures(tile, indices)
        for column, label in enumerate(["", *labels]):
            left, above = 0.15 + column * (side + gap), top + text
            axes = add_picture_axes(figure, left, above, side, side)
            axes.imshow(pictures[label], interpolation="nearest")
            axes.set_title(shorten(label or "truth", 22), fontsize=8.5, pad=3, parse_math=False)
            below = add_picture_axes(figure, left, above + side + gap, side, side)
            if label:
                drawn = below.imshow(errors[name, label], cmap=colours, vmin=0, vmax=limit, interpolation="nearest")
            else:
                below.imshow(pictures["visible"], interpolation="nearest")
        scale = add_axes(figure, 0.15 + (len(labels) + 1) * (side + gap) + 0.05, top + text + side + gap, 0.13, side)
        figure.colorbar(drawn, cax=scale, extend="max").set_label(f"error, {plain_unit(unit)}", size=8)
        scale.tick_params(labelsize=7.5)
    add_text(figure, 0.15, head + len(triples) * block + 0.05, caption, size=8)
    save(figure, path)


def tile_pictures(tile: ReconstructedTile, indices: tuple[int, int, int]) -> dict[str, Picture]:
    """Return the truth (key ""), the visible part ("visible") and each reconstruction by label, with one stretch."""
    limits = stretch_limits(tile.truth_CHW, tile.valid_CHW)
    truth = to_rgb(tile.truth_CHW, tile.valid_CHW, indices, *limits, INVALID_COLOUR)
    everywhere_CHW = np.ones_like(tile.valid_CHW)
    pictures = {"": truth, "visible": np.where(tile.visible_HW[..., None], truth, HIDDEN_COLOUR)}
    return pictures | {
        label: to_rgb(pixels_CHW, everywhere_CHW, indices, *limits, INVALID_COLOUR)
        for label, pixels_CHW in tile.reconstructions.items()
    }


def mean_spectra(
    path: Path, bands: Sequence[Band], truth_C: Floats, means: Mapping[str, Floats], unit: str, title: str
) -> None:
    """Publish a picture (PNG): the mean spectrum of masked pixels, true and of each model, and the differences."""
    order = sorted(range(len(bands)), key=lambda place: bands[place].wavelength_um)
    place_C = band_places([bands[place] for place in order])
    figure = Figure(figsize=(9.6, 6.2))
    add_title(figure, title)
    above, below = add_axes(figure, 0.95, 0.85, 6.2, 2.6), add_axes(figure, 0.95, 3.65, 6.2, 1.7)
    above.plot(place_C, truth_C[order], color=TRUTH, linewidth=6, label="truth")
    for number, (label, mean_C) in enumerate(means.items()):
        style = _style(number)
        above.plot(place_C, mean_C[order], label=label, **style)
        below.plot(place_C, (mean_C - truth_C)[order], **style)
    below.axhline(0, color=INK, linewidth=1)
    above.set_ylabel(f"mean of masked pixels,\n{plain_unit(unit)}", fontsize=9)
    below.set_ylabel(f"model - truth,\n{plain_unit(unit)}", fontsize=9)
    for axes in (above, below):
        wavelength_axis(axes, place_C, [bands[place] for place in order], named=axes is below)
    _legend(above)
    save(figure, path)


def error_by_band(path: Path, bands: Sequence[str], errors: Mapping[str, Floats], unit: str, title: str) -> None:
    """Publish a picture (PNG): RMSE of masked pixels for each band, one line per model."""
    figure, (axes,) = panels(1, 9.6, 4.2, title)
    place_C = np.arange(len(bands), dtype=np.float64)
    for number, (label, error_C) in enumerate(errors.items()):
        axes.plot(place_C, error_C, label=label, **_style(number))
    axes.set_xticks(place_C, bands, rotation=30 if len(bands) > 8 else 0)
    axes.set_xlabel("band", fontsize=9)
    _error_axis(axes, unit)
    save(figure, path)


def error_by_ratio(path: Path, curves: Mapping[str, tuple[Floats, Floats]], unit: str, title: str) -> None:
    """Publish a picture (PNG): RMSE of masked pixels, mean over bands, against the hidden fraction of a tile."""
    figure, (axes,) = panels(1, 9.6, 4.2, title)
    for number, (label, (ratio, error)) in enumerate(curves.items()):
        axes.plot(100 * ratio, error, label=label, **_style(number))
    axes.set_xlabel("hidden share of the tile, %", fontsize=9)
    _error_axis(axes, unit)
    save(figure, path)


def slider(slides: Sequence[Slide]) -> Html:
    """Return the interactive part: choose a tile and a model, and move the border between truth and reconstruction."""
    data = [
        {
            "title": slide.title,
            "truth": data_uri(_png(slide.truth)),
            "models": [[label, data_uri(_png(picture))] for label, picture in slide.reconstructions.items()],
        }
        for slide in slides
    ]
    return Html(render("recon_slider.html", data=data))


def _error_HW(tile: ReconstructedTile, label: str, indices: Sequence[int]) -> Picture:
    """Return the mean absolute error over these bands (H, W); NaN where one of them is invalid."""
    chosen = list(indices)
    truth_CHW = np.where(tile.valid_CHW[chosen], tile.truth_CHW[chosen], np.nan).astype(np.float64)
    error_HW: Picture = np.abs(tile.reconstructions[label][chosen] - truth_CHW).mean(axis=0)
    return error_HW


def _limits(tile: ReconstructedTile, indices: Sequence[int], bands: Sequence[Band], unit: str) -> str:
    low_C, high_C = stretch_limits(tile.truth_CHW, tile.valid_CHW)
    spans = [f"{bands[place].name} {low_C[place]:.3g} to {high_C[place]:.3g}" for place in dict.fromkeys(indices)]
    return f"black to full colour: {', '.join(spans)} {plain_unit(unit)}"


def _caption(tile: ReconstructedTile, unit: str, letters: int) -> str:
    scores = ", ".join(f"{label} {tile.rmse(label):.3g}" for label in tile.reconstructions)
    lines = (
        "Lower row: what the models saw (grey is hidden, beige is invalid), then the absolute error, mean over the "
        "bands shown.",
        f"RMSE of hidden pixels over all bands, {plain_unit(unit)}: {scores}",
    )
    return "\n".join(textwrap.fill(line, letters) for line in lines)


def _error_axis(axes: Axes, unit: str) -> None:
    axes.set_ylabel(f"RMSE of masked pixels, {plain_unit(unit)}", fontsize=9)
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


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5)


def _png(picture: Picture) -> bytes:
    png = io.BytesIO()
    imsave(png, np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8), format="png", metadata={"Software": "geomae"})
    return png.getvalue()
