"""A report as one HTML file: pictures and scripts are inside it, so that it opens anywhere and asks no network."""

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from geomae.files import write_text

REPORT = "report.html"


@dataclass(frozen=True)
class Figure:
    """A picture (PNG), by path or as its bytes."""

    png: Path | bytes
    caption: str


@dataclass(frozen=True)
class Link:
    """A text that leads to a file: the report of the run that a run rests on, or a file of its own."""

    text: str
    file: Path


Cell = str | int | float | Link | None


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


About = Mapping[str, str | Link]


@dataclass(frozen=True)
class Page:
    """A report. `lead` gives the results in a sentence or two; `about` what was run: models, digests, versions.

    `following` is the command that people usually take next.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    about: About = field(default_factory=dict)
    following: str = ""


def link_run(text: str) -> str | Link:
    """The text, linked to a report where it names a folder in the folder of a run (`runs/mine/model`) that has one.

    The text may begin with a label and an equals sign.
    """
    for named in (text, text.partition("=")[2]):
        folder = Path(named)
        if named and folder.is_dir():
            # A model lies in its run's folder; a saved probe two levels down.
            for place in (folder, *folder.absolute().parents[:2]):
                if (place / REPORT).is_file():
                    return Link(text, (place / REPORT).absolute())
    return text


def write_page(path: Path, page: Page) -> None:
    """Publish a report as one self-contained HTML file. Every text is escaped; `Html` alone is put in as it is."""
    write_text(path, render("page.html", page=page, folder=path.parent))


def render(template: str, **values: Any) -> str:
    """A template of this package filled in; every text is escaped unless the template says otherwise."""
    environment = Environment(loader=PackageLoader("geomae.reports"), autoescape=True, trim_blocks=True)
    environment.filters |= {"shown": shown, "key": _key, "data_uri": data_uri}
    environment.filters["address"] = _address
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
    if isinstance(cell, Link):
        return cell.text
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 999.5 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _address(file: Path, folder: Path) -> str:
    """The way from a page in `folder` to a file, which holds also where both are moved together."""
    return quote(Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix())


def _key(cell: Cell) -> str:
    """What a numeric cell is sorted by; empty for text and for what is unknown."""
    return repr(cell) if isinstance(cell, int | float) and math.isfinite(cell) else ""
