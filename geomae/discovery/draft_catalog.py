"""A first catalogue from a folder: rasters are sorted into data sets, and their keys are guessed from the files."""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomae.catalog import open_catalog, resolve_files, resolve_stac
from geomae.catalog.foreign_formats import foreign_by_name
from geomae.catalog.paths import is_url, local_path
from geomae.catalog.patterns import escape_pattern, literal
from geomae.catalog.schema_cubes import FILE_SUFFIXES
from geomae.catalog.stac_items import Item, find_items, item_record
from geomae.discovery.attribute_lines import with_label_rasters, with_labels, with_tables, with_time
from geomae.discovery.companions import Accompanied, is_planet_mask, with_companions
from geomae.discovery.entries import Entry, band_entry, cube_entry, evidence_of, stack_entry
from geomae.discovery.grouping import BandGroup, StackGroup, band_groups, stack_groups, telling_name
from geomae.discovery.item_entries import join_folders, stac_entry
from geomae.discovery.sensor_guess import guess_sensor, hinted_sensors
from geomae.discovery.vectors import find_tables, find_vectors
from geomae.discovery.yaml_lines import comment, flow
from geomae.errors import CatalogError, GeomaeError, RasterError
from geomae.rasters import describe_bands
from geomae.tiles.cube_sources import resolve_cube

SUFFIXES = frozenset((".tif", ".tiff", ".gtif", ".jp2", ".png", ".jpg", ".jpeg"))
LONGEST_NAME = 60  # characters of a data set's name
SHOWN = 5  # patterns of one group
WRITTEN = "# Written by `geomae catalog init`. `check` marks a guess and its reason."
TO_FILL_IN = f"{WRITTEN.removesuffix('.')}, FILL IN marks what only you can decide."
PLANET_MASK = (
    "the usable data mask of Planet, but not one for each scene here; to mask clouds, write for example "
    "`mask: {path: 'FOLDER/{stem:AnalyticMS_SR_8b=udm2}.tif', invalid_values: [0]}` (its first band is 1 where the "
    "view is clear)"
)
HEAD = (
    "# An entry can have further keys, as for masks, labels, splits and domains: see `geomae catalog schema`.",
    "version: 1",
)


FORMATS = frozenset(("images", "image", "img", "imgs", "tif", "tifs"))  # folder names without information


@dataclass(frozen=True)
class InferredCatalog:
    """Entries by the name of the data set, files that were left out on purpose, and rasters that cannot be read."""

    entries: dict[str, Entry]
    left_out: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def questions(self) -> list[str]:
        """What the user has to decide."""
        return [f"{name}: {entry.question}" for name, entry in self.entries.items() if entry.question]

    def second(self, name: str) -> str:
        """The name of the data set of tiles around points that belongs to the data set `name`."""
        return data_set_name(f"{name}_points", self.entries)

    def text(self) -> str:
        """The catalogue as commented YAML."""
        lines = []
        for name, entry in self.entries.items():
            lines += [*entry.text(name, self.second(name)), ""]
        first = TO_FILL_IN if any("FILL IN" in line for line in lines) else WRITTEN
        named = [f"default: {flow(list(self.entries))}  # if a command names no data set"]
        alone = len(self.entries) == 1 and any(entry.points for entry in self.entries.values())
        lines = [first, *HEAD, *(named if alone else ()), "datasets:", *lines]
        lines += [comment(f"not in the catalogue: {text}", indent=2) for text in self.left_out]
        return "\n".join(lines).rstrip() + "\n"


