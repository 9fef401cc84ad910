"""The tiles that the interactive plot shows: a sample, with their pictures and what is known of them.

T tiles, C bands, H W pixels
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.pca import Floats
from geomae.encoders.parts import Part
from geomae.randomness import generator
from geomae.reports.explorer import Explored
from geomae.reports.figures import GAMMA, INVALID_COLOUR
from geomae.reports.palette import Coloured
from geomae.reports.stretch import composites, stretch_limits, to_rgb
from geomae.tiles.reader import TileReader

MOST_TILES = 2000
PICTURE_PX = 40  # side of a picture, at most


def explored(
    parts: Sequence[Part],
    columns: Mapping[str, NDArray[np.str_]],
    coloured: Sequence[Coloured],
    scores_TK: Floats,
    share_K: NDArray[np.float64],
    seed: int,
) -> Explored:
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
    return Explored(scores_TK[every], chosen, texts, _pictures(parts, rows), share_K)


def sample(count: int, seed: int) -> NDArray[np.int64]:
    """At most 2000 of the numbers from 0; in an order drawn by the seed, so that no label lies on top of all others."""
    return generator(seed, "explored tiles").permutation(count)[:MOST_TILES]


def _pictures(parts: Sequence[Part], rows: NDArray[np.int64]) -> NDArray[np.float64]:
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


def _read(part: Part, positions: NDArray[np.int64], side: int) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """Red, green and blue of tiles: every so manieth pixel, or every pixel several times, to `side` of them."""
    bands = part.index.source.bands
    indices = next(iter(composites(bands).values()))
    reader = TileReader(part.index, 0, [bands[index].name for index in indices])
    for position in positions.tolist():
        pixels_CHW, valid_CHW = reader.read(position)
        nearest = np.arange(side) * pixels_CHW.shape[1] // side
        yield pixels_CHW[:, nearest[:, None], nearest], valid_CHW[:, nearest[:, None], nearest]
