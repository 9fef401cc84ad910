"""Pictures of principal components: a scree plot, scatter plots of tiles, and an interactive plot.

T tiles, C bands, H W pixels, K components
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from geomae.encoders.extraction import EncoderTiles
from geomae.evaluation.pca import Floats
from geomae.randomness import generator
from geomae.reports.canvas import (
    COLOURS,
    REST_COLOUR,
    add_axes,
    add_text,
    add_title,
    composites,
    save,
    shorten,
    stretch_limits,
    to_rgb,
)
from geomae.reports.figures import BLUE, DIFFERENCE_MAP, GAMMA, INVALID_COLOUR, ORANGE
from geomae.reports.page import Html, data_uri, render
from geomae.tiles.census import label_range
from geomae.tiles.reader import TileReader

SHAPES = ("circle", "triangle", "square", "diamond", "wedge", "plus")
MOST = 12  # largest number of values with their own colour and shape
OTHER, NONE = "other", "none"
LABEL = "label"  # the only column whose numbers are measurements; in other columns numbers are names, as of groups
RANGES = 8  # number of ranges into which measurements are divided
LEAST_SHOWN = 16
MARKERS = {"circle": "o", "triangle": "^", "square": "s", "diamond": "D", "wedge": "v", "plus": "P"}
MOST_POINTS = 20_000  # more do not make the picture clearer
EDGES = (0.05, 99.95)  # percentiles that limit the axes, to which MARGIN is added
MARGIN = 0.08


DIGITS = 4  # significant digits of a score, enough for a screen
MOST_TILES = 2000
PICTURE_PX = 40  # side of a picture, at most


@dataclass(frozen=True)
class Style:
    """The name, colour and shape of a value in a plot, and its number of tiles."""

    name: str
    colour: str
    shape: str
    count: int


@dataclass(frozen=True)
class Coloured:
    """A column of tiles: the styles of its values, in alphabetical or numerical order, and each tile's style (T)."""

    title: str
    styles: tuple[Style, ...]
    style_T: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> "Coloured":
        """Return the column of some tiles, with the same styles."""
        return replace(self, style_T=self.style_T[rows])


def colour(title: str, values_T: NDArray[np.str_]) -> Coloured:
    """Assign a colour and a shape to each value. Rare values beyond 12 become `other`, empty ones `none`.

    Labels that are measurements are divided into ranges with about equally many tiles, from dark (low) to light (high).
    """
    if title == LABEL and label_range(values_T[values_T != ""]) is not None:
        return _colour_numbers(title, values_T)
    values, value_T, count = np.unique(values_T, return_inverse=True, return_counts=True)
    named = np.flatnonzero(values != "")
    common = named[np.argsort(-count[named], kind="stable")]
    shown = np.sort(common if len(common) <= MOST else common[: MOST - 1]).tolist()
    rare = sorted(set(named.tolist()) - set(shown))
    styles = [
        Style(str(values[value]), COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)], int(count[value]))
        for place, value in enumerate(shown)
    ]
    style_of = np.full(len(values), len(shown), dtype=np.int64)
    style_of[shown] = np.arange(len(shown))
    if rare:
        styles.append(Style(f"{OTHER} ({len(rare)})", REST_COLOUR, "circle", int(count[rare].sum())))
    if len(named) < len(values):
        style_of[values == ""] = len(styles)
        styles.append(Style(NONE, REST_COLOUR, "square", int(count[values == ""].sum())))
    return Coloured(title, tuple(styles), style_of[value_T])