def infer_catalog(
    folder: Path, catalog_file: Path, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> InferredCatalog:
    """Infer data sets from the rasters, cubes and STAC items below `folder`, for a catalogue in `catalog_file`.

    Paths in it are relative to the folder of `catalog_file`, which need not exist. `progress` is called with (what,
    done, total). Raises CatalogError if there is no raster, or none that can be read.
    """
    check_folder(folder)
    root = folder.resolve()
    found, unread = find_items(root)
    items = join_folders(root, found)
    named = {path for _, group in items for path in asset_files(root, group)}
    paths, cubes = [path for path in find_rasters(root) if path not in named], find_cubes(root)
    if not paths and not cubes and not items:
        suffixes = ", ".join(sorted(SUFFIXES))
        foreign = find_foreign(root)
        what = f"; {foreign[0]} {foreign_by_name(foreign[0])}" if foreign else "; name another folder"
        raise CatalogError(f"{folder}: there is no raster in it or its subfolders ({suffixes}){what}")
    place = locate(root, [*paths, *cubes, *(path for path, _ in items)], catalog_file.absolute())
    with_bands, rest = band_groups(paths)
    taken = (path for group in with_bands for path in group.files)
    stacks, problems = stack_groups(
        root, rest, taken, hinted_sensors, lambda done: progress("looking at files", done, len(rest))
    )
    problems = [*unread, *problems]
    groups, of_no_scene = with_companions(stacks)
    entries, files, left_out = _entries(place, with_bands, groups, problems)
    left_out += [f"{place.below}{path}: beside scenes by its name, but of none of them" for path in of_no_scene[:SHOWN]]
    others = _cube_entries(place, cubes, entries, problems)
    others |= _item_entries(place, items, [*entries, *others], problems)
    if not entries and not others:
        count = len(paths) + len(cubes) + len(items)
        raise CatalogError(f"{folder}: none of its {count} rasters can be read; first: {problems[0]}")
    progress("looking at vector files", 0, 1)
    vectors, of_no_use = find_vectors(root, [path for path, _ in items])
    tables = find_tables(root)
    used: set[str] = set()
    for name, entry in entries.items():
        below = literal(place.below) or ""
        known = with_label_rasters(with_time(entry, files[name]), root, place.below)
        known = with_tables(known, root, below, files[name], tables)
        entries[name], met = with_labels(known, root, below, files[name], vectors)
        used |= met
    progress("looking at vector files", 1, 1)
    elsewhere = [f"{one.path}: its {one.kind} lie on no raster here" for one in vectors if one.path not in used]
    return InferredCatalog(entries | others, (*left_out, *of_no_use, *elsewhere), tuple(problems))


def check_folder(folder: Path) -> None:
    """Raise CatalogError if there is no such folder."""
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "there is no such folder"
        raise CatalogError(f"{folder}: {problem}; name the folder that holds your rasters")


def catalog_of_items(name: str, documents: Sequence[Mapping[str, Any]], file: Path) -> InferredCatalog:
    """A catalogue of one data set of STAC items, which will be written to `file` in the catalogue's folder.

    Raises CatalogError for documents that are not items, and if the items share no band.
    """
    items = [item_record(one, file.name, file.parent) for one in documents]
    return InferredCatalog({name: stac_entry(items, file.name)}, (), ())


def find_rasters(root: Path) -> list[str]:
    """Paths below `root` (relative, sorted) of files with the suffix of a raster; hidden files are left out.

    Links to folders are followed, each folder once.
    """
    paths = []
    seen: set[Path] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:
            subfolders.clear()
            continue
        seen.add(here.resolve())
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths += [
            (here / name).relative_to(root).as_posix()
            for name in files
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".") and (here / name).is_file()
        ]
    return sorted(paths)


def find_cubes(root: Path) -> list[str]:
    """Paths below `root` (relative, sorted) of Zarr stores, NetCDF4 and HDF5 files, by suffix."""
    paths = []
    for folder, subfolders, files in os.walk(root):
        here = Path(folder)
        stores = [name for name in subfolders if name.lower().endswith(".zarr")]
        subfolders[:] = [name for name in subfolders if name not in stores and not name.startswith(".")]
        found = [*stores, *(name for name in files if Path(name).suffix.lower() in FILE_SUFFIXES)]
        paths += [(here / name).relative_to(root).as_posix() for name in found if not name.startswith(".")]
    return sorted(paths)


def asset_files(root: Path, items: Sequence[Item]) -> list[str]:
    """Paths below `root` (relative) of the files that the assets of items name."""
    hrefs = {(one.folder, str(asset["href"])) for one in items for asset in one.assets.values()}
    local = ((folder, href) for folder, href in hrefs if href.startswith("file://") or not is_url(href))
    places = {Path(os.path.normpath(local_path(folder, href))) for folder, href in local}
    return [path.relative_to(root).as_posix() for path in places if path.is_relative_to(root)]


def find_foreign(root: Path) -> list[str]:
    """Paths below `root` (relative, sorted) of files in formats that are not read, by suffix."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if foreign_by_name(path.name))


def unresolved(path: Path) -> list[str]:
    """The errors of data sets that cannot be resolved as the catalogue says; the catalogue itself must be valid."""
    catalog = open_catalog(path)
    messages = []
    for name in catalog.entries:
        try:
            if catalog.entry(name).cube is not None:
                resolve_cube(catalog, name)
            else:
                resolve = resolve_files if catalog.entry(name).stac is None else resolve_stac
                resolve(catalog, name, describe_bands)
        except GeomaeError as error:
            messages.append(str(error))
    return messages


def data_set_name(wish: str, used: Collection[str] = ()) -> str:
    """A name that is allowed in a selector and is not in `used`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", wish).strip("-._")[:LONGEST_NAME] or "data"
    number = 1
    unique = name
    while unique in used:
        number += 1
        unique = f"{name}-{number}"
    return unique


