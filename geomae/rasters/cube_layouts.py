"""The dimensions of a cube (y, x, time, band), the arrays that can be read, and the dates of its steps."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geomae.catalog.schema_cubes import Cube, CubeAddress
from geomae.catalog.times import read_time
from geomae.errors import RasterError, nearest
from geomae.rasters.cube_stores import check_store, open_store, store_stamp

if TYPE_CHECKING:
    import xarray as xr

MOST_BANDS = 1000  # imaging spectrometers have some hundred; with more, another dimension was mistaken for bands
NAMES = {
    "y": frozenset(("y", "lat", "latitude", "row", "rows", "northing")),
    "x": frozenset(("x", "lon", "long", "longitude", "col", "cols", "column", "columns", "easting")),
    "time": frozenset(("time", "t", "date", "dates", "datetime", "valid_time")),
}
STANDARD_NAMES = {
    "y": frozenset(("projection_y_coordinate", "latitude", "grid_latitude")),
    "x": frozenset(("projection_x_coordinate", "longitude", "grid_longitude")),
    "time": frozenset(("time",)),
}
SHOWN = 8  # names in a message


@dataclass(frozen=True)
class CubeLayout:
    """The contents of a cube on one grid.

    `variables` are the arrays to read, in the order of the catalogue or of the store; with `band` the single array that
    holds all bands. `times` has one entry per step, None for a step without a date; without a time dimension there is
    one step. `readable` are `variables` and all other arrays on the grid without a band dimension; `timeless` are those
    without a time dimension. `absent` names chunks without a file, which may not be written yet.
    """

    store: str
    variables: tuple[str, ...]
    y: str
    x: str
    band: str | None
    time: str | None
    times: tuple[str | None, ...]
    readable: tuple[str, ...]
    timeless: frozenset[str]
    absent: str | None = None

    def address(self, variable: str, step: int) -> CubeAddress:
        """The address of an array at one step."""
        band = self.band if variable in self.variables else None
        if self.time is None or variable in self.timeless:
            return CubeAddress(self.store, variable, self.y, self.x, band)
        return CubeAddress(self.store, variable, self.y, self.x, band, self.time, step)


def describe_cube(store: str, wanted: Cube, *, remote: bool) -> CubeLayout:
    """The layout of a cube that is safe to read. Raises RasterError as `layout_of` and `check_store` do."""
    absent = None if remote else check_store(store)
    layout = layout_of(open_store(store, None if remote else store_stamp(store)), store, wanted)
    return replace(layout, absent=absent)


def layout_of(cube: "xr.Dataset", store: str, wanted: Cube) -> CubeLayout:
    """Identify the dimensions of a cube: from the catalogue, else from names and attributes.

    Raises RasterError where a dimension has two candidates or none, where arrays lie on different grids, and where
    there are more bands than any sensor has.
    """
    arrays = _arrays(cube, store, wanted)
    dims = list(dict.fromkeys(str(dim) for name in arrays for dim in cube[name].dims))
    for key in ("band", "time", "y", "x"):
        named = getattr(wanted, key)
        if named is not None and named not in dims:
            raise RasterError(f"{store}: no array that is read has the dimension {named!r}; {nearest(named, dims)}")
    given = {named for key in ("band", "time", "y", "x") if (named := getattr(wanted, key)) is not None}
    y, x = (_dimension(cube, store, dims, key, getattr(wanted, key), given) for key in ("y", "x"))
    if y is None or x is None:
        key = "y" if y is None else "x"
        raise RasterError(
            f"{store}: no dimension of {', '.join(dims)} is {key} by name or attributes; name it: `{key}:`"
        )
    time = _dimension(cube, store, dims, "time", wanted.time, given)
    known = {y, x, time}
    if wanted.variables is None:
        arrays = [name for name in arrays if {y, x} <= set(cube[name].dims)]
    everywhere = wanted.variables is not None  # else a quality array without bands may be among them
    band = wanted.band or _band(cube, store, arrays, known, everywhere=everywhere)
    if band is not None:
        arrays = [name for name in arrays if band in cube[name].dims] if wanted.variables is None else arrays
        _check_one(store, arrays, band)
    _check_grids(cube, store, arrays, {y, x}, known | {band})
    count = cube.sizes[band] if band else len(arrays)
    if count > MOST_BANDS:
        what = f"its dimension {band!r} has {count}" if band else f"{count} arrays"
        raise RasterError(f"{store}: {what} bands, more than any sensor has; name the right one with `band`, y and x")
    figures = [str(name) for name, one in cube.variables.items() if one.dtype.kind in "biufc"]
    plain = [name for name in figures if {y, x} <= set(cube[name].dims) <= known]
    readable = plain if band is None else [*arrays, *plain]
    timeless = frozenset(name for name in readable if time not in cube[name].dims)
    return CubeLayout(store, tuple(arrays), y, x, band, time, _times(cube, store, time), tuple(readable), timeless)


def labels_of(cube: "xr.Dataset", band: str) -> tuple[str | None, ...]:
    """The names of the bands along their dimension; None where its coordinates are numbers or missing."""
    if band not in cube.variables or cube[band].dtype.kind not in "OUST":
        return (None,) * cube.sizes[band]
    return tuple(one.decode() if isinstance(one, bytes) else str(one) for one in cube[band].values.tolist())


def _arrays(cube: "xr.Dataset", store: str, wanted: Cube) -> list[str]:
    """The arrays that the catalogue names, else all numeric arrays with at least two dimensions."""
    there = [str(name) for name, one in cube.variables.items() if one.ndim >= 2 and one.dtype.kind in "biufc"]
    for name in wanted.variables or ():
        if name not in there:
            raise RasterError(f"{store}: has no numeric array {name!r} with rows and columns; {nearest(name, there)}")
    if not there:
        raise RasterError(f"{store}: holds no numeric array with rows and columns; name the group that does")
    beside = {name for one in cube.variables.values() for key in ("coordinates", "bounds") for name in _named(one, key)}
    return list(wanted.variables or [name for name in there if name not in beside])


def _named(variable: "xr.Variable", key: str) -> list[str]:
    return str(variable.attrs.get(key, "")).split()


def _dimension(
    cube: "xr.Dataset", store: str, dims: Sequence[str], key: str, named: str | None, given: set[str]
) -> str | None:
    if named is not None:
        return named
    found = [dim for dim in dims if dim not in given and _is(cube, dim, key)]
    if len(found) > 1:
        raise RasterError(
            f"{store}: {key} can be {' or '.join(found)}; name one with `{key}:`, and `variables` that have it"
        )
    return found[0] if found else None


def _is(cube: "xr.Dataset", dim: str, key: str) -> bool:
    """Whether a dimension is `key` (y, x or time), by the attributes of its coordinate, else by its name."""
    attributes: dict[Any, Any] = cube[dim].attrs if dim in cube.variables else {}
    axis = str(attributes.get("axis", "")).upper()
    if axis:
        return axis == {"y": "Y", "x": "X", "time": "T"}[key]
    standard = str(attributes.get("standard_name", ""))
    if any(standard in names for names in STANDARD_NAMES.values()):
        return standard in STANDARD_NAMES[key]
    return dim.lower() in NAMES[key]


def _band(
    cube: "xr.Dataset", store: str, arrays: Sequence[str], known: set[str | None], *, everywhere: bool
) -> str | None:
    """The one dimension that is not in `known`, or None; with `everywhere` it must be in all arrays."""
    left = list(dict.fromkeys(str(dim) for name in arrays for dim in cube[name].dims if dim not in known))
    if everywhere:
        left = [dim for dim in left if all(dim in cube[name].dims for name in arrays)]
    if len(left) > 1:
        raise RasterError(
            f"{store}: band can be {' or '.join(left)}; name one with `band:`, and `variables` that have it"
        )
    return left[0] if left else None


def _check_one(store: str, arrays: Sequence[str], band: str) -> None:
    if len(arrays) > 1:
        several = ", ".join(arrays[:SHOWN])
        raise RasterError(f"{store}: several arrays have the bands {band!r} ({several}); name one with `variables`")


def _check_grids(cube: "xr.Dataset", store: str, arrays: Sequence[str], grid: set[str], known: set[str | None]) -> None:
    for name in arrays:
        dims: tuple[Hashable, ...] = cube[name].dims
        if not grid <= set(dims) or not set(dims) <= known:
            raise RasterError(
                f"{store}: {name!r} has the dimensions {', '.join(map(str, dims))}, and is not on the grid "
                f"{', '.join(sorted(grid))}; name `variables` of one grid, and make a separate data set of the others"
            )


def _times(cube: "xr.Dataset", store: str, time: str | None) -> tuple[str | None, ...]:
    """The date of each step, as `read_time` writes it."""
    if time is None:
        single = next((name for name in sorted(NAMES["time"]) if name in cube.variables and cube[name].ndim == 0), None)
        return (None,) if single is None else _dates(cube, store, single)
    if time not in cube.variables:
        return (None,) * cube.sizes[time]
    return _dates(cube, store, time)


def _dates(cube: "xr.Dataset", store: str, name: str) -> tuple[str | None, ...]:
    import xarray as xr

    remedy = "write `units: days since 1970-01-01` in a standard calendar, or dates as text"
    stored = cube[[name]]
    if stored[name].dtype.kind in "OUST":
        texts = [one.decode() if isinstance(one, bytes) else one for one in np.atleast_1d(stored[name].values).tolist()]
        try:
            return tuple(read_time(text) for text in texts)
        except ValueError as error:
            raise RasterError(f"{store}: a value of {name!r} {error}") from error
    try:
        decoded = xr.decode_cf(stored.reset_coords(), mask_and_scale=True)[name].values
    except Exception as error:  # pandas and xarray raise various errors for dates out of range
        raise RasterError(f"{store}: the dates of {name!r} cannot be read ({error}); {remedy}") from error
    if decoded.dtype.kind != "M" or np.isnat(decoded).any():
        raise RasterError(f"{store}: not every value of {name!r} is a date; {remedy}")
    seconds = np.atleast_1d(decoded).astype("datetime64[s]")
    return tuple(read_time(str(one).removesuffix("T00:00:00")) for one in seconds)
