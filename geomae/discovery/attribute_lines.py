"""What tiles of a new catalogue carry, as lines of it: labels from vector files, and times from names of files.

The likeliest labels become keys, the others comments.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from geomae.catalog.times import NamePattern, time_of_path, times_span
from geomae.discovery.entries import Entry, comment, entry_line, flow
from geomae.discovery.vectors import POINTS, LabelLayer, meeting

PATTERNS = ("%Y%m%d", "%Y-%m-%d", "%Y_%m_%d")  # of dates in names that are no product's
USUAL_WINDOW = 32  # pixels around a point
SHOWN = 6  # values of a column that a comment names


def with_labels(
    entry: Entry, root: Path, below: str, files: Sequence[str], vectors: Sequence[LabelLayer]
) -> tuple[Entry, set[str]]:
    """The entry with labels from those of `vectors` whose features meet its rasters, and the paths of these.

    `below` leads from the catalogue to `root`, to which `files` and the paths of vectors are relative. Labels that the
    entry has already stay.
    """
    size = min(USUAL_WINDOW, entry.tile)
    counts = {one.path: meeting(one, root, files, (size + 1) / 2) for one in vectors} if files else {}
    meets = [one for one in vectors if counts.get(one.path)]
    usable = [one for one in meets if one.classes]
    has_labels = any(line.startswith("    label:") for line in entry.lines)
    best = None if has_labels else max(usable, key=lambda one: counts[one.path], default=None)
    lines = list(entry.lines)
    if best is not None:
        keys = _keys(best, below, size)
        if best.kind == POINTS:  # instead of a regular grid
            tile = next(place for place, line in enumerate(lines) if line.startswith("    tile:"))
            lines[tile] = comment(f"for tiles on a regular grid instead: {lines[tile].split('#')[0].strip()}")
        lines += [
            entry_line(key, value, _reason(best, counts[best.path]) if key == "label" else "")
            for key, value in keys.items()
        ]
        if len(best.classes) > 1:
            lines.append(comment(f"other columns that could be classes: {', '.join(best.classes[1:])}"))
        if best.group:
            lines.append(
                comment(f"so that what belongs together is on one side: {flow_key('group', {'column': best.group})}")
            )
    for one in (one for one in meets if one is not best):
        what = f"{below}{one.path} has {counts[one.path]:,} {one.kind} here"
        if not one.classes:
            columns = ", ".join(map(str, one.layer.columns.columns)) or "none"
            lines.append(comment(f"{what}, and no column that looks like classes (columns: {columns})"))
            continue
        instead = ", ".join(flow_key(key, value) for key, value in _keys(one, below, size).items())
        lines.append(comment(f"{what}; for labels from it: {instead}"))
    return replace(entry, lines=tuple(lines)), {one.path for one in meets}


def flow_key(key: str, value: object) -> str:
    """A key and its value on one line."""
    return f"{key}: {flow(value)}"


def _keys(one: LabelLayer, below: str, size: int) -> dict[str, object]:
    """The keys that take labels from a vector file."""
    path, column = f"{below}{one.path}", one.classes[0]
    if one.kind == POINTS:
        return {"windows": {"points": path, "size": size}, "label": {"column": column}}
    return {"label": {"vector": {"path": path, "column": column}}}


def _reason(one: LabelLayer, count: int) -> str:
    values = one.values(one.classes[0])
    shown = ", ".join(values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
    return f"check: taken for the classes of {count:,} {one.kind}: {shown}"


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
