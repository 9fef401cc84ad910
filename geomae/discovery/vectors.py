"""Vector files and tables beside rasters: columns that look like classes and groups, and the rasters they belong to.

N features
"""

import contextlib
import csv
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import shapely

from geomae.catalog.splits import TRAIN
from geomae.errors import CatalogError, RasterError
from geomae.rasters.headers import Header
from geomae.rasters.opening import header
from geomae.vectors.polygons import NUMBER
from geomae.vectors.projection import Floats, transform
from geomae.vectors.reading import CRS, FORMATS, VectorLayer, X, Y, read_vector

POINTS, POLYGONS = "points", "polygons"
MOST_CLASSES, LARGEST_CODE = 50, 255
PREFERRED = (
    "class",
    "label",
    "lc",
    "landcover",
    "lulc",
    "crop",
    "croptype",
    "type",
    "clc",
    "cover",
    "species",
    "habitat",
)
IDS = ("id", "fid", "objectid")
GROUPS = ("field", "polygon", "parcel", "plot", "cluster", "site", "group", *IDS)
SITES = ("site", "place", "location", "plot", "field", "parcel")
NO_CLASSES = frozenset((*GROUPS, "year", "month", "day", "date", "time", "x", "y", "lon", "lat", "row", "col"))
SPLITS = frozenset(("split", "subset", "set", "partition", "fold"))
LARGEST_TABLE = 64 * 1024**2  # bytes
MOST_LOOKED_AT = 64  # rasters of a data set, spread over all


@dataclass(frozen=True)
class LabelLayer:
    """A vector file by its path below the searched folder, with a guess of what its columns mean.

    `classes` are the columns that look like classes, the most likely first. `group` is a column that may name groups;
    for polygons without one, it is their number.
    """

    path: str
    kind: str
    layer: VectorLayer
    classes: tuple[str, ...]
    group: str | None

    def values(self, column: str) -> list[str]:
        """The values of a column as text, sorted."""
        return sorted(map(str, self.layer.columns[column].dropna().unique().tolist()))


def find_vectors(root: Path, without: Collection[str] = ()) -> tuple[list[LabelLayer], list[str]]:
    """The vector files below `root` with points or polygons, and a message about each that cannot give labels.

    Tables (CSV) count if they have the columns x, y and crs. Hidden files and folders are left out, and `without`,
    which are known to be something else.
    """
    found, messages = [], []
    for path in _paths(root):
        if path in without:
            continue
        try:
            layer = read_vector(str(root / path), place=path)
        except CatalogError as error:
            messages.append(str(error).replace(f"{path}: {root / path}", path))
            continue
        kinds = set(layer.kinds)
        if kinds not in ({POINTS}, {POLYGONS}):
            messages.append(
                f"{path}: holds {' and '.join(sorted(kinds)) or 'no geometry'}; labels must be points or polygons"
            )
            continue
        (kind,), classes = kinds, class_columns(layer.columns)
        group = group_column(layer.columns, classes) or (NUMBER if kind == POLYGONS else None)
        found.append(LabelLayer(path, kind, layer, classes, group))
    return found, messages


