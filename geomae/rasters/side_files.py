"""Side files: files beside a raster that GDAL reads with it, with masks, georeference, nodata or descriptions.

They are found with one listing per folder, without a test per raster and suffix, and remembered until the next listing:
`look_beside` lists, `side_files` returns them, and `opening.stamp` includes them in the state of a raster.
"""

import contextlib
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# `a.tif.aux.xml`, `a.tif.msk`, `a.tif.ovr` and all other files that begin with the whole name belong to `a.tif`. The
# suffixes below replace its suffix, in either case: world files, files of MapInfo, Erdas and Esri, and RPCs.
SUFFIXES = frozenset(
    (
        *("tfw", "tifw", "tiffw", "gfw", "gtifw", "jgw", "jpw", "jpgw", "jpegw", "pgw", "pngw", "j2w", "jp2w", "wld"),
        *("tab", "aux", "xml", "rpb", "rpc"),
    )
)
ENDINGS = ("_rpc.txt", "_RPC.TXT")  # after the name without suffix
PAM = ".aux.xml"
# Written by viewers that stretch colours; it does not affect pixels.
COMPUTED = re.compile(rb'<Histograms>.*?</Histograms>|<MDI key="STATISTICS_\w+">[^<]*</MDI>', re.DOTALL)
NESTED = tuple(
    re.compile(rb"<" + tag + rb"(?:\s[^>]*)?(?:/>|>\s*</" + tag + rb">)")
    for tag in (b"Metadata", b"PAMRasterBand", b"PAMDataset")
)


@dataclass(frozen=True)
class SideFile:
    """A side file with its state: size in bytes and modification time."""

    path: str
    size: int
    mtime_ns: int


_KNOWN: dict[str, tuple[SideFile, ...]] = {}


def look_beside(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """List the folders of local rasters again and remember the side files of each raster.

    Returns the states of the existing rasters, size and modification time, by path.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, slash, name = path.rpartition("/")
        folders[folder + slash].add(name)
    states: dict[str, tuple[int, int]] = {}
    for folder, names in folders.items():
        found, own = _listed(folder, names)
        states |= {folder + name: state for name, state in own.items()}
        for name in names:
            if name in found:
                _KNOWN[folder + name] = tuple(sorted(found[name], key=lambda one: one.path))
            else:
                _KNOWN.pop(folder + name, None)
    return states


def side_files(path: str) -> tuple[SideFile, ...]:
    """The side files of a raster, by name, as of the last `look_beside`; none before the first."""
    return _KNOWN.get(path, ())


def side_digest(path: str) -> str | None:
    """Hex digest of the side files of a raster and their suffixes; None where none could change pixels.

    Raises OSError for a file that cannot be read.
    """
    stem = path.rpartition(".")[0]
    parts = [(one.path.removeprefix(stem), _content(Path(one.path))) for one in side_files(path)]
    parts = [(what, content) for what, content in parts if content is not None]
    return hashlib.sha256(repr(parts).encode()).hexdigest() if parts else None


def _listed(folder: str, names: set[str]) -> tuple[dict[str, list[SideFile]], dict[str, tuple[int, int]]]:
    """Side files by the name of their raster, and the states of the rasters, from one listing.

    A folder that cannot be listed yields nothing: opening the raster reports the error.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_stem[name.rpartition(".")[0]].append(name)
    found: dict[str, list[SideFile]] = defaultdict(list)
    own: dict[str, tuple[int, int]] = {}
    with contextlib.suppress(OSError), os.scandir(folder.rstrip("/") or folder or ".") as entries:
        for entry in entries:
            is_raster = entry.name in names
            owners = () if is_raster else _owners(entry.name, names, by_stem)
            if not is_raster and not (owners and entry.is_file()):
                continue
            try:
                status = entry.stat()
            except OSError:  # a broken link
                continue
            if is_raster:
                own[entry.name] = status.st_size, status.st_mtime_ns
            for owner in owners:
                found[owner].append(SideFile(entry.path, status.st_size, status.st_mtime_ns))
    return found, own


def _owners(name: str, names: set[str], by_stem: dict[str, list[str]]) -> list[str]:
    """The rasters with which GDAL reads the file `name`."""
    at = name.find(".")
    owners = []
    while at >= 0:
        if name[:at] in names:
            owners.append(name[:at])
        at = name.find(".", at + 1)
    stem, _, suffix = name.rpartition(".")
    if suffix.lower() in SUFFIXES:
        owners += by_stem.get(stem, ())
    if name.endswith(ENDINGS):
        owners += by_stem.get(name[: -len(ENDINGS[0])], ())
    return owners


def _content(path: Path) -> str | None:
    """Digest of a side file without what viewers computed; None where nothing else is in it."""
    if not path.name.endswith(PAM):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    content = COMPUTED.sub(b"", path.read_bytes())
    for element in NESTED:
        content = element.sub(b"", content)
    content = b" ".join(content.split())
    return hashlib.sha256(content).hexdigest() if content else None
