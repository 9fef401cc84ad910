"""Confusion matrices as a picture.

K classes
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten

COLOURS = "Blues"
MOST_NUMBERS = 12  # classes up to which every cell shows its share


def confusion_picture(
    path: Path, matrices: Sequence[tuple[str, NDArray[np.float64]]], names: Sequence[str], *, title: str, unit: str
) -> None:
    """Publish a picture (PNG) of confusions `(title, counts_KK)`, rows of truth, columns of what was predicted.

    Cells show the share of the row, the names how many `unit` (tiles, pixels) a class has.
    """
    classes = len(names)
    side = float(np.clip(0.55 * classes, 1.8, 7.0))
    left, head, gap, foot = (
        0.3 + 0.085 * min(max(map(len, names)), 18) + 0.55,
        1.05,
        0.35,
        0.45 + 0.06 * min(max(map(len, names)), 18),
    )
    across = max(len(matrices) * (left + side + gap) + 0.2, 6.0)
    figure = Figure(figsize=(across, head + side + foot))
    add_title(figure, title)
    for number, (name, counts_KK) in enumerate(matrices):
        begin = 0.1 + number * (left + side + gap)
        add_text(figure, begin + 0.05, head - 0.42, shorten(name, int((left + side) * 12)), size=9)
        _matrix(add_axes(figure, begin + left, head, side, side), counts_KK, names, unit)
    save(figure, path)


def _matrix(axes: Axes, counts_KK: NDArray[np.float64], names: Sequence[str], unit: str) -> None:
    truth_K = counts_KK.sum(1)
    share_KK = counts_KK / np.where(truth_K > 0, truth_K, 1)[:, None]
    axes.imshow(share_KK, cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest")
    places = range(len(names))
    short = [shorten(name, 18) for name in names]
    rows = [f"{name}\n{count:,.0f}" for name, count in zip(short, truth_K, strict=True)]
    axes.set_xticks(places, short, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(places, rows, parse_math=False)
    axes.tick_params(labelsize=8, length=0)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel(f"truth ({unit})", fontsize=9)
    if len(names) > MOST_NUMBERS:
        return
    for row in places:
        for column in places:
            share = share_KK[row, column]
            text = f"{share:.2f}" if truth_K[row] > 0 else "–"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "0.2")
