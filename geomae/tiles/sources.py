"""The files behind a data set: of the user, of generated landscapes, and of the data sets of torchgeo.

torchgeo finds, splits and labels files, and `rasters` reads them. Its data sets without a list of files are written
once as files (`torchgeo_classes`).

RESOLVERS is the registry: a new kind of source is a key of the catalogue's schema and an entry there (CONTRIBUTING.md).
"""

import inspect
import logging
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from geomae.catalog import Catalog, DatasetEntry, Source, resolve_files, resolve_stac, source_from_paths
from geomae.catalog.paths import common_folder
from geomae.catalog.patterns import escape_pattern
from geomae.catalog.stored_bands import DescribeBands
from geomae.errors import CatalogError, nearest
from geomae.files import confine
from geomae.rasters import describe_bands
from geomae.tiles import sample_landscape as landscape
from geomae.tiles.cube_sources import resolve_cube
from geomae.tiles.sample_shifts import Shift
from geomae.tiles.torchgeo_datasets import band_tokens, label_text, rows_as_files, stored_bands

SAMPLE_DEFAULTS: dict[str, Any] = {
    "tile": {"size": 64, "stride": 32},
    "split": {"block_km": 1, "fractions": {"train": 0.8, "val": 0.1, "test": 0.1}, "seed": 0},
}

PATH_ARGUMENTS = ("root", "paths")
DEFAULT_FOLDER = "data"  # torchgeo's own, but relative to the catalogue and not to where the command was started
WITHOUT_EFFECT = {
    "transforms": "pixels are read as they are stored; remove it",
    "crs": "every file is read on its own grid; remove it",
    "res": "write `gsd_m` beside `sensor`",
}
UNPICKLES = {  # classes that read their files with pickle, which runs code, and torchgeo's first release without that
    "SKIPPD": (0, 10),  # its dates: numpy.load(..., allow_pickle=True)
}
RASTERS = (".tif", ".tiff", ".gtif", ".jp2", ".png", ".jpg", ".jpeg", ".webp")
logger = logging.getLogger(__name__)


def open_source(catalog: Catalog, dataset: str) -> Source:
    """The Source of a data set; see `prepare`."""
    return prepare(catalog, dataset)[1]


def prepare(catalog: Catalog, dataset: str) -> tuple[Catalog, Source]:
    """The Source of a data set, and the catalogue in which its entry is complete.

    A generated or torchgeo source adds keys that the entry leaves out (`table`, `label`, `split`, ...), so that callers
    must use the returned catalogue. The user's own keys take precedence. The paths of a `sample` are relative to the
    folder of the landscape, which is generated on first use. Raises CatalogError where entry and files do not match.
    """
    return RESOLVERS[catalog.entry(dataset).source](catalog, dataset)


def _describe(catalog: Catalog, dataset: str) -> DescribeBands:
    return partial(describe_bands, remote=catalog.entry(dataset).remote)


def _files(catalog: Catalog, dataset: str) -> tuple[Catalog, Source]:
    return catalog, resolve_files(catalog, dataset, _describe(catalog, dataset))


def _torchgeo(catalog: Catalog, dataset: str) -> tuple[Catalog, Source]:
    listing = list_torchgeo(catalog, dataset)
    if isinstance(listing.bands, dict):
        files = {"path": listing.paths, "bands": listing.bands}
        return _files(_completed(catalog, dataset, forced=files, without=("torchgeo", "args")), dataset)
    known: dict[str, Any] = {"bands": listing.bands} if listing.bands else {}
    if listing.attributes:
        known["label"] = {"column": "label"}
    catalog = _completed(catalog, dataset, defaults=known)
    source = source_from_paths(
        catalog, dataset, listing.paths, _describe(catalog, dataset), root=listing.root, attributes=listing.attributes
    )
    return catalog, source


