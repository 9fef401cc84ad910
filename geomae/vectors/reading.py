"""Reading vector files: the supported formats, the layer that is returned, and errors for files that cannot be read.

GDAL tries all its drivers on a file, and some of them (OGR VRT, GPX over HTTP) open other files that it names. Here,
suffix and the first bytes of a file determine the only driver that may read it. A file is opened, read completely and
closed within one call, so that no open handle crosses a fork.
"""

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from geomae.catalog import Catalog
from geomae.catalog.attributes import plain_values, read_csv
from geomae.catalog.paths import is_url, require_file
from geomae.errors import CatalogError, nearest

if TYPE_CHECKING:
    import pandas as pd

Geometries = NDArray[np.object_]  # shapely geometries, None for a feature without one


@dataclass(frozen=True)
class Format:
    """A vector format: its name, the first bytes of its files, and the prefix that restricts GDAL to one driver.

    `driver` is put before the path. It is empty for Shapefiles, whose first bytes no other driver accepts, and None for
    formats that are not read by GDAL.
    """

    name: str
    begins: tuple[bytes, ...]
    driver: str | None = None


_GEOJSON = Format("GeoJSON", (b"{",), "GEOJSON:")
_LINES = Format("newline-delimited GeoJSON", (b"{", b"\x1e"), "GeoJSONSeq:")
_PARQUET = Format("GeoParquet", (b"PAR1",))
FORMATS = {
    ".gpkg": Format("GeoPackage", (b"SQLite format 3\0",), "GPKG:"),
    ".geojson": _GEOJSON,
    ".json": _GEOJSON,
    ".geojsonl": _LINES,
    ".parquet": _PARQUET,
    ".geoparquet": _PARQUET,
    ".shp": Format("Shapefile", (b"\0\0\x27\x0a",), ""),
    ".csv": Format("CSV", ()),
}
FOREIGN = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"SQLite format 3\0": "an SQLite data base, as GeoPackage is (.gpkg)",
    b"\0\0\x27\x0a": "a Shapefile (.shp)",
    b"PAR1": "Parquet (.parquet)",
    b"{": "JSON (.geojson)",
    b"<": "XML or HTML",
    b"version https://git-lfs": "a Git LFS pointer, whose file was not fetched",
}
ARCHIVES = (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar")
GDAL_SIGNS = "!:"  # in a path, GDAL and pyogrio read these as an archive or a table within a file
SIDECARS = {".shx": "the index of its shapes", ".dbf": "its columns", ".prj": "its CRS"}
X, Y, CRS = "x", "y", "crs"  # columns of a CSV file
DEGREES = "OGC:CRS84"
KINDS = {0: "points", 1: "lines", 2: "lines", 3: "polygons", 4: "points", 5: "lines", 6: "polygons", 7: "collections"}


@dataclass(frozen=True)
class VectorLayer:
    """One layer of a vector file with N features. The object is cached and shared: do not modify it.

    `geometries` (N) are two-dimensional. `crs` is an authority string or WKT; coordinates are x (east) before y.
    `columns` (N rows) hold numbers, text and booleans, with None (NaN among numbers) for missing values. Dates are ISO
    8601 text (`2021-05-03`, `2021-05-03T10:00:00Z`), which can be compared and stored as it is. Columns of lists and
    bytes are left out.
    """

    path: str
    layer: str | None
    layers: tuple[str, ...]
    geometries: Geometries
    crs: str
    columns: "pd.DataFrame"

    def __len__(self) -> int:
        return len(self.geometries)

    @property
    def kinds(self) -> dict[str, int]:
        """Number of points, lines, polygons and collections; features without a geometry do not count."""
        types, counts = np.unique(shapely.get_type_id(self.geometries), return_counts=True)
        kinds: dict[str, int] = {}
        for number, count in zip(types.tolist(), counts.tolist(), strict=True):
            if number >= 0:
                kinds[KINDS[number]] = kinds.get(KINDS[number], 0) + count
        return kinds

    def require(self, kind: str, place: str, remedy: str) -> None:
        """Raise CatalogError, beginning with `place`, unless all geometries are of one kind (`points`, `polygons`)."""
        others = {name: count for name, count in self.kinds.items() if name != kind}
        if others:
            held = " and ".join(f"{count:,} {name}" for name, count in others.items())
            raise CatalogError(f"{place}: {self.path} holds {held} where {kind} are needed; {remedy}")


def vector_file(catalog: Catalog, dataset: str, path: str, *keys: str | int) -> str:
    """Return the path of the file `path`, which is relative to the catalogue.

    Raises CatalogError, at the line of `keys`, where there is no such file, where it is outside the catalogue's folder,
    and for a URL.
    """
    if is_url(path):
        place = catalog.place(dataset, *keys)
        raise CatalogError(f"{place}: vector files are read from local disks only; download {path!r} first")
    return require_file(catalog, dataset, path, *keys)


def read_vector(path: str, *, layer: str | None = None, place: str) -> VectorLayer:
    """Read the layer `layer` of a file; with None, the only layer that has geometries.

    The result is cached until the file changes. Raises CatalogError, beginning with `place`, for an unsupported format,
    for a layer that is missing or ambiguous, and for a file that is damaged, empty or without a CRS.
    """
    try:
        return _read(path, _stamp(path), layer)
    except CatalogError as error:
        raise CatalogError(f"{place}: {error}") from error


def _stamp(path: str) -> tuple[int, ...]:
    """Sizes and modification times of a file and, for a Shapefile, of the files beside it."""
    states = [one.stat() for one in (Path(path), *_beside(path).values())]
    return tuple(number for state in states for number in (state.st_size, state.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _read(path: str, stamp: tuple[int, ...], layer: str | None) -> VectorLayer:
    kind = _format(path)
    if kind.driver is not None:
        found = _from_gdal(path, kind, layer)
    elif layer is not None:
        raise CatalogError(f"{path}: {kind.name} has no layers; remove `layer`")
    else:
        found = _from_csv(path) if kind.name == "CSV" else _from_parquet(path)
    if not len(found):
        raise CatalogError(f"{path}: holds no features; correct the file, or choose another layer")
    return found


def _format(path: str) -> Format:
    """The format of a file. Raises CatalogError where suffix and first bytes are not of a supported format."""
    suffix = Path(path).suffix.lower()
    with Path(path).open("rb") as file:
        first = file.read(64)
    start = first.removeprefix(b"\xef\xbb\xbf").lstrip() if first[:1] not in b"\0" else first
    held = next((name for begin, name in FOREIGN.items() if start.startswith(begin)), "an unknown format")
    if suffix in ARCHIVES or "archive" in held:
        raise CatalogError(f"{path}: is an archive; unpack it, and name the vector file in it")
    if suffix not in FORMATS:
        raise CatalogError(
            f"{path}: vector files end in {', '.join(FORMATS)}; rename it if it is one of these, else export it as "
            "GeoPackage"
        )
    if not first:
        raise CatalogError(f"{path}: is empty; fetch or export it again")
    kind = FORMATS[suffix]
    if kind.begins and not start.startswith(kind.begins):
        raise CatalogError(f"{path}: is called {suffix}, but is not {kind.name} but {held}; rename or export it again")
    return kind


def _from_gdal(path: str, kind: Format, layer: str | None) -> VectorLayer:
    import pyogrio

    if set(GDAL_SIGNS) & set(path):
        raise CatalogError(f"{path}: {' and '.join(GDAL_SIGNS)} in a path have a special meaning for GDAL; rename it")
    if kind.name == "Shapefile":
        _check_sidecars(path)
    name = f"{kind.driver}{path}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GDAL warns of single values, which are kept as parsed
            layers = _choose(path, dict(pyogrio.list_layers(name).tolist()), layer)
            meta, _, wkb, fields = pyogrio.raw.read(name, layer=layers[0], force_2d=True, datetime_as_string=True)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.CRSError) as error:
        reason = " ".join(str(error).split())
        raise CatalogError(f"{path}: cannot be read as {kind.name} ({reason}); restore or export it again") from error
    names = [str(one) for one in meta["fields"]]
    _check_names(path, names)
    types = zip(names, fields, meta["ogr_types"], meta["ogr_subtypes"], strict=True)
    columns = {name: _boolean(values) if sub == "OFSTBoolean" else values for name, values, _, sub in types}
    geometries = shapely.from_wkb(wkb, on_invalid="ignore")
    return VectorLayer(path, layers[0], layers, geometries, _crs(path, meta["crs"]), _plain(columns, len(geometries)))


def _choose(path: str, kinds: dict[str, str | None], layer: str | None) -> tuple[str, ...]:
    """Names of the layers that have geometries, the chosen one first. Raises CatalogError where none can be chosen."""
    known = [name for name, kind in kinds.items() if kind is not None]
    if layer is None:
        if len(known) > 1:
            raise CatalogError(f"{path}: has {len(known)} layers ({', '.join(known)}); choose one with `layer`")
        if not known:
            raise CatalogError(f"{path}: has no layer with geometries; export one")
        return tuple(known)
    if layer not in known:
        problem = "has no geometries" if layer in kinds else "does not exist"
        raise CatalogError(f"{path}: the layer {layer!r} {problem}; {nearest(layer, known)}")
    return (layer, *(one for one in known if one != layer))


def _beside(path: str) -> dict[str, Path]:
    """The existing files beside a Shapefile, by suffix in lower case; suffixes may also be in capitals."""
    if Path(path).suffix.lower() != ".shp":
        return {}
    both = {suffix: (Path(path).with_suffix(suffix), Path(path).with_suffix(suffix.upper())) for suffix in SIDECARS}
    return {suffix: one for suffix, names in both.items() for one in reversed(names) if one.is_file()}


def _check_sidecars(path: str) -> None:
    there = _beside(path)
    lacking = [suffix for suffix in SIDECARS if suffix not in there]
    if lacking:
        what = " and ".join(f"{suffix} ({SIDECARS[suffix]})" for suffix in lacking)
        raise CatalogError(f"{path}: a Shapefile is several files, and {what} is missing; copy all of them")


def _check_names(path: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CatalogError(f"{path}: has two columns called {twice!r}; rename one of them")


def _boolean(values: NDArray[Any]) -> NDArray[Any]:
    """Convert GDAL's 1, 0 and NaN (missing) to True, False and None."""
    return np.array([None if value != value else bool(value) for value in values.tolist()], dtype=object)


def _crs(path: str, text: Any) -> str:
    """The horizontal part of a CRS as an authority string or WKT. Raises CatalogError for a missing or unknown CRS."""
    remedy = "assign its CRS in a GIS and export it again"
    if text is None or "undefined" in str(text).lower():
        raise CatalogError(f"{path}: does not say its CRS; {remedy}")
    try:
        return str(pyproj.CRS.from_user_input(text).to_2d().to_string())
    except pyproj.exceptions.CRSError as error:
        raise CatalogError(f"{path}: its CRS is unknown ({' '.join(str(error).split())}); {remedy}") from error


def _from_parquet(path: str) -> VectorLayer:
    import geopandas
    import pyarrow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = geopandas.read_parquet(Path(path))
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        remedy = "write it with geopandas or GDAL, which record the column of geometries"
        raise CatalogError(f"{path}: cannot be read as GeoParquet ({reason}); {remedy}") from error
    geometries = shapely.force_2d(np.asarray(frame.geometry.array))
    table = frame.drop(columns=[name for name, kind in frame.dtypes.items() if str(kind) == "geometry"])
    _check_names(path, [str(name) for name in table.columns])
    columns = {str(name): _iso(table[name]) for name in table.columns}
    return VectorLayer(path, None, (), geometries, _crs(path, frame.crs), _plain(columns, len(frame)))


def _iso(column: "pd.Series[Any]") -> NDArray[Any]:
    """The values of a column, dates as ISO text. If all times are midnight, they are days: pandas has no date type."""
    import pandas as pd

    if column.dtype.kind != "M":
        values = column.to_numpy(dtype=object) if column.dtype.kind == "O" else column.to_numpy()
        if pd.api.types.infer_dtype(column, skipna=True) in ("date", "datetime", "mixed"):
            values = np.array([one.isoformat() if hasattr(one, "isoformat") else one for one in values], dtype=object)
        return values
    zoned = getattr(column.dtype, "tz", None) is not None
    instants = column.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else column
    days = not zoned and bool((instants.dropna() == instants.dropna().dt.normalize()).all())
    values = instants.to_numpy("datetime64[D]" if days else "datetime64[ms]")
    texts = np.datetime_as_string(values, timezone="UTC" if zoned else "naive").astype(object)
    texts[np.isnat(values)] = None
    return texts


def _from_csv(path: str) -> VectorLayer:
    """Read points from a table with the columns x, y and crs; the CRS may differ between rows."""
    frame = read_csv(Path(path), path, column=X)
    for name in (X, Y, CRS):
        if name not in frame:
            what = f"has no column {name!r}; {nearest(name, [str(one) for one in frame.columns])}"
            raise CatalogError(f"{path}: {what} (a table of points needs x, y and crs, such as EPSG:4326)")
    x, y = (_numbers(path, frame[name]) for name in (X, Y))
    crs_N = frame[CRS].tolist()
    if None in crs_N:
        raise CatalogError(f"{path}, line {crs_N.index(None) + 2}: the column 'crs' is empty; write it, as EPSG:4326")
    names = {one: _crs(f"{path}, line {crs_N.index(one) + 2}", one) for one in dict.fromkeys(crs_N)}
    target = next(iter(names.values())) if len(set(names.values())) == 1 else DEGREES
    number_N = np.array([list(names).index(one) for one in crs_N])
    for number, own in enumerate(names.values()):
        if own != target:
            here = number_N == number
            x[here], y[here] = pyproj.Transformer.from_crs(own, target, always_xy=True).transform(x[here], y[here])
    known = np.isfinite(x) & np.isfinite(y)
    points = np.full(len(frame), None, dtype=object)
    points[known] = shapely.points(x[known], y[known])
    return VectorLayer(path, None, (), points, target, frame.drop(columns=[X, Y, CRS]))


def _numbers(path: str, column: "pd.Series[Any]") -> NDArray[np.float64]:
    """Coordinates of a column, NaN where missing. Raises CatalogError for text that is not a number."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.isnan(numbers) & column.notna().to_numpy()
    if wrong.any():
        line = int(wrong.argmax())
        raise CatalogError(
            f"{path}, line {line + 2}: {column.name} is {column.tolist()[line]!r}; write a number with a decimal point"
        )
    return np.array(numbers)


def _plain(columns: dict[str, NDArray[Any]], length: int) -> "pd.DataFrame":
    """A table of the columns; those that hold lists, mappings or bytes are left out."""
    import pandas as pd

    kept = {}
    for name, values in columns.items():
        column = pd.Series(values)
        nested = pd.api.types.infer_dtype(column, skipna=True) in ("mixed", "bytes")
        if not nested or not any(isinstance(one, (bytes, list, dict, np.ndarray)) for one in values):
            kept[name] = plain_values(column)
    return pd.DataFrame(kept, index=range(length))
