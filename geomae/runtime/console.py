"""Output of a command: a progress bar on a terminal, plain lines elsewhere, only warnings with --quiet."""

import io
import sys
import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

BETWEEN_LINES_S = 5.0  # between two lines of progress where there is no terminal
WIDE = 400  # characters of a line of a table that nobody reads on a terminal


class Screen:
    """Prints progress to standard error and results to standard output; only warnings where `shown` is false."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # file names may hold characters that the encoding lacks
                stream.reconfigure(errors="backslashreplace")
        width = None if sys.stdout.isatty() else WIDE  # a file has no edge to wrap a table at
        self._out = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
        self._err = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s = 0.0
        self._begun: dict[str, tuple[float, int]] = {}  # time and count at the first report of each task

    def say(self, text: str) -> None:
        """Print one line of progress to standard error."""
        if self.shown:
            self._err.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one warning to standard error, even with --quiet."""
        self._err.print(f"warning: {text}", markup=False)

    def step(self, what: str, done: int, total: int, figures: str = "") -> None:
        """Show the progress of `what`: a bar on a terminal, elsewhere a line every BETWEEN_LINES_S and at the end.

        Without `figures`, it shows the rate per second and the remaining time.
        """
        if not self.shown:
            return
        rate, left = self._pace(what, done, total)
        if self._err.is_terminal:
            self._on_bar(what, done, total, figures or rate)
        elif done == total or time.monotonic() - self._last_line_s > BETWEEN_LINES_S:
            self._last_line_s = time.monotonic()
            self.say(f"{what} {done}/{total} {figures or rate + left}".rstrip())

    def table(self, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table of results; the first column is left-aligned, the others, which hold numbers, right-aligned."""
        if not self.shown:
            return
        table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
        for number, name in enumerate(header):
            table.add_column(escape(name), justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*map(escape, row))
        self._out.print(table)

    def result(self, text: str) -> None:
        """Print one line of results to standard output."""
        if self.shown:
            self._out.print(text, markup=False)

    def close(self) -> None:
        """Stop the progress bar and restore the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks = {}

    def _pace(self, what: str, done: int, total: int) -> tuple[str, str]:
        """Return the rate per second since `what` was first reported, and the time left; empty where unknown."""
        now_s = time.monotonic()
        begun_s, before = self._begun.setdefault(what, (now_s, done))
        if done <= before or now_s <= begun_s:
            return "", ""
        per_s = (done - before) / (now_s - begun_s)
        left_s = round((total - done) / per_s)
        if left_s == 0 and now_s - begun_s < 1:
            return "", ""
        rate = f"{per_s:,.0f}/s" if per_s >= 1 else f"{1 / per_s:,.0f} s each"  # rare steps: 0/s says nothing
        return rate, f", {left_s // 60}:{left_s % 60:02d} left" if left_s else ""

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
