"""A picture of how much of the variance each principal component carries."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from geomae.reports.canvas import add_axes, add_text, add_title, save
from geomae.reports.figures import BLUE, ORANGE

LEAST_SHOWN = 16


def pca_scree(path: Path, share_D: NDArray[np.float64], kept: int, effective_rank: float, *, title: str) -> None:
    """Publish a picture (PNG): the share of the variance of the first components, and of the first so many together.

    `share_D` has all components, of which `kept` were kept.
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