Resolver = Callable[[Catalog, str], tuple[Catalog, Source]]  # see `prepare`
RESOLVERS: Mapping[str, Resolver] = {  # by key of the entry, which catalog.schema.SOURCES lists
    "path": _files,
    "stac": lambda catalog, dataset: (catalog, resolve_stac(catalog, dataset, _describe(catalog, dataset))),
    "cube": lambda catalog, dataset: (catalog, resolve_cube(catalog, dataset)),
    "torchgeo": _torchgeo,
    "sample": lambda catalog, dataset: _files(_with_landscape(catalog, dataset), dataset),
}


@dataclass(frozen=True)
class Listing:
    """The files of a data set.

    `bands` is a default for the entry's: a list in stored order, or, when `paths` are patterns with {band}, a mapping
    from name to token. `attributes` are by path; names of scenes are relative to `root`.
    """

    paths: tuple[str, ...]
    root: str
    bands: list[str | None] | dict[str, str] | None = None
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def list_torchgeo(catalog: Catalog, dataset: str) -> Listing:
    """List the files of an entry with `torchgeo`, which torchgeo may unpack first, or download with `remote: true`.

    Raises CatalogError, with file, line and remedy, for an unknown class or argument, for a path that leaves the
    catalogue's folder, for data that are not there, and for data sets whose rows are not one (C, H, W) image.
    """
    place = catalog.place(dataset, "torchgeo")
    sensor = catalog.sensor(dataset)
    if sensor is None:
        raise CatalogError(f"{place}: torchgeo does not say which sensor; add `sensor`, a name or inline bands")
    module = _datasets()
    kind = _class(module, catalog, dataset)
    arguments = _arguments(module, kind, catalog, dataset)
    made = _constructed(module, kind, arguments, place)
    folders = [path for name in PATH_ARGUMENTS for path in _as_list(arguments.get(name, []))]
    root = common_folder([path if Path(path).is_dir() else path.rpartition("/")[0] for path in folders])
    written = catalog.entry(dataset).bands
    if isinstance(made, module.GeoDataset):
        expression, files = _rasters(module, made, place)
        if "band" in expression.groupindex:
            patterns = tuple(dict.fromkeys(_band_pattern(file, expression) for file in files))
            listing = Listing(patterns, root, band_tokens(made, sensor, written, place, strict="bands" in arguments))
        else:
            listing = Listing(tuple(files), root, stored_bands(made, sensor, place) if written is None else None)
    elif listed := _listed(made):
        bands = stored_bands(made, sensor, place) if written is None else None
        listing = Listing(
            tuple(listed), root, bands, {path: {"label": label} for path, label in listed.items() if label}
        )
    else:
        rows, labels = rows_as_files(made, arguments, folders, place)
        attributes = {path: {"label": label} for path, label in labels.items()}
        return Listing(rows, rows[0].rpartition("/")[0], None, attributes)
    for path in listing.paths:
        confine(Path(path), catalog.folder, outside=catalog.entry(dataset).outside, where=place)
    return listing


def _with_landscape(catalog: Catalog, dataset: str) -> Catalog:
    """The catalogue with the entry of a `sample` replaced by that of the landscape's files, in their folder."""
    entry = catalog.entry(dataset)
    assert entry.sample is not None
    drawn = entry.sample
    shift = Shift(drawn.shift, drawn.strength) if drawn.shift else None
    with catalog.at(dataset, "sample"):
        folder = landscape.landscape(seed=drawn.seed, size=drawn.size, scenes=drawn.scenes, shift=shift)
    defaults = SAMPLE_DEFAULTS | landscape.describe(shift, drawn.side)
    if entry.windows is not None:
        del defaults["tile"]
    if entry.unit is not None:  # the default scale belongs to the default unit
        del defaults["scale"], defaults["offset"]
    return _completed(catalog, dataset, folder=folder, defaults=defaults, without=("sample",))


