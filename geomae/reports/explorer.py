"""The tiles that the interactive plot shows: a sample, with their pictures and what is known of them.

T tiles, C bands, H W pixels
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

from geomae.encoders.extraction import EncoderTiles
from geomae.evaluation.pca import Floats
from geomae.randomness import generator
from geomae.reports.canvas import composites, stretch_limits, to_rgb
from geomae.reports.figures import GAMMA, INVALID_COLOUR
from geomae.reports.page import Html, data_uri, render
from geomae.reports.pca_figures import Coloured
from geomae.tiles.batches import TileReader

DIGITS = 4  # of a score; a screen shows no more
MOST_TILES = 2000
PICTURE_PX = 40  # side of a picture, at most


@dataclass(frozen=True)
class ExplorerData:
    """Tiles to explore: their scores, their columns, what is said of each, and their pictures (T, H, W, 3), 0 to 1.

    The tiles from `len(texts)` on have no text and no picture: they are drawn lightly behind the others.
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
    """What the plot shows of tiles: those of `parts`, of which it shows at most 2000, and behind them of the rest."""
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
    """The interactive part of a page; one of a kind, in vanilla JavaScript, with all data inside."""
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
    """Pictures of one size as one PNG, `across` in a row, without gaps."""
    count, height, width, _ = pictures_THW3.shape
    sheet = np.zeros((max(-(-count // across), 1), across, height, width, 3), dtype=np.uint8)
    rows, cols = np.divmod(np.arange(count), across)
    sheet[rows, cols] = np.round(255 * np.clip(pictures_THW3, 0, 1))
    pixels = sheet.transpose(0, 2, 1, 3, 4).reshape(sheet.shape[0] * height, across * width, 3)
    png = io.BytesIO()
    imsave(png, pixels, format="png", metadata={"Software": "geomae"})
    return png.getvalue()


def sample(count: int, seed: int) -> NDArray[np.int64]:
    """At most 2000 of the numbers from 0; in an order drawn by the seed, so that no label lies on top of all others."""
    return generator(seed, "explored tiles").permutation(count)[:MOST_TILES]


def _pictures(parts: Sequence[EncoderTiles], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pictures (T, side, side, 3) of tiles, numbered through all parts; one stretch per data set: they compare."""
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
        limits = stretch_limits([pixels_CHW for _, pixels_CHW, _ in shown], [valid_CHW for *_, valid_CHW in shown])
        for place, pixels_CHW, valid_CHW in shown:
            pictures[place] = to_rgb(pixels_CHW, valid_CHW, (0, 1, 2), *limits, INVALID_COLOUR, GAMMA)
    return pictures


def _read(part: EncoderTiles, positions: NDArray[np.int64], side: int) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """Red, green and blue of tiles: every so manieth pixel, or every pixel several times, to `side` of them."""
    bands = part.index.source.bands
    indices = next(iter(composites(bands).values()))
    reader = TileReader(part.index, 0, [bands[index].name for index in indices])
    for position in positions.tolist():
        pixels_CHW, valid_CHW = reader.read(position)
        nearest = np.arange(side) * pixels_CHW.shape[1] // side
        yield pixels_CHW[:, nearest[:, None], nearest], valid_CHW[:, nearest[:, None], nearest]
