"""Attributes of the tiles as lines of a new catalogue: labels from rasters, tables and vector files, splits from
tables, and times from file names.

The most likely labels become keys, the others comments.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from geomae.catalog.patterns import literal
from geomae.catalog.times import NamePattern, time_of_path, times_span
from geomae.discovery.entries import ALL_TRAIN, Entry
from geomae.discovery.quality_layers import quality_layer
from geomae.discovery.vectors import (
    LARGEST_CODE,
    MOST_CLASSES,
    MOST_LOOKED_AT,
    POINTS,
    POLYGONS,
    LabelLayer,
    SceneTable,
    meeting,
)
from geomae.discovery.yaml_lines import comment, entry_line, flow
from geomae.errors import RasterError
from geomae.rasters.grids import Window
from geomae.rasters.opening import header
from geomae.rasters.reading import read_map

PATTERNS = ("%Y%m%d", "%Y-%m-%d", "%Y_%m_%d")  # dates in names other than product names
USUAL_WINDOW = 32  # pixels around a point
WINDOW_IS = "check: `size` in pixels; choose a window no larger than your plots, a multiple of the patch (8)"
SHOWN = 6  # values of a column that a comment names
LOOKED_AT, LOOKED_PX = 200, 512  # number of label rasters that are read, and of their rows and columns, at most
# Land-cover codes that can be recognised among other numbers: ESA WorldCover (Zanaga et al. 2022).
WORLDCOVER = {
    10: "tree", 20: "shrub", 30: "grass", 40: "crop", 50: "built", 60: "bare", 70: "snow", 80: "water", 90: "wetland",
    95: "mangrove", 100: "moss",
}  # fmt: skip
GROUP_IS = (
    "`group` names tiles that are not independent: it decides splits by group, folds and intervals, which fewer groups "
    "widen; columns that may hold groups:"
)
OF_TILES = frozenset(("tile", "windows", "table", "label", "split", "group", "places"))
FEWEST_KNOWN = 3  # codes of WorldCover from which a match is not taken for chance


def with_labels(
    entry: Entry, root: Path, below: str, files: Sequence[str], vectors: Sequence[LabelLayer]
) -> tuple[Entry, set[str]]:
    """Add labels from the `vectors` whose features lie on the rasters; returns the entry and the paths of these.
    `below` is the path from the catalogue to `root`; `files` and the paths of vectors are relative to `root`. Existing
    labels of the entry stay. Labels from points become the entry's second data set, so that its tiles stay on a grid.
    """
    size = min(USUAL_WINDOW, entry.tile)
    counts = {one.path: meeting(one, root, files, (size - 1) / 2) for one in vectors} if files else {}
    meets = [one for one in vectors if counts.get(one.path)]
    usable = [one for one in meets if one.classes]
    best = None if entry.has("label") else max(usable, key=lambda one: counts[one.path], default=None)
    lines = list(entry.lines)
    if best is not None:
        remarks = {"label": _reason(best, counts[best.path], len(files)), "windows": WINDOW_IS}
        labels = [entry_line(key, value, remarks[key]) for key, value in _keys(best, below, size).items()]
        if len(best.classes) > 1:
            labels.append(comment(f"other columns that could be classes: {', '.join(best.classes[1:])}"))
        if best.group:
            whole: dict[str, object] = {"group": {"column": best.group}}
            if not entry.has("split"):
                whole["split"] = {"group": {"train": 0.8, "val": 0.1, "test": 0.1}}
            listed = ", ".join(flow_key(key, value) for key, value in whole.items())
            labels.append(comment(f"to keep a group within one split: {listed}"))
        if best.kind == POINTS:
            entry = replace(entry, points=tuple(labels), window=size)
        else:
            lines += labels
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
    """Add rasters beside each scene: masks recognised by name, labels recognised by code; others as comments.

    `below` is the pattern from the catalogue to `root`.
    """
    for one in entry.companions:
        path = f"{literal(below) or ''}{one.path}"
        codes, looked = _codes(root, one.files)
        layer = one.layer or quality_layer(one.pattern, codes)
        if layer is None:
            lines = _label_raster(entry, path, below + one.pattern, codes, looked)
        elif entry.has("mask"):
            lines = [comment(f"another quality layer: {flow_key('mask', layer.mask(path=path))}")]
        else:
            lines = [entry_line("mask", layer.mask(path=path), layer.remark)]
        entry = replace(entry, lines=(*entry.lines, *lines))
    return entry


def _label_raster(entry: Entry, path: str, pattern: str, codes: Sequence[int], looked: int) -> list[str]:
    """The lines for one pattern of rasters; `codes` are the values found in `looked` of its files."""
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


def _codes(root: Path, files: Sequence[str]) -> tuple[list[int], int]:
    """The values in some of the rasters, sorted, and the number of rasters read."""
    spread, codes, looked = min(len(files), LOOKED_AT), set[int](), 0
    for place in range(spread):
        with contextlib.suppress(RasterError):
            path = str(root / files[len(files) * place // spread])
            height, width = header(path).shape
            values = read_map(path, Window(0, 0, min(height, LOOKED_PX), min(width, LOOKED_PX)))
            codes |= {int(value) for value in np.unique(values) if 0 <= value <= LARGEST_CODE}
            looked += 1
    return sorted(codes), looked


def with_tables(entry: Entry, root: Path, below: str, files: Sequence[str], tables: Sequence[SceneTable]) -> Entry:
    """Add tables whose rows belong to the scenes: attributes, and the columns of labels, splits, groups and places.

    The first table becomes a key, with its label and split; windows that a table lists become a data set of their own,
    as a comment. `places` is proposed only for scenes without a CRS, because footprints tell it of the others.
    """
    lines, further = list(entry.lines), list(entry.further)
    for one in tables:
        if (key := one.key(files)) is None:
            continue
        count = one.scenes(key, files)
        path = f"{below}{one.path}"
        if (place := one.windows(key)) is not None:
            what = f"{path} lists {len(one.columns):,} windows in {count} scenes; as a data set of their own:"
            name = re.sub(r"\W+", "_", PurePosixPath(one.path).stem)
            further.append((name, what, (*_of_files(entry.lines), *_window_lines(one, path, key, place))))
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
        roles.pop("group", None)
        lines += [
            entry_line(name, value, f"check: assumed to hold the {name}s: {_listed(one.values(value['column']))}")
            for name, value in roles.items()
        ]
        if groups := one.groups(key):
            lines.append(comment(GROUP_IS))
            lines += [comment(f"{flow_key('group', {'column': name})}  # {said}") for name, said in groups.items()]
        if (sites := one.sites(key, files)) is not None and not _has_crs(root, files):
            column, shared = sites
            what = f"{shared} of {len(files)} scenes share their {column} with another"
            places = flow_key("places", {"column": column})
            lines.append(comment(f"{what}; if such scenes show the same ground, pixel by pixel: {places}"))
    return replace(entry, lines=tuple(lines), further=tuple(further))


def _of_files(lines: Sequence[str]) -> list[str]:
    """The keys of an entry that hold for its files however these are cut into tiles and labelled; no comments."""
    kept, chosen = False, []
    for line in lines:
        if (begins := re.match(r"    (\w+):", line)) is not None:
            kept = begins[1] not in OF_TILES
        if kept and not line.lstrip().startswith("#"):
            chosen.append(line)
    return chosen


def _window_lines(one: SceneTable, path: str, key: str, place: tuple[str, str, int]) -> list[str]:
    """The keys of a data set whose tiles are the windows of a table."""
    row, col, size = place
    lines = [entry_line("windows", {"table": path, "key": key, "row": row, "col": col, "size": size})]
    for role, value in one.roles(key).items():
        column = value["column"]
        number = f"{one.columns[column].notna().sum():,} " if role == "label" else ""
        remark = f"{number}{role}s: {_listed(one.values(column))}"
        lines.append(entry_line(role, value, one.groups(key)[column] if role == "group" else remark))
    return lines


def _has_crs(root: Path, files: Sequence[str]) -> bool:
    """Whether the first file that can be read has a CRS; true if there is none."""
    for path in files:
        with contextlib.suppress(RasterError):
            return header(str(root / path)).crs is not None
    return True


def flow_key(key: str, value: object) -> str:
    """A key and its value on one line."""
    return f"{key}: {flow(value)}"


def _keys(one: LabelLayer, below: str, size: int) -> dict[str, object]:
    """The keys of an entry whose labels are in a vector file."""
    path, column = f"{below}{one.path}", one.classes[0]
    if one.kind == POINTS:
        return {"windows": {"points": path, "size": size}, "label": {"column": column}}
    return {"label": {"vector": {"path": path, "column": column}}}


def _reason(one: LabelLayer, count: int, scenes: int) -> str:
    known = len(one.layer)
    which = "on a scene" if one.kind == POLYGONS else "with a whole window in a scene"
    which += f" of {MOST_LOOKED_AT} that were examined" if scenes > MOST_LOOKED_AT else ""
    those = f"{count:,} {one.kind}" if count == known else f"{known:,} {one.kind}, {count:,} of them {which}"
    return f"check: assumed to hold the classes of {those}: {_listed(one.values(one.classes[0]))}"


def _listed(values: Sequence[object]) -> str:
    """Some values, in their order."""
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")


def with_time(entry: Entry, files: Sequence[str]) -> Entry:
    """Add `time` if all names contain a date, or a comment if they are names of products."""
    named = [found for path in files if (found := _product_time(path))]
    if named:
        who = "the file names have" if len(named) == len(files) else f"{len(named)} of {len(files)} file names have"
        return replace(entry, lines=(*entry.lines, comment(f"{who} acquisition dates: {times_span(named)}")))
    for text in PATTERNS:
        dates = [found for path in files if (found := _pattern_time(text, path))]
        if files and len(dates) == len(files):
            line = entry_line("time", {"pattern": text}, f"check: the dates in the names: {times_span(dates)}")
            return replace(entry, lines=(*entry.lines, line))
    return entry


def _product_time(path: str) -> str | None:
    try:
        return time_of_path(path)
    except ValueError:  # an impossible date; `catalog check` reports it
        return None


def _pattern_time(text: str, path: str) -> str | None:
    try:
        return NamePattern(text).read(path)
    except ValueError:
        return None
