"""What tiles of a new catalogue carry, as lines of it: labels from rasters, tables and vector files, splits from
tables, and times from names of files.

The likeliest labels become keys, the others comments.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from geomae.catalog.patterns import literal
from geomae.catalog.times import NamePattern, time_of_path, times_span
from geomae.discovery.entries import ALL_TRAIN, Entry, comment, entry_line, flow
from geomae.discovery.quality_layers import quality_layer
from geomae.discovery.vectors import LARGEST_CODE, MOST_CLASSES, POINTS, LabelLayer, SceneTable, meeting
from geomae.errors import RasterError
from geomae.rasters.grids import Window
from geomae.rasters.opening import header
from geomae.rasters.reading import read_map

PATTERNS = ("%Y%m%d", "%Y-%m-%d", "%Y_%m_%d")  # of dates in names that are no product's
USUAL_WINDOW = 32  # pixels around a point
SHOWN = 6  # values of a column that a comment names
LOOKED_AT, LOOKED_PX = 200, 512  # label rasters whose values are looked at, and at most how many rows and columns
# Codes of land cover that are told apart from other numbers by themselves: ESA WorldCover (Zanaga et al. 2022).
WORLDCOVER = {
    10: "tree", 20: "shrub", 30: "grass", 40: "crop", 50: "built", 60: "bare", 70: "snow", 80: "water", 90: "wetland",
    95: "mangrove", 100: "moss",
}  # fmt: skip
FEWEST_KNOWN = 3  # codes of a palette that are no accident


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
    best = None if entry.has("label") else max(usable, key=lambda one: counts[one.path], default=None)
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


def with_label_rasters(entry: Entry, root: Path, below: str) -> Entry:
    """The entry with the rasters of one band for each scene: masks that are known by name, labels by their codes, else
    comments.

    `below` is the pattern that leads from the catalogue to `root`.
    """
    for pattern in entry.companions:
        folder, slash, name = (below + pattern).rpartition("/")
        path = f"{literal(folder) or ''}{slash}{{stem}}{literal(name.removeprefix('*'))}"
        codes, looked = _codes(root, pattern)
        layer = quality_layer(pattern, codes)
        if layer is None:
            lines = _label_raster(entry, path, below + pattern, codes, looked)
        elif entry.has("mask"):
            lines = [comment(f"another quality layer: {flow_key('mask', layer.mask(path=path))}")]
        else:
            lines = [entry_line("mask", layer.mask(path=path), layer.remark)]
        entry = replace(entry, lines=(*entry.lines, *lines))
    return entry


def _label_raster(entry: Entry, path: str, pattern: str, codes: Sequence[int], looked: int) -> list[str]:
    """The lines of one pattern, whose rasters hold `codes` in the `looked` files that were looked at."""
    known = len(codes) >= FEWEST_KNOWN and set(codes) <= set(WORLDCOVER)
    label = {"raster": path, "classes": {code: WORLDCOVER[code] if known else str(code) for code in codes}}
    if known and not entry.has("label"):
        return [entry_line("label", label, f"check: the codes found in {looked} files are those of ESA WorldCover")]
    what = f"{pattern} has a raster of one band for each scene"
    mask = comment(f"and if it is a mask: mask: {{path: {flow(path)}, invalid_values: [VALUE]}}")
    if not 1 <= len(codes) <= MOST_CLASSES:
        return [comment(f"{what}, with {len(codes) or 'unknown'} values in {looked} files, too many for classes"), mask]
    return [
        comment(f"{what}; {looked} files hold the values {_listed(codes)}; if these are labels, name the classes:"),
        comment(f"  {flow_key('label', label)}"),
        mask,
    ]


def _codes(root: Path, pattern: str) -> tuple[list[int], int]:
    """The values of some of the rasters of a pattern, sorted, and how many rasters were looked at."""
    files = sorted(root.glob(pattern))
    spread, codes, looked = min(len(files), LOOKED_AT), set[int](), 0
    for place in range(spread):
        with contextlib.suppress(RasterError):
            path = str(files[len(files) * place // spread])
            height, width = header(path).shape
            values = read_map(path, Window(0, 0, min(height, LOOKED_PX), min(width, LOOKED_PX)))
            codes |= {int(value) for value in np.unique(values) if 0 <= value <= LARGEST_CODE}
            looked += 1
    return sorted(codes), looked


def with_tables(entry: Entry, below: str, files: Sequence[str], tables: Sequence[SceneTable]) -> Entry:
    """The entry with the tables whose rows are of its scenes: attributes, and the columns for labels, splits, groups.

    The first of several becomes a key, with its label and split; windows that a table lists become a comment.
    """
    lines = list(entry.lines)
    for one in tables:
        if (key := one.key(files)) is None:
            continue
        count = one.scenes(key, files)
        path = f"{below}{one.path}"
        if (place := one.windows(key)) is not None:
            row, col, size = place
            keys = {"windows": {"table": path, "key": key, "row": row, "col": col, "size": size}} | one.roles(key)
            listed = ", ".join(flow_key(name, value) for name, value in keys.items())
            lines.append(comment(f"{path} lists {len(one.columns):,} windows in {count} scenes; for these: {listed}"))
            continue
        given = {name for name in ("table", "label", "split") if replace(entry, lines=tuple(lines)).has(name)}
        roles = {name: value for name, value in one.roles(key).items() if name not in given}
        if "table" in given:
            lines.append(
                comment(f"{path} has rows of {count} scenes, too: {flow_key('table', {'path': path, 'key': key})}")
            )
            continue
        lines.append(
            entry_line("table", {"path": path, "key": key}, f"check: {count} of {len(files)} scenes are in it")
        )
        if "split" in roles:
            lines = [line for line in lines if ALL_TRAIN not in line]
        group = roles.pop("group", None)
        lines += [
            entry_line(name, value, f"check: taken for the {name}s: {_listed(one.values(value['column']))}")
            for name, value in roles.items()
        ]
        if group is not None:
            lines.append(comment(f"so that what belongs together is on one side: {flow_key('group', group)}"))
    return replace(entry, lines=tuple(lines))


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
    return f"check: taken for the classes of {count:,} {one.kind}: {_listed(one.values(one.classes[0]))}"


def _listed(values: Sequence[object]) -> str:
    """Some values, in their order."""
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")


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
