"""Files that a catalogue's patterns name: found, and kept within its folder unless the entry allows more."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from geomae.catalog.load import Catalog
from geomae.errors import CatalogError
from geomae.files import confine

SCHEMES = ("s3", "gs", "https")
MAGIC = re.compile(r"[*?\[]|\{band\}")
STEM = "{stem}"
SHOWN = 6  # names in a message


def is_url(path: str) -> bool:
    """Whether a path names a place on a network."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def static_folder(catalog: Catalog, pattern: str) -> str:
    """The part of a pattern before its first wildcard, as a folder: the same whichever files there are."""
    parts = (pattern if is_url(pattern) else str(catalog.folder / pattern)).split("/")
    last = next((index for index, part in enumerate(parts) if MAGIC.search(part)), len(parts) - 1)
    return "/".join(parts[: min(last, len(parts) - 1)])


def common_folder(folders: Sequence[str]) -> str:
    """The longest folder that holds all of these."""
    parts = [folder.split("/") for folder in folders]
    shared = zip(*parts, strict=False)
    return "/".join(level[0] for level in _while_equal(shared))


def find_files(catalog: Catalog, dataset: str, pattern: str, *keys: str | int) -> list[str]:
    """Paths of the files that a pattern matches, sorted; none is not an error here.

    A URL is taken as it is and must not hold wildcards. Raises CatalogError, at the line of `keys`, for a path that
    leaves the folder, for a URL without `remote: true`, and for a link to a file that is not there.
    """
    if is_url(pattern):
        return [checked_url(catalog, dataset, pattern, *keys)]
    place, outside = catalog.place(dataset, *keys), catalog.entry(dataset).outside
    start = static_folder(catalog, pattern).removeprefix(f"{catalog.folder}/")
    confine(Path(start), catalog.folder, outside=outside, where=place)
    exact = (catalog.folder / pattern).is_file()
    # Path.glob neither takes absolute patterns nor follows links to folders
    names = [pattern] if exact else glob.glob(pattern, root_dir=catalog.folder, recursive=True)  # noqa: PTH207
    found = []
    for name in names:
        path = catalog.folder / name
        confine(Path(name), catalog.folder, outside=outside, where=place)
        if path.is_symlink() and not path.exists():
            raise CatalogError(
                f"{place}: {name} is a link to a file that is not there; fetch it or correct the pattern"
            )
        if path.is_file():
            found.append(str(path))
    return sorted(set(found))


def require_file(catalog: Catalog, dataset: str, path: str, *keys: str | int) -> str:
    """The file at `path`, relative to the catalogue. Raises CatalogError where there is none; a URL is not opened."""
    if is_url(path):
        return checked_url(catalog, dataset, path, *keys)
    place = catalog.place(dataset, *keys)
    confine(Path(path), catalog.folder, outside=catalog.entry(dataset).outside, where=place)
    if not (catalog.folder / path).is_file():
        raise CatalogError(f"{place}: there is no file {path!r}; {holds(str(catalog.folder / path))}; correct the path")
    return str(catalog.folder / path)


def checked_url(catalog: Catalog, dataset: str, url: str, *keys: str | int) -> str:
    """`url`, if the entry allows it and it names one file."""
    place = catalog.place(dataset, *keys)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise CatalogError(f"{place}: {url!r} is none of {', '.join(SCHEMES)}; use one of these or a local path")
    if not catalog.entry(dataset).remote:
        raise CatalogError(f"{place}: {url!r} is not on this machine; add `remote: true` to allow it")
    if re.search(r"[*?\[]", url):
        raise CatalogError(f"{place}: {url!r} has a wildcard, and remote folders are not listed; list the files")
    return url


def nothing_found(catalog: Catalog, dataset: str, pattern: str, *keys: str | int) -> CatalogError:
    """The error for a pattern without files: the pattern, the line and what lies there instead."""
    remedy = "correct the pattern"
    if (catalog.folder / pattern).is_dir():
        remedy = f"name the files in it, as in {pattern.rstrip('/')}/*.tif"
    there = holds(static_folder(catalog, pattern) + "/x")
    return CatalogError(f"{catalog.place(dataset, *keys)}: no file matches {pattern!r}; {there}; {remedy}")


def holds(path: str) -> str:
    """What lies in the innermost folder of `path` that exists, for a message."""
    folder = Path(path).parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    except OSError as error:
        return f"{folder} cannot be listed ({error.strerror})"
    if not names:
        return f"{folder} is empty"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{folder} holds {', '.join(names[:SHOWN])}{more}"


def _while_equal(levels: "zip[tuple[str, ...]]") -> list[tuple[str, ...]]:
    equal = []
    for level in levels:
        if len(set(level)) > 1:
            break
        equal.append(level)
    return equal
