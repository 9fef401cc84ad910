"""Pictures of an adaptation: the error while it went on, and what became of the errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from geomae.reports.canvas import add_axes, add_text, add_title, save, shorten
from geomae.reports.figures import BLUE, ORANGE


@dataclass(frozen=True)
class Line:
    """The change of one error in percent, with its interval where there is one; those of a domain stand together."""

    domain: str
    label: str
    change: float
    interval: tuple[float, float] | None


def adaptation_curve(path: Path, rows: Sequence[Mapping[str, Any]], name: str, kept: int, *, unit: str) -> None:
    """Publish a picture (PNG) of the error called `name` against the step, with the step whose weights are kept."""
    figure = Figure(figsize=(7, 4.4))
    add_title(figure, "Error on held-out tiles while adapting")
    axes = add_axes(figure, 0.95, 0.65, 5.8, 3.1)
    found = {row["step"]: row[name] for row in rows if name in row}
    axes.plot(list(found), list(found.values()), color=ORANGE, marker="o", markersize=4, label="fixed masks")
    axes.axvline(kept, color=BLUE, linewidth=1.2, linestyle="--", label=f"kept: step {kept}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(f"RMSE, mean over bands ({unit})")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def changes_picture(path: Path, lines: Sequence[Line], *, names: Mapping[str, str]) -> None:
    """Publish a picture (PNG) of changes of the error against zero, a panel per domain; `names` are its selectors."""
    domains = list(dict.fromkeys(one.domain for one in lines))
    rows = max(sum(one.domain == domain for one in lines) for domain in domains)
    left, wide, high, head = 1.5, 3.4, 0.28 * rows + 0.2, 0.8
    figure = Figure(figsize=(left + len(domains) * (wide + 0.3) + 0.1, head + high + 1.0))
    add_title(figure, "Change of the reconstruction error")
    ends = [value for one in lines for value in (one.change, *(one.interval or ()), 0.0)]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    for number, domain in enumerate(domains):
        axes = add_axes(figure, left + number * (wide + 0.3), head, wide, high)
        axes.set_title(shorten(f"{domain}: {names[domain]}", 44), fontsize=9, parse_math=False)
        shown = [one for one in lines if one.domain == domain]
        for place, one in enumerate(shown):
            if one.interval is not None:
                axes.plot(one.interval, (place, place), color=BLUE, linewidth=2, solid_capstyle="butt")
            axes.plot(one.change, place, "D" if place == 0 else "o", color=BLUE, markersize=6)
        axes.axvline(0, color="0.3", linewidth=1)
        axes.set_yticks(
            range(len(shown)), [one.label for one in shown] if number == 0 else [""] * len(shown), fontsize=9
        )
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlim(min(ends) - margin, max(ends) + margin)
        axes.set_xlabel("change of the RMSE, %", fontsize=9)
        axes.tick_params(labelsize=8, axis="x")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    caption = "Held-out tiles, hidden valid pixels. Lines: 95 % over resampled groups, where there are at least ten."
    add_text(figure, 0.15, head + high + 0.6, caption, size=8)
    save(figure, path)