@dataclass(frozen=True)
class SceneTable:
    """A table (CSV) by its path below the searched folder."""

    path: str
    columns: pd.DataFrame

    def values(self, column: str) -> list[str]:
        """The values of a column as text, sorted."""
        return sorted(map(str, self.columns[column].dropna().unique().tolist()))

    def key(self, files: Sequence[str]) -> str | None:
        """The column that names most of the `files` (at least half), by stem or by path relative to the table."""
        counts = {name: self.scenes(name, files) for name in map(str, self.columns.columns)}
        best = max(counts, key=counts.__getitem__, default=None)
        return best if best is not None and counts[best] and 2 * counts[best] >= len(files) else None

    def scenes(self, key: str, files: Sequence[str]) -> int:
        """How many of the files a column names."""
        values = set(self.columns[key].dropna().astype(str))
        return sum(not values.isdisjoint(self._names(one)) for one in files)

    def _names(self, file: str) -> list[str]:
        """What the table may call a file: its stem, and its path relative to the table."""
        path, folder = PurePosixPath(file), PurePosixPath(self.path).parent
        return [path.stem, *([str(path.relative_to(folder))] if path.is_relative_to(folder) else [])]

    def windows(self, key: str) -> tuple[str, str, int] | None:
        """The names of the columns with row and column of windows, and their side: the smallest step between them."""
        named = {name.lower(): name for name in map(str, self.columns.columns)}
        row, col = named.get("row"), named.get("col", named.get("column"))
        if row is None or col is None or self.columns[key].is_unique:
            return None
        steps = [np.diff(np.unique(self.columns[name].dropna().to_numpy(float))) for name in (row, col)]
        least = min((one.min() for one in steps if len(one)), default=0.0)
        return (row, col, int(least)) if least >= 1 and least == int(least) else None

    def roles(self, key: str) -> dict[str, dict[str, str]]:
        """The keys of a catalogue that columns probably belong to: `label`, `split` and `group`."""
        called, split = self._classes_and_split(key)
        found = {"label": next(iter(called), None), "split": split, "group": next(iter(self.groups(key)), None)}
        return {role: {"column": name} for role, name in found.items() if name is not None}

    def groups(self, key: str) -> dict[str, str]:
        """Columns that by their names hold groups, with their numbers of values; those within one split come first."""
        called, split = self._classes_and_split(key)
        others = self.columns.drop(columns=[key, *called, *([split] if split else [])])
        several = [name for name in map(str, others.columns) if 2 <= others[name].nunique() < len(others)]
        things = [word for word in GROUPS if word not in IDS]
        names = dict.fromkeys(name for word in things for name in several if word in _words(name))
        across = {name: int((self.columns.groupby(name)[split].nunique() > 1).sum()) if split else 0 for name in names}
        remarks = {}
        for name in sorted(names, key=lambda one: across[one] > 0):
            where = f", {across[name]} of them in several splits" if across[name] else ", each in one split"
            remarks[name] = f"{others[name].nunique()} values{where if split else ''}"
        return remarks

    def _classes_and_split(self, key: str) -> tuple[list[str], str | None]:
        """Columns that are called like classes, the most likely first, and the column of splits."""
        others = self.columns.drop(columns=key)
        words = {name: _words(name) for name in map(str, others.columns)}
        split = next((name for name in words if SPLITS & set(words[name]) and (others[name] == TRAIN).any()), None)
        called = [
            name
            for name in class_columns(others)
            if name != split and {*words[name], "".join(words[name])} & set(PREFERRED)
        ]
        return called, split

    def sites(self, key: str, files: Sequence[str]) -> tuple[str, int] | None:
        """A column that by its name holds sites, and how many scenes share a value with another; None if none do."""
        named = {name for one in files for name in self._names(one)}
        rows = self.columns[self.columns[key].astype(str).isin(named)]
        for word in SITES:
            for name in map(str, rows.columns.drop(key)):
                scenes = rows[[key, name]].dropna().drop_duplicates()
                shared = int(scenes[name].duplicated(keep=False).sum())
                if word in _words(name) and shared and scenes[key].is_unique and scenes[name].nunique() > 1:
                    return name, shared
        return None


def find_tables(root: Path) -> list[SceneTable]:
    """The readable tables (CSV) below `root` that are not vector files; hidden ones are left out."""
    tables = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() != ".csv" or name.startswith(".") or _is_vector(path):
                continue
            with contextlib.suppress(OSError, ValueError, pd.errors.ParserError):
                if path.stat().st_size <= LARGEST_TABLE:
                    tables.append(SceneTable(path.relative_to(root).as_posix(), pd.read_csv(path)))
    return tables


