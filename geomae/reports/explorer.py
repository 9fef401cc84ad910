"""A plot of embeddings to explore in a browser: components to choose, and each tile's picture under the pointer.

T tiles, K components, H W pixels
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.image import imsave
from numpy.typing import NDArray

from geomae.reports.page import Html, data_uri
from geomae.reports.palette import Coloured

DIGITS = 4  # of a score; a screen shows no more


@dataclass(frozen=True)
class Explored:
    """Tiles to explore: their scores, their columns, what is said of each, and their pictures (T, H, W, 3), 0 to 1.

    The tiles from `len(texts)` on have no text and no picture: they are drawn lightly behind the others.
    """

    scores_TK: NDArray[np.float32]
    columns: Sequence[Coloured]
    texts: Sequence[Sequence[str]]
    pictures: NDArray[np.float64]
    share_K: NDArray[np.float64]


def explorer(explored: Explored) -> Html:
    """The interactive part of a page; one of a kind, in vanilla JavaScript, with all data inside."""
    across = max(math.ceil(math.sqrt(len(explored.pictures))), 1)
    data: dict[str, Any] = {
        "axes": [f"component {k + 1} ({share:.1%} of variance)" for k, share in enumerate(explored.share_K)],
        "scores": [[float(f"{value:.{DIGITS}g}") for value in scores_K] for scores_K in explored.scores_TK.tolist()],
        "columns": [
            {
                "title": column.title,
                "styles": [{"name": one.name, "colour": one.colour, "shape": one.shape} for one in column.styles],
                "style": column.style_T.tolist(),
            }
            for column in explored.columns
        ],
        "texts": explored.texts,
        "side": explored.pictures.shape[1],
        "across": across,
    }
    environment = Environment(loader=PackageLoader("geomae.reports"), autoescape=True, trim_blocks=True)
    sheet = data_uri(contact_png(explored.pictures, across))
    return Html(environment.get_template("explorer.html").render(data=data, sheet=sheet))


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
