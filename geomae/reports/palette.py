"""How the values of a column look in a plot: colours that colour-blind people can tell apart, and shapes beside them.

T tiles
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# After Okabe and Ito (2008), without their yellow, which is faint on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1f24")
SHAPES = ("circle", "triangle", "square", "diamond", "wedge", "plus")
REST_COLOUR, REST_SHAPE = "#8c959f", "circle"
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
    style_T: tuple[int, ...]


def colour(title: str, values_T: Sequence[str]) -> Coloured:
    """Give each value a colour and a shape; of more than 12 the rarer ones are one, `other`; empty ones are `none`."""
    counts = Counter(values_T)
    empty = counts.pop("", 0)
    common = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    shown = sorted(common if len(common) <= MOST else common[: MOST - 1])
    styles = [
        Style(name, COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)], counts[name])
        for place, name in enumerate(shown)
    ]
    place_of = {name: place for place, name in enumerate(shown)}
    rest = sum(counts.values()) - sum(style.count for style in styles)
    if rest:
        place_of |= dict.fromkeys(set(counts) - set(shown), len(styles))
        styles.append(Style(f"{OTHER} ({len(common) - len(shown)})", REST_COLOUR, REST_SHAPE, rest))
    if empty:
        place_of[""] = len(styles)
        styles.append(Style(NONE, REST_COLOUR, "square", empty))
    return Coloured(title, tuple(styles), tuple(place_of[value] for value in values_T))


def colour_columns(columns: dict[str, Sequence[str]]) -> tuple[Coloured, ...]:
    """The columns that tell tiles apart, coloured; where none does, the first, so that there is something to show."""
    telling = {title: values_T for title, values_T in columns.items() if len(set(values_T)) > 1}
    first = dict(list(columns.items())[:1])
    return tuple(colour(title, values_T) for title, values_T in (telling or first).items())
