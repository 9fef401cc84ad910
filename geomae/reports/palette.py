"""How the values of a column look in a plot: colours that colour-blind people can tell apart, and shapes beside them.

T tiles
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# After Okabe and Ito (2008), without their yellow, which is faint on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1f24")
SHAPES = ("circle", "triangle", "square", "diamond", "wedge", "plus")
REST_COLOUR = "#8c959f"
MOST = 12  # values that are told apart
OTHER, NONE = "other", "none"


@dataclass(frozen=True)
class Style:
    """A value of a column as a plot shows it."""

    name: str
    colour: str
    shape: str
    count: int


@dataclass(frozen=True)
class Coloured:
    """A column: the styles of its values in alphabetical order, and which of them each tile has."""

    title: str
    styles: tuple[Style, ...]
    style_T: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> "Coloured":
        """The column of a choice of tiles, in the same styles."""
        return replace(self, style_T=self.style_T[rows])


def colour(title: str, values_T: NDArray[np.str_]) -> Coloured:
    """Give each value a colour and a shape; of more than 12 the rarer ones are one, `other`; empty ones are `none`."""
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


def colour_columns(columns: Mapping[str, NDArray[np.str_]]) -> tuple[Coloured, ...]:
    """The columns that tell tiles apart, coloured; where none does, the first, so that there is something to show."""
    telling = {title: values_T for title, values_T in columns.items() if len(np.unique(values_T)) > 1}
    first = dict(list(columns.items())[:1])
    return tuple(colour(title, values_T) for title, values_T in (telling or first).items())
