"""The catalogue, with the line of every key for messages, and the Source with scenes that is made from an entry."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from geomae.catalog.band_order import StoredOrder
from geomae.catalog.schema import CatalogFile, DatasetEntry
from geomae.config import explain
from geomae.errors import CatalogError, nearest
from geomae.files import YamlDocument, digest, read_yaml
from geomae.sensors import Band, Sensor, inline_sensor, sensor


@dataclass(frozen=True)
class Catalog:
    """A checked catalogue; its paths are relative to `folder`."""

    path: Path
    folder: Path
    entries: Mapping[str, DatasetEntry]
    default: tuple[str, ...]
    document: YamlDocument = field(repr=False)

    def entry(self, dataset: str) -> DatasetEntry:
        """The entry of a data set. Raises CatalogError, with the nearest known name, for an unknown one."""
        if dataset not in self.entries:
            raise CatalogError(f"{self.path}: there is no data set {dataset!r}; {nearest(dataset, self.entries)}")
        return self.entries[dataset]

    def where(self, dataset: str, *keys: str | int) -> str:
        """`file:line` of a key of a data set, or of the innermost key above it that the file has."""
        return self.document.where(("datasets", dataset, *keys))

    def place(self, dataset: str, *keys: str | int) -> str:
        """`file:line: datasets.NAME.key`, the beginning of messages about this key."""
        return f"{self.where(dataset, *keys)}: {'.'.join(map(str, ('datasets', dataset, *keys)))}"

    @contextlib.contextmanager
    def at(self, dataset: str, *keys: str | int) -> Iterator[None]:
        """Context manager that puts the place of a key before the message of a CatalogError."""
        try:
            yield
        except CatalogError as error:
            raise CatalogError(f"{self.place(dataset, *keys)}: {error}") from error

    def sensor(self, dataset: str) -> Sensor | None:
        """The sensor that the entry names or defines; None where it has no `sensor`."""
        entry = self.entry(dataset).sensor
        if entry is None:
            return None
        with self.at(dataset, "sensor"):
            if isinstance(entry, str):
                return sensor(entry)
            if isinstance(entry, tuple):
                return inline_sensor(dataset, entry)
            inline = dict(entry)
            return inline_sensor(str(inline.pop("name", dataset)), inline)

    def digest(self, names: Sequence[str]) -> str:
        """Digest (32 characters) of the entries of these data sets; their order and notation do not matter."""
        entries = {name: self.entry(name).model_dump(mode="json") for name in names}
        for entry in entries.values():
            for keys, name in (
                (entry, "places"),
                (entry, "time"),
                (entry, "stac"),
                (entry, "cube"),
                (entry["label"], "vector"),
            ):
                if keys is not None and keys[name] is None:  # newer keys: digests of older runs must not change
                    del keys[name]
            if entry["sample"] is not None and entry["sample"]["shift"] is None:
                entry["sample"] = {key: entry["sample"][key] for key in ("seed", "size", "scenes")}  # likewise
        return digest(entries)


def open_catalog(path: Path | str) -> Catalog:
    """Read and check a catalogue.

    Raises CatalogError or ConfigError, with file, line, key and remedy, for a missing file, for invalid YAML, for
    duplicate and unknown keys, for invalid values, and for keys that contradict each other.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "there is no catalogue"
        raise CatalogError(
            f"{path}: {problem}; name one with --catalog, or write one: `geomae catalog init FOLDER` for your rasters, "
            "`geomae catalog init --sample` to try things on"
        )
    document = read_yaml(path)
    try:
        checked = CatalogFile.model_validate(document.values)
    except ValidationError as error:
        raise CatalogError(explain(error, document)) from error
    catalog = Catalog(path, path.absolute().parent, checked.datasets, checked.default, document)
    for name in catalog.entries:
        catalog.sensor(name)  # so that a misspelt sensor is found before files are searched
    return catalog


def with_absolute_path(catalog: Catalog) -> Catalog:
    """The catalogue with the absolute path of its file, since a run may be resumed from another folder."""
    path = catalog.path.absolute()
    return replace(catalog, path=path, document=replace(catalog.document, path=path))


@dataclass(frozen=True, slots=True)
class BandFile:
    """One stored band: a file and the number of the band in it, counted from 1 as GDAL does."""

    path: str
    index: int = 1


@dataclass(frozen=True)
class StatedGrid:
    """The grid of a file by metadata: CRS (authority string or WKT) and (height, width); None where not given.

    The file itself is decisive; it is compared with this when its scene is indexed.
    """

    path: str
    crs: str | None
    shape: tuple[int, int] | None


@dataclass(frozen=True)
class Scene:
    """One place at one date: the stored bands that are read together, on one grid.

    `bands` has the order of `Source.bands`. `stem` replaces `{stem}` in the patterns of masks and labels. `time` is the
    acquisition time (see `times`), None where unknown. `stated_grids` are the grids of files according to metadata.
    """

    id: str
    stem: str
    bands: tuple[BandFile, ...]
    mask: BandFile | None = None
    label_path: str | None = None
    attributes: Mapping[str, str | float | None] = field(default_factory=dict)
    time: str | None = None
    stated_grids: tuple[StatedGrid, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The distinct files that hold the bands, in the order of the bands."""
        return tuple(dict.fromkeys(band.path for band in self.bands))


@dataclass(frozen=True)
class Source:
    """A data set that is ready to be read.

    Physical value = stored value x scale + offset, per band, in `unit`. `stored_bands` is the number of bands in each
    file, and `order` lists them (both None where every band has its own file). `invalid_bits` and `invalid_values` are
    the bits and values of a scene's mask that mark a pixel as invalid. `gsd_m` is the resolution of the grid to which
    all bands are resampled; None means that of the finest file of each scene.
    """

    name: str
    sensor: str
    bands: tuple[Band, ...]
    unit: str
    scale_C: tuple[float, ...]
    offset_C: tuple[float, ...]
    nodata: tuple[float, ...]
    gsd_m: float | None
    scenes: tuple[Scene, ...]
    stored_bands: int | None = None
    invalid_bits: tuple[int, ...] = ()
    invalid_values: tuple[int, ...] = ()
    remote: bool = False
    order: StoredOrder | None = None
