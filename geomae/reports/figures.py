"""Pictures of tiles and of reconstructions, published atomically.

C bands, H W pixels; lengths on paper are in inches
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from geomae.reports.canvas import (
    Colour,
    FloatArray,
    Mask,
    add_axes,
    add_picture_axes,
    add_text,
    add_title,
    composites,
    describe_composite,
    save,
    shorten,
    space_out,
    stretch_limits,
    to_rgb,
)
from geomae.reports.label_marks import class_colours, draw_marks, marks_legend
from geomae.sensors import Band
from geomae.tiles.marks import Mark as LabelMark

MOST_ROWS, MOST_TILES = 8, 36
SIDE, COLUMN, ROW = 1.45, 1.57, 1.79  # of a contact sheet: a tile, and a tile with its margin and with its title
HIDDEN_COLOUR: Colour = (0.5, 0.5, 0.5)
INVALID_COLOUR: Colour = (0.93, 0.88, 0.78)
GAMMA = 1.8  # keeps forest visible where snow shares the stretch of a contact sheet
DIFFERENCE_MAP = "cividis"  # readable with colour blindness
BLUE, ORANGE = "#0072b2", "#d55e00"  # of the palette of Okabe and Ito (2008), for the same reason
COLUMNS = ("input", "visible", "reconstruction", "absolute difference")
WAVELENGTH_TICKS_UM = (0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0, 1.2, 1.6, 2.2, 3, 4, 6, 8, 12)
LONGEST_OPTICAL_UM = 100.0  # radar wavelengths are far longer, and its bands form no spectrum


@dataclass(frozen=True)
class TilePicture:
    """A tile, its visible pixels and its reconstruction, in physical units.

    `visible_HW` is true where the model saw the pixel, `valid_CHW` where the true value is known.
    """

    tile_id: str
    truth_CHW: FloatArray
    visible_HW: Mask
    reconstruction_CHW: FloatArray
    valid_CHW: Mask

    @property
    def hidden_rmse(self) -> float:
        """Root mean square error over the hidden valid pixels of all bands; NaN where there are none."""
        counted_CHW = self.valid_CHW & ~self.visible_HW
        error = self.reconstruction_CHW[counted_CHW].astype(np.float64) - self.truth_CHW[counted_CHW]
        return float(np.sqrt(np.mean(error**2))) if error.size else float("nan")

    def difference_HW(self, indices: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Return the mean absolute difference over these bands (H, W); NaN where one of them is invalid."""
        chosen = list(indices)
        valid_CHW = self.valid_CHW[chosen]
        truth_CHW = np.where(valid_CHW, self.truth_CHW[chosen], np.nan).astype(np.float64)
        difference_HW: npt.NDArray[np.float64] = np.abs(self.reconstruction_CHW[chosen] - truth_CHW).mean(axis=0)
        return difference_HW


def reconstruction_panel(
    path: Path, *, tiles: Sequence[TilePicture], bands: Sequence[Band], unit: str, title: str
) -> None:
    """Publish a picture (PNG) of reconstructions: one row per tile, at most 8, and four columns per composite.

    All pictures of a tile share the stretch of its valid pixels; all differences share one scale.
    """
    tiles = tiles[:MOST_ROWS]
    triples = composites(bands)
    known = np.concatenate([tile.difference_HW(indices).ravel() for tile in tiles for indices in triples.values()])
    known = known[np.isfinite(known)]
    limit = (float(np.percentile(known, 99)) if known.size else 0.0) or 1.0

    side, gap, label, head, foot = 1.4, 0.06, 1.8, 1.1, 0.72
    group = 4 * (side + gap) + 0.25
    figure = Figure(figsize=(label + len(triples) * group + 0.85, head + len(tiles) * (side + gap) + foot))
    add_title(figure, title)
    for number, (composite, indices) in enumerate(triples.items()):
        left = label + number * group
        add_text(figure, left, 0.6, describe_composite(composite, indices, bands), size=10)
        for row, tile in enumerate(tiles):
            for column, picture in enumerate([*_pictures(tile, indices), tile.difference_HW(indices)]):
                place = (left + column * (side + gap), head + row * (side + gap))
                axes = add_picture_axes(figure, *place, side, side)
                drawn = axes.imshow(picture, cmap=_difference_map(), vmin=0, vmax=limit, interpolation="nearest")
                if row == 0:
                    axes.set_title(COLUMNS[column], fontsize=9, pad=4)
    for row, tile in enumerate(tiles):
        text = f"{_wrapped(tile.tile_id)}\n{_score(tile, unit)}"
        add_text(figure, 0.15, head + row * (side + gap) + 0.1, text, size=8)
    if tiles:
        scale = add_axes(
            figure, label + len(triples) * group - 0.1, head, 0.14, min(len(tiles), 3) * (side + gap) - gap
        )
        figure.colorbar(drawn, cax=scale, extend="max").set_label(f"difference, {plain_unit(unit)}", size=8)
        scale.tick_params(labelsize=8)
    bottom = head + len(tiles) * (side + gap) + 0.1
    add_text(figure, 0.15, bottom, _caption(), size=8)
    save(figure, path)


