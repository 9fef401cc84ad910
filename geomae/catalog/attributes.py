"""Attributes from tables: of scenes (`table`), and of windows within scenes (`windows`)."""

import csv
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from geomae.catalog.catalog import Catalog, Scene
from geomae.catalog.filters import Columns, MaskN, is_missing, parse_filter
from geomae.catalog.paths import require_file
from geomae.catalog.schema import DatasetEntry, Windows
from geomae.catalog.schema_forms import Column
from geomae.catalog.times import column_remedy
from geomae.errors import CatalogError, nearest

if TYPE_CHECKING:
    import pandas as pd

Value = str | float | None

RASTER_SUFFIXES = frozenset(
    (".tif", ".tiff", ".gtif", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".vrt", ".nc", ".hdf", ".h5", ".dat", ".bil")
)
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}  # wrong separators of files that are called .csv
logger = logging.getLogger(__name__)


def attach_table(catalog: Catalog, dataset: str, scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
    """Add the attributes from the entry's `table` to `scenes`; without a `table`, return them unchanged.

    A row is found by the scene's path relative to the table's folder, else by its stem. A scene without a row gets None
    in each column, and a warning counts such scenes. Raises CatalogError where no scene has a row, where two rows have
    the same key, and where the stem of a row is shared by several scenes.
    """
    table = catalog.entry(dataset).table
    if table is None:
        return scenes
    place = catalog.place(dataset, "table")
    frame, folder = _read_table(catalog, dataset, table.path, table.key, "table", "path")
    rows = _rows_by_key(frame, table.key, place)
    columns = [column for column in frame.columns if column != table.key]
    times = Counter(scene.stem for scene in scenes)
    attached = []
    without: list[str] = []
    for scene in scenes:
        row = next((rows[key] for key in _path_keys(scene, folder) if key in rows), None)
        if row is None:
            row = next((rows[key] for key in (scene.stem, PurePosixPath(scene.files[0]).name) if key in rows), None)
            if row is not None and times[scene.stem] > 1:
                raise CatalogError(
                    f"{place}: several scenes are called {scene.stem!r}; give their paths in {table.path}"
                )
        if row is None:
            without.append(scene.id)
        attributes = {column: row[column] if row else None for column in columns}
        attached.append(replace(scene, attributes={**attributes, **scene.attributes}))
    if len(without) == len(scenes):
        example = f"it has {next(iter(rows))!r}, the first file is {scenes[0].stem!r}" if rows else "it has no rows"
        raise CatalogError(
            f"{place}: no row of {table.path} has a file's stem or path in column {table.key!r}; {example}"
        )
    if without:
        logger.warning("%s: %d of %d scenes have no row, as %s", place, len(without), len(scenes), without[0])
    return tuple(attached)


def read_windows(catalog: Catalog, dataset: str) -> "pd.DataFrame":
    """Read the entry's `windows`: columns stem, row, col, size, then the attributes in the table's order.

    `stem` is that of the scene, also where the table gives paths. Where the entry has a `table` too, its other columns
    are appended with the values of the window's scene. Text and mixed columns are objects with None for missing values.
    Raises CatalogError for a repeated window, and for a row or column that is not a whole number from 0.
    """
    windows = catalog.entry(dataset).windows
    if not isinstance(windows, Windows):
        raise CatalogError(f"{catalog.place(dataset)}: has no `windows` from a table; add them, or use `tile`")
    place = catalog.place(dataset, "windows")
    frame, _ = _read_table(catalog, dataset, windows.table, windows.key, "windows", "table")
    for key, column in (("row", windows.row), ("col", windows.col)):
        if column not in frame:
            raise CatalogError(f"{catalog.place(dataset, 'windows', key)}: {_no_column(windows.table, column, frame)}")
        good = frame[column].map(lambda value: isinstance(value, int) and value >= 0)
        if not good.all():
            line = int((~good).to_numpy().argmax())
            raise CatalogError(
                f"{place}: {windows.table}, line {line + 2}: {column} is {frame[column].tolist()[line]!r}; "
                "write a whole number of pixels, from 0"
            )
    own = ["stem", "row", "col", "size"]
    attributes = frame.drop(columns=[name for name in {windows.key, windows.row, windows.col, *own} if name in frame])
    result = attributes.assign(
        stem=np.array([_stem_of(key) for key in frame[windows.key]], dtype=object),
        row=frame[windows.row],
        col=frame[windows.col],
        size=windows.size,
    )[[*own, *attributes.columns]]
    repeated = result.duplicated(["stem", "row", "col"])
    if repeated.any():
        line = int(repeated.to_numpy().argmax())
        raise CatalogError(
            f"{place}: {windows.table}, line {line + 2}: this window is there twice; remove one of the two"
        )
    return _with_scene_attributes(catalog, dataset, result)


def where_mask(catalog: Catalog, dataset: str, columns: Columns, length: int) -> MaskN:
    """Mask of the `length` rows of `columns` for which the entry's `where` is true; all True without a `where`.

    Raises CatalogError, with file and line, for an unknown column and for values that cannot be compared.
    """
    text = catalog.entry(dataset).where
    if text is None:
        return np.ones(length, dtype=bool)
    with catalog.at(dataset, "where"):
        return parse_filter(text).mask(columns)


def tile_columns(entry: DatasetEntry) -> dict[str, tuple[tuple[str, ...], str]]:
    """The columns of the tile index that come from attributes: for each, catalogue keys and attribute."""
    named: dict[str, tuple[tuple[str, ...], str | None]] = {
        "label": (("label", "column"), entry.label.column if entry.label else None),
        "split": (("split", "column"), entry.split.column if entry.split else None),
        "group": (("group", "column"), entry.group.column if entry.group else None),
        "fold": (("group", "column"), entry.group.column if entry.group else None),
        "domain": (("domain", "column"), entry.domain.column if isinstance(entry.domain, Column) else None),
    }
    if entry.group and entry.group.folds:
        named["fold"] = named["place"] = (("group", "folds"), entry.group.folds)
    if entry.places:
        named["place"] = (("places", "column"), entry.places.column)
    return {column: (keys, attribute) for column, (keys, attribute) in named.items() if attribute is not None}


def require_columns(catalog: Catalog, dataset: str, known: Collection[str]) -> None:
    """Raise CatalogError where label, split, group, places, time or domain name a column that is not in `known`.

    The message has the line of the key and the nearest known column.
    """
    entry = catalog.entry(dataset)
    wanted = list(tile_columns(entry).values())
    if entry.time is not None and entry.time.column is not None:
        wanted.append((("time", "column"), entry.time.column))
    for keys, column in wanted:
        if column not in known:
            raise CatalogError(
                f"{catalog.place(dataset, *keys)}: there is no column {column!r}; {column_remedy(column, known)}"
            )


def _with_scene_attributes(catalog: Catalog, dataset: str, windows: "pd.DataFrame") -> "pd.DataFrame":
    """Append the columns of the entry's `table` that `windows` lacks; rows are matched by the stem of the scene."""
    table = catalog.entry(dataset).table
    if table is None:
        return windows
    frame, _ = _read_table(catalog, dataset, table.path, table.key, "table", "path")
    stems = [_stem_of(key) for key in frame[table.key]]
    repeated = Counter(stems).most_common(1)
    if repeated and repeated[0][1] > 1:
        raise CatalogError(
            f"{catalog.place(dataset, 'table')}: several rows of {table.path} are of scenes called {repeated[0][0]!r}, "
            "and a window could belong to any; rename the files, or make a data set of each folder"
        )
    columns = [column for column in frame.columns if column not in (table.key, *windows.columns)]
    rows = frame[columns].set_axis(stems).reindex(windows["stem"]).set_axis(windows.index)
    return windows.assign(**{column: plain_values(rows[column]) for column in columns})


def read_csv(path: Path, name: str, *, column: str, text: Collection[str] = ()) -> "pd.DataFrame":
    """Read a CSV file as plain values, None for missing ones; the columns `text` are kept as text.

    `column` is a column that the file must have; it serves to recognise a file with another separator than the comma.
    Raises CatalogError, beginning with `name`, where the file cannot be read.
    """
    import pandas as pd

    try:
        # Only these mean a missing value; pandas would include `NA`, which also is a continent and a country.
        kinds = dict.fromkeys(text, "object")
        frame = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=["", "nan", "NaN"])
    except (OSError, ValueError) as error:
        _check_separator(path, name, column)
        reason = str(error).splitlines()[0]
        raise CatalogError(f"{name} cannot be read ({reason}); save it as CSV in UTF-8") from error
    if column not in frame:
        _check_separator(path, name, column)
    frame.columns = frame.columns.map(str)
    for one in frame:
        frame[one] = plain_values(frame[one])
    return frame