@dataclass(frozen=True)
class Place:
    """The searched folder, its path in patterns from the catalogue (empty or ending in /), and whether its files lie
    outside of the catalogue's folder.
    """

    root: Path
    below: str
    outside: bool

    @property
    def name(self) -> str:
        """The name of the folder: `chips` also if `chips/images` was searched."""
        return (self.root.name.lower() in FORMATS and telling_name(str(self.root))) or self.root.name


def locate(root: Path, paths: Sequence[str], catalog_file: Path) -> Place:
    """The path to the files below `root` from the folder of the catalogue."""
    folder = catalog_file.parent.resolve()
    below = os.path.relpath(root, folder)
    if os.path.commonpath([root.absolute(), folder]) == folder.anchor:  # a relative path up to / is unreadable
        below = os.path.normpath(root.absolute())
    outside = not all((root / path).resolve().is_relative_to(folder) for path in paths)
    return Place(root, "" if below == "." else f"{escape_pattern(Path(below).as_posix())}/", outside)


def _entries(
    place: Place,
    with_bands: Sequence[BandGroup],
    stacks: Sequence[Accompanied],
    problems: list[str],
) -> tuple[dict[str, Entry], dict[str, tuple[str, ...]], list[str]]:
    """Entries and one file per scene, by name, and the files left out on purpose.

    Groups that cannot be read are added to `problems`.
    """
    entries: dict[str, Entry] = {}
    files: dict[str, tuple[str, ...]] = {}
    left_out: list[str] = []
    for group in with_bands:
        try:
            entry = band_entry(place.root, place.below, group, outside=place.outside)
        except RasterError as error:
            problems.append(str(error))
            continue
        name = data_set_name(group.name or place.name, entries)
        entries[name] = entry
        files[name] = tuple(next(iter(scene.values())) for scene in group.by_scene)
    beside = [_goes_with_others(place.root, one.group) for one in stacks]
    alone = not entries and all(beside)
    for accompanied, left in zip(stacks, beside, strict=True):
        one = accompanied.group
        if left and not alone:
            what = (
                PLANET_MASK
                if is_planet_mask(one)
                else f"one band of {one.headers[0].dtypes[0]}, perhaps labels or a mask"
            )
            left_out.append(f"{', '.join(place.below + pattern for pattern in one.patterns[:SHOWN])}: {what}")
        else:
            entry = stack_entry(place.root, place.below, one, accompanied.companions, outside=place.outside)
            name = data_set_name(one.name or place.name, entries)
            entries[name], files[name] = entry, one.files
    return entries, files, left_out


def _cube_entries(place: Place, paths: Sequence[str], used: Collection[str], problems: list[str]) -> dict[str, Entry]:
    """Entries by name, one per folder and suffix of cubes; cubes that cannot be read are added to `problems`."""
    together: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        together.setdefault((str(Path(path).parent), Path(path).suffix), []).append(path)
    entries: dict[str, Entry] = {}
    for (folder, _), group in together.items():
        try:
            entry = cube_entry(place.root, place.below, group, outside=place.outside)
        except RasterError as error:
            problems.append(str(error))
            continue
        wish = Path(group[0]).stem if len(group) == 1 else telling_name(folder) or place.name
        entries[data_set_name(wish, [*used, *entries])] = entry
    return entries


def _item_entries(
    place: Place, groups: Sequence[tuple[str, list[Item]]], used: Collection[str], problems: list[str]
) -> dict[str, Entry]:
    """Entries by name, one per group of files of STAC items; groups without usable bands are added to `problems`."""
    entries: dict[str, Entry] = {}
    for path, items in groups:
        try:
            entry = stac_entry(items, place.below + path, outside=place.outside)
        except CatalogError as error:
            problems.append(str(error))
            continue
        collections = {one.collection for one in items}
        alone = len(collections) == 1 and None not in collections
        wish = str(items[0].collection) if alone else telling_name(str(Path(path).parent)) or Path(path).stem.strip("*")
        entries[data_set_name(wish or place.name, [*used, *entries])] = entry
    return entries


def _goes_with_others(root: Path, group: StackGroup) -> bool:
    """Whether a group is labels or a mask and not imagery: one band of integers from an unknown sensor, or a UDM2."""
    if is_planet_mask(group):
        return True
    return group.one_band and not isinstance(guess_sensor(evidence_of(root, group)).sensor, str)