def _colour_numbers(title: str, values_T: NDArray[np.str_]) -> Coloured:
    known_T = values_T != ""
    numbers = values_T[known_T].astype(np.float64)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, RANGES + 1)))
    count = len(edges) - 1
    style_T = np.full(len(values_T), count, dtype=np.int64)
    style_T[known_T] = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, count - 1)
    shades = [to_hex(colormaps[DIFFERENCE_MAP](place / max(count - 1, 1))) for place in range(count)]
    styles = [
        Style(f"{edges[place]:.3g} to {edges[place + 1]:.3g}", shade, "circle", int((style_T == place).sum()))
        for place, shade in enumerate(shades)
    ]
    if not known_T.all():
        styles.append(Style(NONE, REST_COLOUR, "square", int((~known_T).sum())))
    return Coloured(title, tuple(styles), style_T)


def colour_columns(columns: Mapping[str, NDArray[np.str_]]) -> tuple[Coloured, ...]:
    """Return the columns in which tiles differ, with styles; where there is none, the first column."""
    varying = {title: values_T for title, values_T in columns.items() if len(np.unique(values_T)) > 1}
    first = dict(list(columns.items())[:1])
    return tuple(colour(title, values_T) for title, values_T in (varying or first).items())


def pca_scree(path: Path, share_D: NDArray[np.float64], kept: int, effective_rank: float, *, title: str) -> None:
    """Publish a scree plot (PNG): the fraction of variance of the first components, single and cumulative.

    `share_D` holds the fractions of all components, of which the first `kept` were kept.
    """
    shown = min(len(share_D), max(2 * kept, LEAST_SHOWN))
    number = np.arange(1, shown + 1)
    figure = Figure(figsize=(10.2, 4.3))
    add_title(figure, title)
    axes = add_axes(figure, 0.8, 0.75, 4.1, 2.75)
    axes.bar(number, 100 * share_D[:shown], color=[BLUE if one <= kept else "#b9c3cd" for one in number])
    axes.set_ylabel("share of variance, %", fontsize=9)
    together = add_axes(figure, 5.75, 0.75, 4.1, 2.75)
    together.plot(number, 100 * np.cumsum(share_D)[:shown], color=ORANGE, marker="o", markersize=3.5, linewidth=1.5)
    together.set_ylabel("cumulative share, %", fontsize=9)
    together.set_ylim(0, 103)
    for one in (axes, together):
        one.set_xlabel("component", fontsize=9)
        one.set_xlim(0.4, shown + 0.6)
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
        one.tick_params(labelsize=8)
        one.grid(alpha=0.3, axis="y" if one is axes else "both")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    which = "" if kept >= shown else f"; blue: the {kept} that are kept"
    caption = (
        f"The first {shown} of {len(share_D)} components{which}. "
        f"Effective rank {effective_rank:.1f} of {len(share_D)}: the exponential of the entropy of all shares."
    )
    add_text(figure, 0.15, 3.98, caption, size=8)
    save(figure, path)


