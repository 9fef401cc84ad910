"""The colours of classes in maps, as stored with a head or a saved probe."""

from collections.abc import Sequence

import numpy as np

# Colours for words in common class names, as in the maps of ESA WorldCover; other classes take those below in turn.
COLOUR_OF = {
    "tree": "#006400", "forest": "#006400", "shrub": "#ffbb22", "grass": "#ffff4c", "herbaceous": "#ffff4c",
    "crop": "#f096ff", "built": "#fa0000", "urban": "#fa0000", "bare": "#b4b4b4", "barren": "#b4b4b4",
    "snow": "#f0f0f0", "ice": "#f0f0f0", "water": "#0064c8", "wetland": "#0096a0", "mangrove": "#00cf75",
}  # fmt: skip
OTHER_COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
    "#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#c7c7c7", "#dbdb8d", "#9edae5",
)  # fmt: skip


def colours_of(classes: Sequence[str]) -> tuple[str, ...]:
    """A colour (#rrggbb) for each class: by a word in its name, else the next of a list; no colour is used twice."""
    usual = [next((colour for word, colour in COLOUR_OF.items() if word in name.lower()), None) for name in classes]
    once = [colour if colour not in usual[:place] else None for place, colour in enumerate(usual)]
    free = iter([colour for colour in OTHER_COLOURS if colour not in once])
    mixed = np.random.default_rng(0)  # for more classes than the list has colours
    return tuple(
        colour or next(free, None) or "#{:02x}{:02x}{:02x}".format(*mixed.integers(40, 220, 3)) for colour in once
    )
