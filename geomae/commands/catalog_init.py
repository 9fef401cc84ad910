"""`geomae catalog init`: a first catalogue from what lies in a folder."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geomae.catalog import open_catalog, resolve_files
from geomae.discovery.entries import Entry, band_entry, comment, evidence_of, flow, stack_entry
from geomae.discovery.products import BandGroup, band_groups
from geomae.discovery.sensor_guess import guess_sensor, hinted_sensors
from geomae.discovery.stacks import StackGroup, stack_groups
from geomae.errors import CatalogError, GeomaeError, RasterError, StorageError
from geomae.files import publish_file
from geomae.rasters import describe_bands
from geomae.runtime.console import Screen

SUFFIXES = frozenset((".tif", ".tiff", ".gtif", ".jp2", ".png", ".jpg", ".jpeg"))
LONGEST_NAME = 60  # characters of a data set's name
SHOWN = 5  # of the problems of a kind
HEAD = (
    "# Written by `geomae catalog init`. `check` marks a guess with its reason, FILL IN what only you can decide.",
    "# An entry can hold more, as masks, labels, splits and domains: see `geomae catalog schema`.",
    "version: 1",
    "datasets:",
)


@dataclass(frozen=True)
class _Place:
    """The folder that is searched, how it is called from the catalogue (empty or with / at its end), and whether its
    files leave the catalogue's folder.
    """

    root: Path
    below: str
    outside: bool


def run(folder: Path, out: Path | None, *, quiet: bool) -> int:
    """Write a catalogue for the rasters below `folder` to `out`, which must not exist. Returns the exit code."""
    screen = Screen(not quiet)
    out = (out or Path("data_catalog.yaml")).absolute()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "there is no such folder"
        raise CatalogError(f"{folder}: {problem}; name the folder that holds your rasters")
    if out.exists() or out.is_symlink():
        what = "is a folder" if out.is_dir() else "is there already and is not overwritten"
        raise StorageError(f"{out}: {what}; write to another file with --out FILE")
    root = folder.resolve()
    paths = find_rasters(root)
    if not paths:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise CatalogError(f"{folder}: no raster lies in it or below ({suffixes}); name another folder")
    place = _place(root, paths, out)
    with_bands, rest = band_groups(paths)
    stacks, problems = stack_groups(
        root, rest, hinted_sensors, lambda done: screen.step("looking at files", done, len(rest))
    )
    screen.close()
    entries, left_out = _entries(place, with_bands, stacks, problems)
    if not entries:
        raise CatalogError(f"{folder}: none of its {len(paths)} rasters can be read; first: {problems[0]}")
    questions = [f"{name}: {entry.question}" for name, entry in entries.items() if entry.question]
    with publish_file(out) as temporary:
        temporary.write_text(_text(entries, left_out), encoding="utf-8")
        questions += [text.replace(str(temporary), str(out)) for text in _unresolved(temporary)]
    _tell(screen, out, entries, questions, problems, left_out)
    return 0


def find_rasters(root: Path) -> list[str]:
    """Paths below `root`, relative and sorted, of files that by their suffix are rasters; hidden ones are left out.

    Links to folders are followed, each folder once.
    """
    found = []
    seen: set[Path] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:
            subfolders.clear()
            continue
        seen.add(here.resolve())
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [
            (here / name).relative_to(root).as_posix()
            for name in files
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".") and (here / name).is_file()
        ]
    return sorted(found)


def _place(root: Path, paths: Sequence[str], out: Path) -> _Place:
    folder = out.parent.resolve()
    below = os.path.relpath(root, folder)
    if os.path.commonpath([root.absolute(), folder]) == folder.anchor:  # nobody reads a path that leads up to /
        below = os.path.normpath(root.absolute())
    outside = not all((root / path).resolve().is_relative_to(folder) for path in paths)
    return _Place(root, "" if below == "." else f"{Path(below).as_posix()}/", outside)


def _entries(
    place: _Place, with_bands: Sequence[BandGroup], stacks: Sequence[StackGroup], problems: list[str]
) -> tuple[dict[str, Entry], list[str]]:
    """Entries by name, and what is left out on purpose. Groups that cannot be read are added to `problems`."""
    entries: dict[str, Entry] = {}
    left_out: list[str] = []
    for group in with_bands:
        try:
            entry = band_entry(place.root, place.below, group, outside=place.outside)
        except RasterError as error:
            problems.append(str(error))
            continue
        entries[_name(group.name, place.root, entries)] = entry
    beside = [_goes_with_others(place.root, one) for one in stacks]
    alone = not entries and all(beside)
    for one, left in zip(stacks, beside, strict=True):
        if left and not alone:
            what = f"one band of {one.headers[0].dtypes[0]}, perhaps labels or a mask"
            left_out.append(f"{', '.join(place.below + pattern for pattern in one.patterns[:SHOWN])}: {what}")
        else:
            entry = stack_entry(place.root, place.below, one, outside=place.outside)
            entries[_name(one.name, place.root, entries)] = entry
    return entries, left_out


def _goes_with_others(root: Path, group: StackGroup) -> bool:
    """Whether it is labels or a mask rather than imagery: one band of whole numbers from a sensor that nobody knows."""
    return group.one_band and not isinstance(guess_sensor(evidence_of(root, group)).sensor, str)


def _name(wish: str, root: Path, taken: dict[str, Entry]) -> str:
    """A name that a selector can hold and no other data set has."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", wish or root.name).strip("-._")[:LONGEST_NAME] or "data"
    number = 1
    unique = name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    return unique


def _text(entries: dict[str, Entry], left_out: Sequence[str]) -> str:
    lines = list(HEAD)
    for name, entry in entries.items():
        lines += [f"  {flow(name)}:", *entry.lines, ""]
    lines += [comment(f"not in the catalogue: {text}", indent=2) for text in left_out]
    return "\n".join(lines).rstrip() + "\n"


def _unresolved(path: Path) -> list[str]:
    """What keeps the data sets of a catalogue from being found as it says; the catalogue itself must be valid."""
    catalog = open_catalog(path)
    messages = []
    for name in catalog.entries:
        try:
            resolve_files(catalog, name, describe_bands)
        except GeomaeError as error:
            messages.append(str(error))
    return messages


def _tell(
    screen: Screen,
    out: Path,
    entries: dict[str, Entry],
    questions: Sequence[str],
    problems: Sequence[str],
    left_out: Sequence[str],
) -> None:
    rows = [[name, str(one.scenes), one.sensor, str(len(one.bands)), str(one.tile)] for name, one in entries.items()]
    screen.table(str(out), ["data set", "scenes", "sensor", "bands", "tile"], rows)
    for text in left_out:
        screen.say(f"not in the catalogue: {text}")
    for text in problems[:SHOWN]:
        screen.warn(text)
    if len(problems) > SHOWN:
        screen.warn(f"{len(problems) - SHOWN} more files cannot be read")
    for text in questions:
        screen.warn(f"needs your decision: {text}")
    step = "decide what is marked FILL IN, look" if questions else "look"
    screen.result(f"{step} at what is marked `check`, then: geomae catalog check --catalog {out}")
