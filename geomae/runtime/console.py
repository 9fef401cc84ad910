"""What a person sees of a command: a progress bar on a terminal, plain lines elsewhere, nothing with --quiet."""

import io
import sys
import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

BETWEEN_LINES_S = 5.0  # a log file needs no more


class Screen:
    """Says what happens on standard error, and results on standard output; silent where `shown` is false."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding has not
                stream.reconfigure(errors="backslashreplace")
        self._out = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._err = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s = 0.0

    def say(self, text: str) -> None:
        """One line about what is going on."""
        if self.shown:
            self._err.print(text, markup=False)

    def warn(self, text: str) -> None:
        """One line that is shown also with --quiet."""
        self._err.print(f"warning: {text}", markup=False)

    def step(self, what: str, done: int, total: int, figures: str = "") -> None:
        """Move the bar of `what`; where there is no terminal, a line now and then and at the end."""
        if not self.shown:
            return
        if self._err.is_terminal:
            self._on_bar(what, done, total, figures)
        elif done == total or time.monotonic() - self._last_line_s > BETWEEN_LINES_S:
            self._last_line_s = time.monotonic()
            self.say(f"{what} {done}/{total} {figures}".rstrip())

    def table(self, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table of results; the first column is left-aligned, the others are figures."""
        if not self.shown:
            return
        table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
        for number, name in enumerate(header):
            table.add_column(escape(name), justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*map(escape, row))
        self._out.print(table)

    def result(self, text: str) -> None:
        """One line of results."""
        if self.shown:
            self._out.print(text, markup=False)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks = {}

    def _on_bar(self, what: str, done: int, total: int, figures: str) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=self._err)
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total, completed=done, figures=figures)
        self._bar.update(
            self._tasks[what], completed=done, figures=figures or self._bar.tasks[self._tasks[what]].fields["figures"]
        )
