"""A report as one HTML file: pictures and scripts are inside it, so that it opens anywhere and asks no network."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from geomae.files import write_text

Cell = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """A picture (PNG), by path or as its bytes."""

    png: Path | bytes
    caption: str


@dataclass(frozen=True)
class Table:
    """A table whose columns sort on a click. Numbers are shown with three significant digits."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Html:
    """An interactive part, put into the page as it is: nothing that came from a file may stand in it unescaped."""

    markup: str


@dataclass(frozen=True)
class Section:
    """A heading, what is to be said below it, and the figures and tables that show it."""

    title: str
    text: tuple[str, ...] = ()
    parts: tuple[Figure | Table | Html, ...] = ()


@dataclass(frozen=True)
class Page:
    """A report. `lead` gives the results in a sentence or two; `about` what was run: models, digests, versions."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    about: Mapping[str, str] = field(default_factory=dict)


def write_page(path: Path, page: Page) -> None:
    """Publish a report as one self-contained HTML file. Every text is escaped; `Html` alone is put in as it is."""
    write_text(path, render("page.html", page=page))


def render(template: str, **values: Any) -> str:
    """A template of this package filled in; every text is escaped unless the template says otherwise."""
    environment = Environment(loader=PackageLoader("geomae.reports"), autoescape=True, trim_blocks=True)
    environment.filters |= {"shown": shown, "key": _key, "data_uri": data_uri}
    environment.filters["kind"] = lambda part: type(part).__name__
    return environment.get_template(template).render(**values)


def data_uri(png: Path | bytes) -> str:
    """A picture as text that an `<img>` takes."""
    content = png if isinstance(png, bytes) else png.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()


def shown(cell: Cell) -> str:
    """A cell as people read it; what is unknown is empty."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 999.5 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _key(cell: Cell) -> str:
    """What a numeric cell is sorted by; empty for text and for what is unknown."""
    return repr(cell) if isinstance(cell, int | float) and math.isfinite(cell) else ""
