"""The picture of a fine-tuning: example tiles with truth, prediction and error.

C bands, H W pixels
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from geomae.reports.canvas import (
    add_picture_axes,
    add_text,
    add_title,
    composites,
    save,
    shorten,
    stretch_limits,
    to_rgb,
)
from geomae.reports.figures import ORANGE
from geomae.sensors import Band

GREY = (0.8, 0.8, 0.8)
KEY_WIDTH, KEY_HEIGHT = 1.3, 0.17  # inches of a name in the key of the colours


@dataclass(frozen=True)
class Example:
    """A tile with its truth and prediction: a class, a number, or classes of pixels (H, W); and its error, `wrong`."""

    tile_id: str
    pixels_CHW: NDArray[np.float32]
    valid_CHW: NDArray[np.bool_]
    truth: Any
    predicted: Any
    wrong: float


def examples_picture(
    path: Path, examples: Sequence[Example], bands: Sequence[Band], classes: Sequence[str], *, title: str,
    colours: Sequence[str] = (),
) -> None:  # fmt: skip
    """Publish a picture (PNG) with one row per tile.

    Classes of pixels are shown as pictures, with a picture of wrong pixels; classes of tiles, and numbers, as text.
    """
    (composite, indices), *_ = composites(bands).items()
    low_C, high_C = stretch_limits([one.pixels_CHW for one in examples], [one.valid_CHW for one in examples])
    of_pixels = np.ndim(examples[0].truth) == 2
    side, gap, head, label = 1.4, 0.08, 0.95, 3.0
    pictures = 4 if of_pixels else 1
    across = max(0.15 + pictures * (side + gap) + label, 6.0)
    columns = int(across // KEY_WIDTH)
    head += KEY_HEIGHT * (len(classes) // columns) if of_pixels else 0.0  # one row of the key has room
    figure = Figure(figsize=(across, head + len(examples) * (side + gap) + 0.1))
    add_title(figure, title)
    if of_pixels:
        _add_key(figure, classes, colours, columns)
    for row, one in enumerate(examples):
        top = head + row * (side + gap)
        shown = [to_rgb(one.pixels_CHW, one.valid_CHW, indices, low_C, high_C, GREY)]
        if of_pixels:
            shown += [_coloured(codes, colours) for codes in (one.truth, np.where(one.truth < 0, -1, one.predicted))]
        axes: list[Axes] = []
        for column, picture in enumerate(shown):
            axes.append(add_picture_axes(figure, 0.15 + column * (side + gap), top, side, side))
            axes[-1].imshow(picture, interpolation="nearest")
        if of_pixels:
            axes.append(add_picture_axes(figure, 0.15 + 3 * (side + gap), top, side, side))
            wrong_HW = np.where(one.truth < 0, 0.5, (one.truth != one.predicted).astype(float))
            axes[-1].imshow(wrong_HW, cmap=ListedColormap(["white", "0.8", ORANGE]), vmin=0, vmax=1)
        if row == 0:
            names = [composite, "truth", "predicted", "wrong"] if of_pixels else [composite]
            for place, name in zip(axes, names, strict=True):
                place.set_title(name, fontsize=8, pad=3)
        add_text(figure, 0.25 + pictures * (side + gap), top + 0.1, _caption(one, classes), size=8)
    save(figure, path)


def _add_key(figure: Figure, classes: Sequence[str], colours: Sequence[str], columns: int) -> None:
    """Add the colours of the classes, and of pixels without a label, below the title."""
    named: list[tuple[str, Any]] = [*zip(classes, colours, strict=True), ("no label", GREY)]
    handles = [
        Patch(facecolor=colour, edgecolor="0.4", linewidth=0.5, label=shorten(name, 16)) for name, colour in named
    ]
    across, down = figure.get_size_inches()
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.1 / across, 1 - 0.45 / down), ncols=columns, fontsize=8,
        frameon=False, handlelength=1.2, borderpad=0,
    )  # fmt: skip


def _coloured(codes_HW: NDArray[Any], colours: Sequence[str]) -> NDArray[np.float64]:
    """Return a picture (H, W, 3) of classes in their colours; unlabelled pixels are grey."""
    table = np.array([GREY, *([int(one[i : i + 2], 16) / 255 for i in (1, 3, 5)] for one in colours)])
    return np.asarray(table[codes_HW.astype(np.int64) + 1])


def _caption(one: Example, classes: Sequence[str]) -> str:
    name = shorten(one.tile_id, 40)
    if np.ndim(one.truth) == 2:
        there = [classes[code] for code in np.unique(one.truth[one.truth >= 0]).tolist()]
        return f"{name}\n{one.wrong:.0%} of the labelled pixels are wrong\n" + "\n".join(
            shorten(text, 40) for text in there[:5]
        )
    if not classes:
        return f"{name}\ntruth {one.truth:.4g}\npredicted {one.predicted:.4g}"
    right = "right" if one.truth == one.predicted else "wrong"
    return f"{name}\ntruth: {classes[int(one.truth)]}\npredicted: {classes[int(one.predicted)]} ({right})"
