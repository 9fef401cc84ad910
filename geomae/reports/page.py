"""A report as one HTML file with all pictures and scripts inside, so that it opens anywhere without a network."""

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
    """A text that links to a file: the report of the run that a run rests on, or a file beside the page."""

    text: str
    file: Path


Cell = str | int | float | Link | None


@dataclass(frozen=True)
class Table:
    """A table whose columns sort on a click. Numbers are shown with three significant digits.

    Columns without any value are not shown: `kept` has the positions of the others.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def kept(self) -> list[int]:
        """Positions of the columns in which some row has a value; all of them where there is no row."""
        places = range(len(self.header))
        return [place for place in places if not self.rows or any(shown(row[place]) for row in self.rows)]


@dataclass(frozen=True)
class Html:
    """An interactive part, inserted without escaping: text from files must be escaped before it gets here."""

    markup: str


@dataclass(frozen=True)
class Section:
    """A heading with its paragraphs (`text`), followed by figures and tables (`parts`)."""

    title: str
    text: tuple[str, ...] = ()
    parts: tuple[Figure | Table | Html, ...] = ()


About = Mapping[str, str | Link]


@dataclass(frozen=True)
class Page:
    """A report. `lead` gives the results in a sentence or two; `about` lists what was run: models, digests, versions.

    `following` is a suggested next command.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    about: About = field(default_factory=dict)
    following: str = ""


def link_run(text: str) -> str | Link:
    """Link a text to a report, where it names a folder inside the folder of a run with a report (`runs/mine/model`).

    The text may begin with a label and an equals sign. Without a report it is returned as it is.
    """
    for named in (text, text.partition("=")[2]):
        folder = Path(named)
        if named and folder.is_dir():
            # A model lies directly in its run's folder, a saved probe two levels below it.
            for place in (folder, *folder.absolute().parents[:2]):
                if (place / REPORT).is_file():
                    return Link(text, (place / REPORT).absolute())
    return text


def write_page(path: Path, page: Page) -> None:
    """Publish a report as one self-contained HTML file. All text is escaped; only `Html` is inserted as it is."""
    write_text(path, render("page.html", page=page, folder=path.parent))


def render(template: str, **values: Any) -> str:
    """Render a template of this package; all text is escaped unless the template marks it as safe."""
    environment = Environment(loader=PackageLoader("geomae.reports"), autoescape=True, trim_blocks=True)
    environment.filters |= {"shown": shown, "key": _key, "data_uri": data_uri, "sentence": _sentence}
    environment.filters["address"] = _address
    environment.filters["kind"] = lambda part: type(part).__name__
    return environment.get_template(template).render(**values)


def data_uri(png: Path | bytes) -> str:
    """Return a PNG as the `data:` address of an `<img>`."""
    content = png if isinstance(png, bytes) else png.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()


def shown(cell: Cell) -> str:
    """Return a table cell as text: numbers rounded and grouped, None and NaN empty."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, Link):
        return cell.text
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 999.5 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _address(file: Path, folder: Path) -> str:
    """Return the relative address of a file from a page in `folder`; it stays valid where both are moved together."""
    return quote(Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix())


def _sentence(text: str) -> str:
    """Return a remark, which the terminal shows without a full stop, as a sentence that ends with one."""
    return text if not text or text[-1] in ".:!?" else f"{text}."


def _key(cell: Cell) -> str:
    """Return the sort key of a numeric cell; empty for text and for unknown values."""
    return repr(cell) if isinstance(cell, int | float) and math.isfinite(cell) else ""