def text_of(value: Any) -> str | None:
    """A value as text, whole numbers without a decimal point; None for a missing or empty one."""
    if value is None or value != value or value == "":
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def plain_values(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Convert a column to plain values: integers stay integers; text and mixed columns hold None."""
    import pandas as pd

    narrowed = column.convert_dtypes()
    if not narrowed.isna().any() and narrowed.dtype.kind in "biuf":
        kind: Any = {"b": "bool", "f": "float64"}.get(narrowed.dtype.kind, "int64")
        return pd.Series(narrowed.to_numpy(kind), index=column.index, name=column.name)
    if narrowed.dtype.kind == "f":
        return pd.Series(narrowed.to_numpy("float64", na_value=float("nan")), index=column.index, name=column.name)
    values = narrowed.to_numpy(dtype=object, copy=True)
    values[narrowed.isna().to_numpy()] = None
    if pd.api.types.infer_dtype(values, skipna=True) == "string":  # equal texts share one object
        codes, texts = pd.factorize(values, use_na_sentinel=True)
        values = np.array([*texts, None], dtype=object)[codes]
    return pd.Series(values, index=column.index, dtype="object", name=column.name)


def _read_table(
    catalog: Catalog, dataset: str, name: str, key: str, *keys: str
) -> tuple["pd.DataFrame", PurePosixPath]:
    """Read a CSV file with `key` as text and other columns as plain values; also returns its folder."""
    place = catalog.place(dataset, *keys)
    path = Path(require_file(catalog, dataset, name, *keys))
    if path.suffix.lower() != ".csv":
        raise CatalogError(f"{place}: {name} is not a CSV file; save the table as .csv")
    with catalog.at(dataset, *keys):
        frame = read_csv(path, name, column=key, text=(key,))
    if key not in frame:
        raise CatalogError(f"{catalog.place(dataset, keys[0], 'key')}: {_no_column(name, key, frame)}")
    if frame[key].isna().any():
        line = int(frame[key].isna().to_numpy().argmax())
        raise CatalogError(f"{place}: {name}, line {line + 2}: the column {key!r} is empty; name the scene")
    return frame, PurePosixPath(path.parent)


def _check_separator(path: Path, name: str, key: str) -> None:
    """Raise CatalogError for a table that has the column `key` if split by another separator than the comma.

    Such a table is refused, since with semicolons as separators, commas are often decimal points.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        return
    for sign, called in SEPARATORS.items():
        if key in next(csv.reader([first], delimiter=sign), []):
            raise CatalogError(
                f"{name} separates its columns by {called}; save it with commas, and with points in numbers"
            )


def _rows_by_key(frame: "pd.DataFrame", key: str, place: str) -> Mapping[str, dict[str, Value]]:
    rows: dict[str, dict[str, Value]] = {}
    for line, record in enumerate(frame.to_dict("records"), start=2):
        name = str(PurePosixPath(record[key]))
        if name in rows:
            raise CatalogError(f"{place}: line {line} of the table has the key {name!r} again; keep one row for it")
        rows[name] = {str(column): None if is_missing(value) else value for column, value in record.items()}
    return rows


def _path_keys(scene: Scene, folder: PurePosixPath) -> list[str]:
    """Paths by which a table in `folder` may name the scene: with and without suffix."""
    own = PurePosixPath(scene.files[0])
    if len(scene.files) > 1 and scene.stem != own.stem:
        own = own.with_name(scene.stem)
    paths = [own, own.with_name(scene.stem)]
    relative = [path.relative_to(folder) for path in paths if path.is_relative_to(folder)]
    return [str(path) for path in relative if len(path.parts) > 1]


def _stem_of(key: str) -> str:
    path = PurePosixPath(key)
    return path.stem if path.suffix.lower() in RASTER_SUFFIXES else path.name


def _no_column(table: str, column: str, frame: "pd.DataFrame") -> str:
    return f"{table} has no column {column!r}; {nearest(column, [str(name) for name in frame.columns])}"