def _completed(
    catalog: Catalog,
    dataset: str,
    *,
    folder: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
    forced: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
) -> Catalog:
    """The catalogue with one entry changed: the user's keys override `defaults`, and `forced` overrides both."""
    written = catalog.entry(dataset).model_dump(exclude_unset=True, by_alias=True)
    kept = {key: value for key, value in written.items() if key not in without}
    entry = DatasetEntry.model_validate({**(defaults or {}), **kept, **(forced or {})})
    return replace(catalog, folder=folder or catalog.folder, entries={**catalog.entries, dataset: entry})


def _datasets() -> Any:
    """The module `torchgeo.datasets`; imported here because that takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in its many dependencies do not concern the user
        import torchgeo.datasets
    return torchgeo.datasets


def _class(module: Any, catalog: Catalog, dataset: str) -> Any:
    wanted = catalog.entry(dataset).torchgeo_source
    assert wanted is not None
    kind = getattr(module, wanted.class_name, None)
    if isinstance(kind, type) and issubclass(kind, (module.GeoDataset, module.NonGeoDataset)):
        if inspect.isabstract(kind):
            place = catalog.place(dataset, "torchgeo")
            raise CatalogError(f"{place}: {wanted.class_name} is a base class; name a class that derives from it")
        _refuse_pickle(kind, catalog.place(dataset, "torchgeo"))
        return kind
    known = [
        name
        for name in module.__all__
        if isinstance(one := getattr(module, name), type) and issubclass(one, (module.GeoDataset, module.NonGeoDataset))
    ]
    remedy = nearest(wanted.class_name, known)
    raise CatalogError(
        f"{catalog.place(dataset, 'torchgeo')}: torchgeo has no data set {wanted.class_name!r}; {remedy}"
    )


def _refuse_pickle(kind: Any, place: str) -> None:
    """Raise CatalogError for a class that this release of torchgeo lets unpickle its files."""
    installed = tuple(int(number) for number in version("torchgeo").split(".")[:2])
    for name in {base.__name__ for base in kind.__mro__} & set(UNPICKLES):
        if installed < UNPICKLES[name]:
            first = ".".join(map(str, UNPICKLES[name]))
            raise CatalogError(
                f"{place}: {name} reads its files with pickle, which can run code from them; take torchgeo {first} or "
                "newer, or save its images as GeoTIFF and name them with `path`"
            )


def _arguments(module: Any, kind: Any, catalog: Catalog, dataset: str) -> dict[str, Any]:
    """The arguments of the class, with paths made absolute."""
    entry = catalog.entry(dataset)
    wanted = entry.torchgeo_source
    assert wanted is not None
    above = ("args",) if isinstance(entry.torchgeo, str) else ("torchgeo", "args")
    known = inspect.signature(kind).parameters
    arguments = dict(wanted.args)
    for name in arguments:
        place = catalog.place(dataset, *above, name)
        if name not in known:
            raise CatalogError(f"{place}: {wanted.class_name} takes no argument {name!r}; {nearest(name, known)}")
        if name == "transforms" or (name in WITHOUT_EFFECT and issubclass(kind, module.RasterDataset)):
            raise CatalogError(f"{place}: has no effect here; {WITHOUT_EFFECT[name]}")
    if arguments.get("download") and not entry.remote:
        place = catalog.place(dataset, *above, "download")
        raise CatalogError(f"{place}: downloads are not allowed; add `remote: true` to allow them")
    for name in PATH_ARGUMENTS:
        if name not in known:
            continue
        place = catalog.place(dataset, *above, name)
        paths = _as_list(arguments.get(name, DEFAULT_FOLDER))
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise CatalogError(f"{place}: must be a path, or a list of paths; correct it")
        for path in paths:
            confine(Path(path), catalog.folder, outside=entry.outside, where=place)
        absolute = [str(catalog.folder / path) for path in paths]
        arguments[name] = absolute if isinstance(arguments.get(name), list) else absolute[0]
    return arguments


def _constructed(module: Any, kind: Any, arguments: Mapping[str, Any], place: str) -> Any:
    """The data set. Any error of torchgeo becomes a CatalogError of one line; its warnings go to the log."""
    name = kind.__name__
    folder = next((str(arguments[key]) for key in PATH_ARGUMENTS if key in arguments), "its folder")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = kind(**arguments)
    except module.DatasetNotFoundError as error:
        remedy = "put the data there or correct the path in `args`"
        if "download" in inspect.signature(kind).parameters:
            remedy += ", or add `download: true` to `args` and `remote: true` beside it"
        raise CatalogError(f"{place}: {name} finds no data in {folder}; {remedy}") from error
    except module.DependencyNotFoundError as error:
        raise CatalogError(f"{place}: {name} needs another package: {_line(error)}; install it") from error
    except Exception as error:  # torchgeo raises many kinds of errors
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise CatalogError(f"{place}: {name}({given}) fails: {_line(error)}; correct `args` or the data") from error
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        logger.warning("%s: %s: %s", place, name, message)
    return made


def _listed(made: Any) -> dict[str, str | None]:
    """Image files with their labels, where the data set lists them: torchvision's `samples`, or torchgeo's `files`."""
    classes = getattr(made, "classes", None)
    for attribute in ("samples", "imgs", "files"):
        listed = getattr(made, attribute, None)
        if not isinstance(listed, (list, tuple)) or not listed:
            continue
        pairs = [_file_and_label(one) for one in listed]
        if all(Path(path).is_absolute() and Path(path).suffix.lower() in RASTERS for path, _ in pairs):
            return {path: label_text(label, classes) for path, label in pairs}
    return {}


def _file_and_label(listed: Any) -> tuple[str, Any]:
    """The path and label of one element of a list; without a path, an empty one."""
    path, label = listed, None
    if isinstance(listed, tuple) and len(listed) == 2:
        path, label = listed
    elif isinstance(listed, Mapping):
        path, label = listed.get("image"), listed.get("label", listed.get("cls"))
    is_file = isinstance(label, str) and Path(label).suffix.lower() in RASTERS  # a label raster, not a class name
    return str(path) if isinstance(path, (str, Path)) else "", None if is_file else label


def _rasters(module: Any, made: Any, place: str) -> tuple[re.Pattern[str], list[str]]:
    """The expression for names of a RasterDataset, and the files that it accepts; sidecars are left out."""
    name = type(made).__name__
    if not isinstance(made, module.RasterDataset):
        raise CatalogError(f"{place}: {name} has no list of raster files; name the files with `path`")
    if not made.is_image:
        raise CatalogError(f"{place}: {name} holds labels, not imagery; use its files as `label: {{raster: ...}}`")
    expression = re.compile(made.filename_regex, re.VERBOSE)
    files = [one for one in made.files if Path(one).suffix.lower() in RASTERS and expression.match(Path(one).name)]
    if not files:
        raise CatalogError(f"{place}: {name} lists no raster ({', '.join(RASTERS)}); convert the files, or use `path`")
    if made.separate_files and "band" not in expression.groupindex:
        raise CatalogError(f"{place}: {name} has one file per band; name the files with `path`, {{band}} in it")
    return expression, files


def _band_pattern(file: str, expression: re.Pattern[str]) -> str:
    """The path of one band's file with {band} for the band, and wildcards for the resolution that goes with it."""
    path = PurePosixPath(file)
    match = expression.match(path.name)
    assert match is not None
    spans = [(*match.span("band"), "{band}")]
    folder, name = escape_pattern(str(path.parent)), path.name
    if match.groupdict().get("resolution"):
        spans.append((*match.span("resolution"), "*m"))
        folder = re.sub(r"(?<=/)R\d+m$", "R*m", folder)
    pieces, last = [], 0
    for start, end, text in sorted(spans):
        pieces += [escape_pattern(name[last:start]), text]
        last = end
    return f"{folder}/{''.join(pieces)}{escape_pattern(name[last:])}"


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _line(error: Exception) -> str:
    """An error in one line, with its class, because assertions often have no message."""
    return f"{type(error).__name__} {' '.join(str(error).split())}".strip()