def pca_scatter(
    path: Path,
    scores_TK: NDArray[np.float32],
    columns: Sequence[Coloured],
    share_K: NDArray[np.float64],
    *,
    title: str,
    caption: str,
    behind_T: NDArray[np.bool_] | None = None,
) -> None:
    """Publish scatter plots (PNG): one row per column, with components 1 and 2 and, if kept, 3 and 4.

    `share_K` is each component's fraction of the variance. Tiles in `behind_T` are drawn lightly behind the others.
    At most 20,000 tiles are drawn, always the same.
    """
    pairs = [(first, first + 1) for first in (0, 2) if first + 1 < scores_TK.shape[1]] or [(0, 0)]
    order = generator(0, "scatter").permutation(len(scores_TK))[:MOST_POINTS]  # so that no value covers all others
    behind_T = np.zeros(len(scores_TK), dtype=np.bool_) if behind_T is None else behind_T
    side, gap, left, head, foot, legend = 3.55, 0.75, 0.75, 0.75, 0.75, 2.1
    figure = Figure(figsize=(left + len(pairs) * (side + gap) + legend, head + len(columns) * (side + gap) + foot))
    add_title(figure, title)
    for row, column in enumerate(columns):
        top = head + row * (side + gap)
        for number, (across, up) in enumerate(pairs):
            axes = add_axes(figure, left + number * (side + gap), top, side, side)
            for light in (True, False):
                _points(axes, scores_TK[:, [across, up]], column, order[behind_T[order] == light], light=light)
            for set_limits, label, one in (
                (axes.set_xlim, axes.set_xlabel, across),
                (axes.set_ylim, axes.set_ylabel, up),
            ):
                set_limits(*_limits(scores_TK[:, one]))
                label(f"component {one + 1} ({share_K[one]:.1%} of variance)", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        _legend(figure, left + len(pairs) * (side + gap) - 0.25, top, column)
    add_text(figure, 0.15, head + len(columns) * (side + gap) + 0.1, caption, size=8)
    save(figure, path)


def _points(
    axes: Axes, place_T2: NDArray[np.float32], column: Coloured, order: NDArray[np.int64], *, light: bool
) -> None:
    """Draw points in a fixed random order and in eight rounds, so that no shape always covers the others."""
    crowd = max(len(order), 1)
    size = float(np.clip(12_000 / crowd, 5, 26))
    drawn: dict[str, Any] = (
        {"alpha": 0.18, "linewidths": 0.0} if light else {"alpha": 0.75, "linewidths": 0.3, "edgecolors": "white"}
    )
    for part in np.array_split(order, 8):
        for number, style in enumerate(column.styles):
            chosen = part[column.style_T[part] == number]
            if len(chosen):
                x, y = place_T2[chosen].T
                axes.scatter(x, y, s=size, c=style.colour, marker=MARKERS[style.shape], **drawn)


def _limits(values_T: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(values_T, EDGES)
    room = MARGIN * (high - low) or 0.5
    return float(low - room), float(high + room)


def _legend(figure: Figure, left: float, top: float, column: Coloured) -> None:
    add_text(figure, left, top, column.title, size=10, weight="bold")
    across, down = figure.get_size_inches()
    handles = [
        Line2D([], [], linestyle="none", marker=MARKERS[style.shape], color=style.colour, markersize=6)
        for style in column.styles
    ]
    legend = figure.legend(
        handles,
        [f"{shorten(style.name, 22)}  {style.count:,}" for style in column.styles],
        loc="upper left",
        bbox_to_anchor=((left - 0.1) / across, 1 - (top + 0.16) / down),
        frameon=False,
        fontsize=8.5,
        handletextpad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


@dataclass(frozen=True)
class ExplorerData:
    """Data of the interactive plot: scores, columns, texts (lines per tile) and pictures (T, H, W, 3), 0 to 1.

    Tiles beyond `len(texts)` have no text and no picture: they are drawn lightly behind the others.
    """

    scores_TK: NDArray[np.float32]
    columns: Sequence[Coloured]
    texts: Sequence[Sequence[str]]
    pictures: NDArray[np.float64]
    share_K: NDArray[np.float64]


def explorer_data(
    parts: Sequence[EncoderTiles],
    columns: Mapping[str, NDArray[np.str_]],
    coloured: Sequence[Coloured],
    scores_TK: Floats,
    share_K: NDArray[np.float64],
    seed: int,
) -> ExplorerData:
    """Return the data of the interactive plot: at most 2000 tiles of `parts`, and behind them as many of the others."""
    mine = sum(len(part.index) for part in parts)
    rows = sample(mine, seed)
    behind = mine + sample(len(scores_TK) - mine, seed)
    every = np.concatenate([rows, behind])
    ids = np.concatenate([part.index.tiles["tile_id"].to_numpy() for part in parts])[rows]
    known = {title: values_T[rows] for title, values_T in columns.items()}
    texts = [
        [str(tile_id), *(f"{title}: {values_T[row]}" for title, values_T in known.items() if values_T[row])]
        for row, tile_id in enumerate(ids)
    ]
    chosen = [one.take(every) for one in coloured]
    return ExplorerData(scores_TK[every], chosen, texts, _pictures(parts, rows), share_K)


def explorer(shown: ExplorerData) -> Html:
    """Return the interactive plot as a part of a page, in plain JavaScript with all data inside; one per page."""
    across = max(math.ceil(math.sqrt(len(shown.pictures))), 1)
    data: dict[str, Any] = {
        "axes": [f"component {k + 1} ({share:.1%} of variance)" for k, share in enumerate(shown.share_K)],
        "scores": [[float(f"{value:.{DIGITS}g}") for value in scores_K] for scores_K in shown.scores_TK.tolist()],
        "columns": [
            {
                "title": column.title,
                "styles": [{"name": one.name, "colour": one.colour, "shape": one.shape} for one in column.styles],
                "style": column.style_T.tolist(),
            }
            for column in shown.columns
        ],
        "texts": shown.texts,
        "side": shown.pictures.shape[1],
        "across": across,
    }
    return Html(render("explorer.html", data=data, sheet=data_uri(contact_png(shown.pictures, across))))


def contact_png(pictures_THW3: NDArray[np.float64], across: int) -> bytes:
    """Return pictures of equal size as one PNG, `across` per row, without gaps."""
    count, height, width, _ = pictures_THW3.shape
    sheet = np.zeros((max(-(-count // across), 1), across, height, width, 3), dtype=np.uint8)
    rows, cols = np.divmod(np.arange(count), across)
    sheet[rows, cols] = np.round(255 * np.clip(pictures_THW3, 0, 1))
    pixels = sheet.transpose(0, 2, 1, 3, 4).reshape(sheet.shape[0] * height, across * width, 3)
    png = io.BytesIO()
    imsave(png, pixels, format="png", metadata={"Software": "geomae"})
    return png.getvalue()


def sample(count: int, seed: int) -> NDArray[np.int64]:
    """Draw at most 2000 of the numbers 0 to count - 1, in random order, so that no label covers all others."""
    return generator(seed, "explored tiles").permutation(count)[:MOST_TILES]


def _pictures(parts: Sequence[EncoderTiles], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return pictures (T, side, side, 3) of tiles, numbered across all parts, with one stretch per data set."""
    side = min(max(int(part.index.tiles["size"].max()) for part in parts), PICTURE_PX)
    pictures = np.zeros((len(rows), side, side, 3))
    first_P = np.cumsum([0, *(len(part.index) for part in parts)])
    for name in dict.fromkeys(part.index.name for part in parts):
        shown: list[tuple[int, Floats, NDArray[np.bool_]]] = []
        for number, part in enumerate(parts):
            if part.index.name == name:
                here = np.flatnonzero((rows >= first_P[number]) & (rows < first_P[number + 1]))
                shown += [
                    (place, *one)
                    for place, one in zip(here.tolist(), _read(part, rows[here] - first_P[number], side), strict=True)
                ]
        if not shown:
            continue
        stored = [pixels_CHW for _, pixels_CHW, _ in shown], [valid_CHW for *_, valid_CHW in shown]
        limits = stretch_limits(*stored, fenced=True)
        for place, pixels_CHW, valid_CHW in shown:
            pictures[place] = to_rgb(pixels_CHW, valid_CHW, (0, 1, 2), *limits, INVALID_COLOUR, GAMMA)
    return pictures


def _read(part: EncoderTiles, positions: NDArray[np.int64], side: int) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """Yield red, green and blue of tiles with their validity, resampled (nearest) to `side` x `side` pixels."""
    bands = part.index.source.bands
    indices = next(iter(composites(bands).values()))
    reader = TileReader(part.index, 0, [bands[index].name for index in indices])
    for position in positions.tolist():
        pixels_CHW, valid_CHW = reader.read(position)
        nearest = np.arange(side) * pixels_CHW.shape[1] // side
        yield pixels_CHW[:, nearest[:, None], nearest], valid_CHW[:, nearest[:, None], nearest]
