"""Acquisition times of scenes and windows, and the attributes and domains that are derived from them.

The first of these sources that gives a time is used:

1. `time: {pattern}` of the entry, for every scene.
2. A column, `time: {column}` or one that is called `time`: of `windows` for each window, else of `table`.
3. The product name in the name of the file or of a folder above it (see `times.PRODUCT_NAMES`).
4. A tag of the file with the acquisition time (see `times.ACQUISITION_TAGS`), which `rasters` reads with the header.

Where a column is empty, the next source is used. A warning reports a column that differs from the product name by more
than a day. A tile around a point has the time of its scene, and that of the point only where the scene has none, since
a point may be visited days before or after the image was taken.

T tiles
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomae.catalog.catalog import Catalog, Scene
from geomae.catalog.filters import is_missing, missing
from geomae.catalog.schema import Points
from geomae.catalog.schema_times import Months
from geomae.catalog.times import DERIVED, NO_TIME, TIME, NamePattern, derived, read_time, time_of_path
from geomae.errors import CatalogError

if TYPE_CHECKING:
    import pandas as pd

UNSPECIFIED = "unspecified"  # the domain of tiles that have none
MOST_DAYS_BETWEEN = 1  # allowed between a column and a product name, since one may be in local time
logger = logging.getLogger(__name__)


def with_scene_times(catalog: Catalog, dataset: str, scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """Add to `scenes` the times from the pattern, the table or product names, where there are any.

    Raises CatalogError, with the file and the pattern or column, for dates that cannot be read.
    """
    rule = catalog.entry(dataset).time
    if rule is not None and rule.pattern is not None:
        return _by_pattern(catalog, dataset, NamePattern(rule.pattern), scenes)
    column = _column(catalog, dataset)
    timed: list[Scene] = []
    impossible: list[str] = []
    differing: list[str] = []
    for scene in scenes:
        stated = _read(catalog, dataset, scene.attributes.get(column), f"scene {scene.id!r}")
        try:
            named = time_of_path(_below(catalog, scene))
        except ValueError as error:
            impossible.append(str(error))
            named = None
        if stated and named and _days(stated, named) > MOST_DAYS_BETWEEN:
            differing.append(f"{scene.id} ({stated} and {named})")
        timed.append(replace(scene, time=stated or named) if stated or named else scene)
    place = catalog.place(dataset)
    if impossible:
        logger.warning("%s: %d of %d scenes get no time: %s", place, len(impossible), len(scenes), impossible[0])
    if differing:
        said = f"the column {column!r} has another day than the name of the file, and is used"
        logger.warning("%s: for %d of %d scenes %s, as for %s", place, len(differing), len(scenes), said, differing[0])
    return tuple(timed)


def with_time_attributes(
    catalog: Catalog, dataset: str, attributes: "pd.DataFrame", scene_time_T: NDArray[np.object_]
) -> "pd.DataFrame":
    """Add `time`, `year`, `month` and `doy` to the `attributes` of tiles; unchanged where no tile has a time.

    `scene_time_T` are the times of the tiles' scenes. Existing columns `year`, `month` and `doy` are kept. Raises
    CatalogError for dates of windows that cannot be read.
    """
    import pandas as pd

    entry = catalog.entry(dataset)
    column = _column(catalog, dataset)
    time_T = scene_time_T
    if entry.windows is not None and column in attributes and (entry.time is None or entry.time.pattern is None):
        codes, values = pd.factorize(attributes[column].to_numpy(dtype=object))
        read = [_read(catalog, dataset, value, "a window") for value in values]
        own_T = np.array([*read, None], dtype=object)[codes]  # missing values have the code -1, which selects the last
        first_T, then_T = (scene_time_T, own_T) if isinstance(entry.windows, Points) else (own_T, scene_time_T)
        time_T = np.where(missing(first_T), then_T, first_T)
    codes, times = pd.factorize(time_T)
    if not len(times):
        return attributes
    numbers = np.array([derived(str(one)) for one in times])
    added: dict[str, Any] = {TIME: pd.Series(time_T, attributes.index, dtype=object)}  # keeps None
    for name, known in zip(DERIVED, numbers.T, strict=True):
        if name not in attributes:
            added[name] = known[codes] if (codes >= 0).all() else np.array([*known.tolist(), None], object)[codes]
    return attributes.assign(**added)


def domains_by_month(catalog: Catalog, dataset: str, months: Months, attributes: "pd.DataFrame") -> NDArray[np.object_]:
    """The domain (T,) of each tile by the month of its time. Raises CatalogError where no tile has a time."""
    import pandas as pd

    codes, times = pd.factorize(attributes[TIME].to_numpy(dtype=object) if TIME in attributes else np.empty(0, object))
    if not len(times):
        raise CatalogError(f"{catalog.place(dataset, 'domain', 'months')}: no scene has a time; {NO_TIME}")
    names = [months.of_month(derived(str(one))[1]) or UNSPECIFIED for one in times]
    return np.array([*names, UNSPECIFIED], dtype=object)[codes]


def _by_pattern(catalog: Catalog, dataset: str, pattern: NamePattern, scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    timed: list[Scene] = []
    problems: list[str] = []
    for scene in scenes:
        try:
            timed.append(replace(scene, time=pattern.read(_below(catalog, scene))))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        several = f" (and {len(problems) - 1} more of {len(scenes)} files)" if len(problems) > 1 else ""
        raise CatalogError(f"{catalog.place(dataset, 'time', 'pattern')}: {problems[0]}{several}")
    return tuple(timed)


def _column(catalog: Catalog, dataset: str) -> str:
    rule = catalog.entry(dataset).time
    return rule.column if rule is not None and rule.column is not None else TIME


def _below(catalog: Catalog, scene: Scene) -> str:
    """The path of a scene's first file relative to the catalogue's folder, since names above it do not concern it."""
    return scene.files[0].removeprefix(f"{catalog.folder}/")


def _read(catalog: Catalog, dataset: str, value: Any, owner: str) -> str | None:
    if is_missing(value):
        return None
    try:
        return read_time(value)
    except ValueError as error:
        rule = catalog.entry(dataset).time
        place = catalog.place(dataset, *(("time", "column") if rule else ()))
        remedy = "" if rule else f", or rename the column if {TIME!r} is no date"
        column = _column(catalog, dataset)
        raise CatalogError(f"{place}: {owner} has {value!r} in the column {column!r}, which {error}{remedy}") from error


def _days(one: str, other: str) -> int:
    return abs((date.fromisoformat(one[:10]) - date.fromisoformat(other[:10])).days)
