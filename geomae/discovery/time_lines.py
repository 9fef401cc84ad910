"""When the scenes of a new catalogue were acquired, as far as the names of their files tell."""

from collections.abc import Sequence
from dataclasses import replace

from geomae.catalog.times import NamePattern, time_of_path, times_span
from geomae.discovery.entries import Entry, comment, entry_line

PATTERNS = ("%Y%m%d", "%Y-%m-%d", "%Y_%m_%d")  # of names that are no product's


def with_time(entry: Entry, files: Sequence[str]) -> Entry:
    """The entry with `time` where all names hold a date, with a comment where they are names of products."""
    named = [found for path in files if (found := _product_time(path))]
    if named:
        who = "the names of the files tell" if len(named) == len(files) else f"{len(named)} of {len(files)} names tell"
        return replace(entry, lines=(*entry.lines, comment(f"{who} when they were acquired: {times_span(named)}")))
    for text in PATTERNS:
        dates = [found for path in files if (found := _pattern_time(text, path))]
        if files and len(dates) == len(files):
            line = entry_line("time", {"pattern": text}, f"check: the dates in the names: {times_span(dates)}")
            return replace(entry, lines=(*entry.lines, line))
    return entry


def _product_time(path: str) -> str | None:
    try:
        return time_of_path(path)
    except ValueError:  # a date that there is not; check says so
        return None


def _pattern_time(text: str, path: str) -> str | None:
    try:
        return NamePattern(text).read(path)
    except ValueError:
        return None
