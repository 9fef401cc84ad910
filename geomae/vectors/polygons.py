"""Labelled polygons, one class each, from the file that `label.vector` of the catalogue names.

N features of the layer
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from geomae.catalog import Catalog
from geomae.catalog.attributes import text_of
from geomae.errors import CatalogError, nearest
from geomae.rasters import Grid
from geomae.vectors.burning import NONE, Layer, Numbers, meets
from geomae.vectors.projection import Floats, extents
from geomae.vectors.reading import VectorLayer, read_vector, vector_file
from geomae.vectors.shapes import mended

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 256
SHOWN = 5  # values that a message lists
KEYS = ("label", "vector")
NUMBER = "polygon"  # column with the number of each polygon, from 1, unless the file has a column of this name


@dataclass(frozen=True)
class LabelPolygons:
    """The polygons that label a data set, and the class of each.

    `code_N` are indices into `names`, -1 where the value of a polygon is not among `classes`. Features without a value
    or geometry are not rasterised: their geometry in `layer` is None. `columns` (N rows) are the columns of the file
    and the numbers of the polygons; `remarks` say what was left out or repaired.
    """

    file: str
    layer: Layer
    names: tuple[str, ...]
    code_N: Numbers
    columns: "pd.DataFrame"
    all_touched: bool
    remarks: tuple[str, ...]


def read_polygons(catalog: Catalog, dataset: str) -> LabelPolygons:
    """Read the polygons of an entry with `label.vector`.

    Raises CatalogError, at the line of the key, for a file or layer that cannot be read, for geometries that are not
    polygons, for a column that is missing or has fewer than two values, for more than 256 different texts without
    `classes`, and where the column holds none of `classes`.
    """
    label = catalog.entry(dataset).label
    assert label is not None and label.vector is not None
    vector = label.vector
    path = vector_file(catalog, dataset, vector.path, *KEYS, "path")
    named = catalog.place(dataset, *KEYS, "layer" if vector.layer else "path")
    layer = read_vector(path, layer=vector.layer, place=named)
    remedy = "name a file of polygons, or use points with `windows: {points: FILE, size}`"
    layer.require("polygons", catalog.place(dataset, *KEYS, "path"), remedy)
    if vector.column not in layer.columns:
        place = catalog.place(dataset, *KEYS, "column")
        known = nearest(vector.column, list(map(str, layer.columns)))
        raise CatalogError(f"{place}: {vector.path} has no column {vector.column!r}; {known}")
    value_N = [text_of(value) for value in layer.columns[vector.column].tolist()]
    there_N = ~shapely.is_missing(layer.geometries) & ~shapely.is_empty(layer.geometries)
    burnt_N = there_N & np.array([value is not None for value in value_N])
    names, code_N, remarks = _classes(catalog, dataset, layer, value_N)
    geometries_N, repaired = mended(layer.geometries)
    geometries_N = geometries_N.copy()
    geometries_N[~burnt_N] = None
    counts = {
        "have no geometry": int((~there_N).sum()),
        f"have no {vector.column!r} and label no pixel": int((there_N & ~burnt_N).sum()),
        "were invalid (such as self-crossing rings) and have been repaired": repaired,
    }
    remarks += [
        f"{count:,} of {len(layer):,} polygons of {vector.path} {what}" for what, count in counts.items() if count
    ]
    columns = layer.columns
    if NUMBER not in columns:
        columns = columns.assign(**{NUMBER: np.arange(1, len(layer) + 1)})
    return LabelPolygons(
        vector.path, Layer(geometries_N, layer.crs), names, code_N, columns, vector.all_touched, tuple(remarks)
    )


def check_meeting(catalog: Catalog, dataset: str, polygons: LabelPolygons, grids: Sequence[Grid | None]) -> None:
    """Raise CatalogError, with both extents in both CRS, where no polygon overlaps a scene."""
    layer = polygons.layer
    placed = {grid for grid in grids if grid is not None and grid.crs is not None}
    if any(meets(layer, grid) for grid in placed):
        return
    bounds_N4 = shapely.bounds(layer.geometries)
    points: Floats = np.concatenate([bounds_N4[:, :2], bounds_N4[:, 2:]])
    where = extents(Path(polygons.file).name, layer.crs, points, grids)
    raise CatalogError(
        f"{catalog.place(dataset, *KEYS, 'path')}: no polygon overlaps a scene: {where}; name another file, or "
        "correct the CRS of one of them"
    )


def _classes(
    catalog: Catalog, dataset: str, layer: VectorLayer, value_N: Sequence[str | None]
) -> tuple[tuple[str, ...], Numbers, list[str]]:
    """Names of the classes, the class code of each feature, and remarks on `classes`."""
    label = catalog.entry(dataset).label
    assert label is not None and label.vector is not None
    column, place = label.vector.column, catalog.place(dataset, *KEYS, "column")
    held = sorted({value for value in value_N if value is not None})
    if len(held) < 2:
        what = f"the one value {held[0]!r}" if held else "no value"
        others = [str(name) for name in layer.columns if name != column]
        remedy = f"choose another column ({', '.join(others)})" if others else "choose another file"
        raise CatalogError(f"{place}: the column {column!r} holds {what}, but two classes are needed; {remedy}")
    if label.classes is not None:
        name_of = {str(text_of(value)): name for value, name in label.classes.items()}
        return _listed(catalog.place(dataset, "label", "classes"), column, held, name_of, value_N)
    if len(held) > MOST_CLASSES and layer.columns[column].dtype.kind not in "iuf":
        raise CatalogError(
            f"{place}: the column {column!r} holds {len(held)} different texts, more than {MOST_CLASSES} classes; "
            "choose another column, or list the classes with `classes`"
        )
    code_of = {value: code for code, value in enumerate(held)}
    code_N = np.array([NONE if value is None else code_of[value] for value in value_N], dtype=np.int32)
    return tuple(held), code_N, []


def _listed(
    place: str, column: str, held: Sequence[str], name_of: Mapping[str, str], value_N: Sequence[str | None]
) -> tuple[tuple[str, ...], Numbers, list[str]]:
    """As `_classes`, where the catalogue lists the classes."""
    absent = [value for value in name_of if value not in held]
    values = ", ".join(held[:SHOWN]) + (f" and {len(held) - SHOWN} more" if len(held) > SHOWN else "")
    if len(absent) == len(name_of):
        raise CatalogError(f"{place}: the column {column!r} holds {values}, and none of these values; correct them")
    names = tuple(sorted(set(name_of.values())))
    code_of = {value: names.index(name) for value, name in name_of.items()}
    code_N = np.array([NONE if value is None else code_of.get(value, NONE) for value in value_N], dtype=np.int32)
    remarks = []
    if absent:
        remarks.append(
            f"`label.classes` lists {', '.join(map(repr, absent[:SHOWN]))}, which the column {column!r} does not hold "
            f"({values})"
        )
    return names, code_N, remarks