def class_columns(columns: pd.DataFrame) -> tuple[str, ...]:
    """Columns that look like classes: text or small integers with 2 to 50 different values that are not feature names.

    Columns with a typical name of classes come first, then text, then numbers.
    """
    ranks = {}
    for place, name in enumerate(map(str, columns.columns)):
        values = columns[name].dropna()
        words = _words(name)
        called = [PREFERRED.index(word) for word in (*words, "".join(words)) if word in PREFERRED]
        whole = values.dtype.kind in "iu" and len(values) > 0 and values.min() >= 0 and values.max() <= LARGEST_CODE
        text = values.dtype.kind == "O" and all(isinstance(one, str) for one in values)
        distinct = values.nunique() if whole or text else 0
        other = not called and words[-1:] and words[-1] in NO_CLASSES
        if not 2 <= distinct <= MOST_CLASSES or other or (distinct == len(values) and len(values) > 2):
            continue
        ranks[name] = (min(called, default=len(PREFERRED)), whole, place)
    return tuple(sorted(ranks, key=ranks.__getitem__))


def group_column(columns: pd.DataFrame, classes: Sequence[str]) -> str | None:
    """A column with a typical name of groups (as field or site) and several values; None if there is none.

    A column `id` counts only if each feature has its own value, because class codes are often called so.
    """
    known = {name: _words(name)[-1:] for name in map(str, columns.columns) if name not in classes}
    fewest = {name: len(columns) if word and word[0] in IDS else 2 for name, word in known.items()}
    fitting = [
        name for name, word in known.items() if word and word[0] in GROUPS and columns[name].nunique() >= fewest[name]
    ]
    return min(fitting, key=lambda name: GROUPS.index(known[name][0]), default=None)


def meeting(vector: LabelLayer, root: Path, files: Sequence[str], margin_px: float) -> int:
    """Number of features on a raster of `files`: points `margin_px` inside it, polygons whose bounds touch it."""
    bounds_N4 = shapely.bounds(vector.layer.geometries)
    met_N = np.zeros(len(bounds_N4), dtype=bool)
    spread = min(len(files), MOST_LOOKED_AT)
    for path in dict.fromkeys(files[len(files) * number // spread] for number in range(spread)):
        try:
            one = header(str(root / path))
        except RasterError:
            continue
        if one.crs is not None:
            least_N2, most_N2 = _pixel_bounds(vector.layer.crs, bounds_N4, one)
            side_2 = np.array([one.width, one.height])
            margin = margin_px if vector.kind == POINTS else 0.0
            before_N2 = least_N2 < side_2 - margin if margin else least_N2 <= side_2
            met_N |= ((most_N2 >= margin) & before_N2).all(axis=1)
    return int(met_N.sum())


def _pixel_bounds(crs: str, bounds_N4: Floats, one: Header) -> tuple[Floats, Floats]:
    """Least and largest column and row (N, 2) of the corners of bounds, in pixels of a raster; NaN where unknown."""
    a, b, c, d, e, f = one.transform
    places = []
    for x, y in ((0, 1), (0, 3), (2, 1), (2, 3)):
        at_N2 = transform(crs, str(one.crs), np.ascontiguousarray(bounds_N4[:, [x, y]])) - [c, f]
        places.append(np.stack([e * at_N2[:, 0] - b * at_N2[:, 1], a * at_N2[:, 1] - d * at_N2[:, 0]], axis=1))
    corners_4N2 = np.array(places) / (a * e - b * d)
    return corners_4N2.min(axis=0), corners_4N2.max(axis=0)


def _words(name: str) -> list[str]:
    """The words of a column's name in lower case: `LC_Type` and `lcType` give lc and type."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _paths(root: Path) -> list[str]:
    """Paths below `root` (relative, sorted) of vector files, recognised by suffix, and by header for CSV."""
    paths = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths += [Path(folder, name) for name in files if not name.startswith(".") and _is_vector(Path(folder, name))]
    return sorted(path.relative_to(root).as_posix() for path in paths)


def _is_vector(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return {X, Y, CRS} <= set(_header(path))
    return suffix in FORMATS and suffix != ".json"  # JSON is mostly something else


def _header(path: Path) -> Iterable[str]:
    """The first line of a table; empty if the file is not text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
