"""Common parts of all figures: placing axes and text on a sheet, and turning physical values into colours.

Lengths are in inches from the upper left corner of the sheet; there is no pyplot and no global state.

C bands, H W pixels
"""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from geomae.files import publish_file
from geomae.sensors import Band

FloatArray = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]

TRUE_COLOUR, FALSE_COLOUR, GREY = "true colour", "false colour", "grey"
CHOICES = {
    TRUE_COLOUR: [("red", "green", "blue")],
    FALSE_COLOUR: [
        (near_infrared, *others)
        for others in (("red", "green"), ("green", "blue"))  # the second for sensors without a red band
        for near_infrared in ("nir", "nir08")
    ]
    + [("swir16", near_infrared, "red") for near_infrared in ("nir", "nir08")],
}

# The palette of Okabe and Ito (2008), without its yellow, which is faint on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1f24")
REST_COLOUR = "#8c959f"
MOST_LINES = 3  # of a title

DPI = 110
FENCE = 3.0  # interquartile ranges beyond the quartiles, from where Tukey (1977) calls a value far out


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes with upper left corner (left, top) and size, all in inches."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def add_picture_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes without ticks and with a thin frame, placed as by `add_axes`."""
    axes = add_axes(figure, left, top, width, height)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="0.4")
    return axes


def add_text(figure: Figure, left: float, top: float, text: str, *, size: float = 9, weight: str = "normal") -> Text:
    """Add text with upper left corner (left, top), in inches. `$` is printed as it is, not read as mathematics."""
    across, down = figure.get_size_inches()
    return figure.text(
        *(left / across, 1 - top / down, text), fontsize=size, fontweight=weight, ha="left", va="top", parse_math=False
    )


def add_title(figure: Figure, title: str) -> None:
    """Add the title of the whole sheet, shortened to its width."""
    add_text(figure, 0.15, 0.15, shorten(title, int(figure.get_size_inches()[0] * 8.5)), size=13, weight="bold")


def panels(
    count: int, width: float, height: float, title: str, caption: str = "", *, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A sheet with `count` panels beside each other; width and height are in inches.

    With `share` the panels have one vertical axis, whose labels stand on the left.

    Long titles, as those with selectors, are broken into lines. matplotlib's constrained layout finds the room for
    title, labels, legends and caption.
    """
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    longest = int(width * 8.5)
    lines = textwrap.wrap(
        title, longest, break_on_hyphens=False, max_lines=MOST_LINES, placeholder="\N{HORIZONTAL ELLIPSIS}"
    )
    figure.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=13, fontweight="bold", parse_math=False)
    if caption:
        figure.supxlabel(caption, x=0.02, ha="left", fontsize=8, parse_math=False)
    return figure, list(figure.subplots(1, count, sharey=share, squeeze=False)[0])


def save(figure: Figure, path: Path) -> None:
    """Publish the figure as a PNG; equal figures give equal bytes."""
    with publish_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing")  # such letters of a name are drawn as boxes
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def shorten(text: str, longest: int) -> str:
    """Shorten a text to `longest` characters by leaving out its middle, since both ends of a tile's name matter."""
    if len(text) <= longest:
        return text
    end = (longest - 1) * 2 // 3
    return f"{text[: longest - 1 - end]}…{text[-end:]}"


def space_out(places: Sequence[float], distance: float) -> list[float]:
    """Move increasing positions as little as needed to be `distance` apart; each cluster keeps its mean position."""
    clusters: list[list[float]] = []
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and _begin(clusters[-1], distance) < _begin(clusters[-2], distance) + distance * len(
            clusters[-2]
        ):
            last = clusters.pop()
            clusters[-1] += last
    return [_begin(cluster, distance) + distance * number for cluster in clusters for number in range(len(cluster))]


def composites(bands: Sequence[Band]) -> dict[str, tuple[int, int, int]]:
    """Return, by title, the indices of the bands shown as red, green and blue: true colour and one false colour.

    Where the bands allow neither, the first band alone is shown in grey.
    """
    place: dict[str | None, int] = {}
    for index, band in enumerate(bands):
        place.setdefault(band.common_name, index)
    possible = {
        title: (place[names[0]], place[names[1]], place[names[2]])
        for title, choices in CHOICES.items()
        for names in [next((names for names in choices if all(name in place for name in names)), None)]
        if names is not None
    }
    return possible or {GREY: (0, 0, 0)}


def describe_composite(composite: str, indices: tuple[int, int, int], bands: Sequence[Band]) -> str:
    """Return the title of a composite with the names of its bands: `true colour (B04, B03, B02)`."""
    return f"{composite} ({', '.join(bands[index].name for index in dict.fromkeys(indices))})"


def stretch_limits(
    pixels: FloatArray | Sequence[FloatArray],
    valid: Mask | Sequence[Mask],
    percentiles: tuple[float, float] = (2, 98),
    *,
    fenced: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the values shown as black and as full colour, per band, `(low_C, high_C)`: percentiles of valid pixels.

    `pixels` is one tile (C, H, W), or several whose pixels are pooled; `valid` likewise. A band without valid pixels
    gets 0 and 1. In a band with a single value, that value lies in the middle. With `fenced`, limits are at most FENCE
    interquartile ranges outside the quartiles, so that clouds and saturated pixels do not make all else black.
    """
    tiles = [pixels] if isinstance(pixels, np.ndarray) else list(pixels)
    masks = [valid] if isinstance(valid, np.ndarray) else list(valid)
    limits = []
    for band in range(tiles[0].shape[0]):
        known = np.concatenate([tile[band][mask[band]] for tile, mask in zip(tiles, masks, strict=True)])
        known = known[np.isfinite(known)].astype(np.float64)
        low, high = np.percentile(known, percentiles) if known.size else (0.0, 1.0)
        if fenced and known.size:
            lower, upper = np.percentile(known, (25, 75))
            if upper > lower:  # else most of the band has one value, and all others would be cut off
                reach = FENCE * (upper - lower)
                low, high = max(low, lower - reach), min(high, upper + reach)
        if low == high:
            half = abs(low) / 2 or 0.5
            low, high = low - half, high + half
        limits.append((low, high))
    low_C, high_C = np.array(limits, dtype=np.float64).T
    return low_C, high_C


def to_rgb(
    pixels_CHW: FloatArray,
    valid_CHW: Mask,
    indices: tuple[int, int, int],
    low_C: FloatArray,
    high_C: FloatArray,
    invalid_colour: Colour,
    gamma: float = 1.0,
) -> npt.NDArray[np.float64]:
    """Return a picture (height, width, 3), 0 to 1. A pixel that is invalid in a shown band gets `invalid_colour`.

    A `gamma` above 1 brightens dark values and keeps black and full colour.
    """
    chosen = list(indices)
    with np.errstate(invalid="ignore", over="ignore"):  # invalid pixels may hold any value
        scaled = (pixels_CHW[chosen] - low_C[chosen, None, None]) / (high_C - low_C)[chosen, None, None]
    known_HW = (valid_CHW[chosen] & np.isfinite(scaled)).all(axis=0)
    picture = np.clip(np.moveaxis(np.nan_to_num(scaled), 0, -1), 0, 1).astype(np.float64) ** (1 / gamma)
    picture[~known_HW] = invalid_colour
    return picture


def _begin(cluster: Sequence[float], distance: float) -> float:
    return sum(cluster) / len(cluster) - distance * (len(cluster) - 1) / 2