def contact_sheet(
    path: Path,
    tiles: Sequence[tuple[str, FloatArray, Mask]],
    bands: Sequence[Band],
    unit: str,
    title: str,
    marks: Sequence[Sequence[LabelMark]] = (),
) -> None:
    """Publish a picture (PNG) of at most 36 tiles `(title, pixels_CHW, valid_CHW)`, with their spectrum below.

    The tiles are drawn once for each of `composites`: in true colour and, below, in false colour. All tiles share one
    stretch, so that they can be compared. `marks` (labels) are drawn over the tiles.
    """
    tiles = tiles[:MOST_TILES]
    colours_of = class_colours(marks)
    drawn = composites(bands)
    head, heading = 1.2 if any(marks) else 0.95, 0.47
    columns = min(max(len(tiles), 4), 6)
    grid = -(-len(tiles) // columns) * ROW
    blocks = len(drawn) * grid + (len(drawn) - 1) * heading
    figure = Figure(figsize=(0.3 + columns * COLUMN, head + blocks + 3.9))
    add_title(figure, title)
    if any(marks):
        marks_legend(figure, 0.72, colours_of)
    stored = [pixels_CHW for _, pixels_CHW, _ in tiles], [valid_CHW for _, _, valid_CHW in tiles]
    limits = stretch_limits(*stored, fenced=True) if tiles else None
    for number, (composite, indices) in enumerate(drawn.items()):
        top = head + number * (grid + heading)
        note = "" if number else "; one stretch for all tiles, dark values raised; beige: invalid"
        at = top - heading if number else 0.48
        add_text(figure, 0.15, at, f"{describe_composite(composite, indices, bands)}{note}", size=9)
        if limits is None:
            continue
        for place, axes in enumerate(_tile_pictures(figure, tiles, indices, limits, top, columns)):
            if place < len(marks):
                draw_marks(axes, marks[place], colours_of, tiles[place][1].shape[-1])
    if tiles:
        axes = add_axes(figure, 0.85, head + blocks + 0.75, columns * COLUMN - 0.85, 2.5)
        _spectrum(axes, *stored, bands)
        axes.set_ylabel(f"{plain_unit(unit)}, mean ± standard deviation", fontsize=9)
    save(figure, path)


def _tile_pictures(
    figure: Figure,
    tiles: Sequence[tuple[str, FloatArray, Mask]],
    indices: tuple[int, int, int],
    limits: tuple[FloatArray, FloatArray],
    top: float,
    columns: int,
) -> list[Axes]:
    """Draw the tiles of a contact sheet in rows that begin `top` inches below its upper edge; returns their axes."""
    drawn = []
    for number, (name, pixels_CHW, valid_CHW) in enumerate(tiles):
        row, column = divmod(number, columns)
        axes = add_picture_axes(figure, 0.15 + column * COLUMN, top + row * ROW, SIDE, SIDE)
        axes.imshow(to_rgb(pixels_CHW, valid_CHW, indices, *limits, INVALID_COLOUR, GAMMA), interpolation="nearest")
        axes.set_title(shorten(name, 24), fontsize=7, pad=3, parse_math=False)
        drawn.append(axes)
    return drawn


def band_places(bands: Sequence[Band]) -> FloatArray:
    """Return the positions of bands on an axis: wavelengths in micrometres, or 0, 1, ... where one is not optical."""
    optical = is_optical(bands)
    return np.array([one.wavelength_um if optical else number for number, one in enumerate(bands)], dtype=np.float64)


def is_optical(bands: Sequence[Band]) -> bool:
    """Whether all bands, given in the order of their wavelengths, are optical."""
    return bands[-1].wavelength_um < LONGEST_OPTICAL_UM


def wavelength_axis(axes: Axes, place_C: FloatArray, bands: Sequence[Band], *, named: bool) -> None:
    """Set up the horizontal axis: wavelengths, or band names where bands are not optical.

    With `named`, a line of text below lists the optical bands with their wavelengths.
    """
    plain_axes(axes)
    if not is_optical(bands):
        axes.set_xticks(place_C, [band.name for band in bands])
        return
    _wavelength_ticks(axes, place_C)
    if named:
        axes.set_xlabel("wavelength, µm", fontsize=9)
        names = ", ".join(f"{band.name} {band.wavelength_um:.3g}" for band in bands)
        add_text(axes.figure, 0.15, 5.85, f"Bands by wavelength, µm: {names}", size=8)  # type: ignore[arg-type]


def plain_axes(axes: Axes) -> None:
    """Give axes small tick labels and a light grid, and remove the frame above and to the right."""
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def plain_unit(unit: str) -> str:
    """Return a unit with spaces in place of underscores."""
    return unit.replace("_", " ")


def _pictures(tile: TilePicture, indices: tuple[int, int, int]) -> list[npt.NDArray[np.float64]]:
    """Return the tile, its visible part and its reconstruction as pictures (H, W, 3), with one stretch."""
    limits = stretch_limits(tile.truth_CHW, tile.valid_CHW)
    truth = to_rgb(tile.truth_CHW, tile.valid_CHW, indices, *limits, INVALID_COLOUR)
    visible = np.where(tile.visible_HW[..., None], truth, HIDDEN_COLOUR)
    everywhere_CHW = np.ones_like(tile.valid_CHW)  # a model also predicts pixels whose true value is unknown
    return [truth, visible, to_rgb(tile.reconstruction_CHW, everywhere_CHW, indices, *limits, INVALID_COLOUR)]


def _spectrum(axes: Axes, pixels: Sequence[FloatArray], valid: Sequence[Mask], bands: Sequence[Band]) -> None:
    """Draw mean and standard deviation of each band over all valid pixels, against wavelength if bands are optical."""
    order = sorted(range(len(bands)), key=lambda band: bands[band].wavelength_um)
    known = [
        np.concatenate([tile[band][mask[band]] for tile, mask in zip(pixels, valid, strict=True)]) for band in order
    ]
    values = [one.astype(np.float64) if one.size else np.array([np.nan]) for one in known]
    mean, deviation = np.array([one.mean() for one in values]), np.array([one.std() for one in values])
    ordered = [bands[band] for band in order]
    names, optical, place = [band.name for band in ordered], is_optical(ordered), band_places(ordered)
    line = {"linewidth": 1.2} if optical else {"linestyle": "none"}
    axes.errorbar(place, mean, deviation, color=BLUE, marker="o", markersize=4, capsize=2.5, **line)
    axes.set_xlabel("wavelength, µm" if optical else "band", fontsize=9)
    plain_axes(axes)
    if not optical:
        axes.set_xticks(place, names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        return
    _wavelength_ticks(axes, place)
    _name_points(axes, place, names)


def _wavelength_ticks(axes: Axes, place_C: FloatArray) -> None:
    """Make a logarithmic axis of wavelengths: visible bands are close together, infrared ones far apart."""
    low, high = place_C[0] * 0.94, place_C[-1] * 1.06
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in WAVELENGTH_TICKS_UM if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _name_points(axes: Axes, place: FloatArray, names: Sequence[str]) -> None:
    """Write band names above the axes, spaced out where bands are close, each with a line to its wavelength."""
    low, high = np.log(axes.get_xlim())
    spots = space_out(((np.log(place) - low) / (high - low)).tolist(), 0.024)
    for x, spot, name in zip(place, spots, names, strict=True):
        axes.annotate(
            *(name, (x, 1.0)), xytext=(spot, 1.08), xycoords=axes.get_xaxis_transform(), textcoords="axes fraction",
            fontsize=7, rotation=90, ha="center", va="bottom", parse_math=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def _difference_map() -> Colormap:
    return colormaps[DIFFERENCE_MAP].with_extremes(bad=INVALID_COLOUR)


def _caption() -> str:
    return (
        "Each tile is stretched between the 2nd and 98th percentile of its valid pixels, the same in its first three"
        " columns.\n"
        "Grey: hidden from the model. Beige: invalid, not scored. Visible patches are copied from the input.\n"
        "The difference is averaged over the bands shown; the RMSE is that of hidden pixels over all bands."
    )


def _wrapped(text: str) -> str:
    text = shorten(text, 66)
    return "\n".join(text[begin : begin + 22] for begin in range(0, len(text), 22))


def _score(tile: TilePicture, unit: str) -> str:
    rmse = tile.hidden_rmse
    return "no hidden valid pixel" if np.isnan(rmse) else f"RMSE of hidden pixels\n{rmse:.3g} {plain_unit(unit)}"
