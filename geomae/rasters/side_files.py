"""Files beside a raster that GDAL reads with it: masks, world files, nodata and descriptions kept apart.

They are found with one listing per folder, never by a test per raster and suffix, and remembered until the next one:
`look_beside` lists, `side_files` tells, and `opening.stamp` makes them part of what tells a raster's states apart.
"""

import contextlib
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# `a.tif.aux.xml`, `a.tif.msk`, `a.tif.ovr` and whatever else begins with the whole name belong to `a.tif`; these take
# the place of its suffix, in either case: world files, MapInfo's, Erdas' and Esri's, and coefficients of a projection.
SUFFIXES = frozenset(
    (
        *("tfw", "tifw", "tiffw", "gfw", "gtifw", "jgw", "jpw", "jpgw", "jpegw", "pgw", "pngw", "j2w", "jp2w", "wld"),
        *("tab", "aux", "xml", "rpb", "rpc"),
    )
)
ENDINGS = ("_rpc.txt", "_RPC.TXT")  # after the name without suffix
PAM = ".aux.xml"
# What a viewer writes there when it stretches the colours; it changes no pixel.
COMPUTED = re.compile(rb'<Histograms>.*?</Histograms>|<MDI key="STATISTICS_\w+">[^<]*</MDI>', re.DOTALL)
NESTED = tuple(
    re.compile(rb"<" + tag + rb"(?:\s[^>]*)?(?:/>|>\s*</" + tag + rb">)")
    for tag in (b"Metadata", b"PAMRasterBand", b"PAMDataset")
)


@dataclass(frozen=True)
class SideFile:
    """A file beside a raster, with its state: bytes and time of change."""

    path: str
    size: int
    mtime_ns: int


_KNOWN: dict[str, tuple[SideFile, ...]] = {}


def look_beside(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """List the folders of local rasters anew and remember what lies beside each of these.

    Gives the state of the rasters themselves, bytes and time of change, by path, of those that are there.
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
    """The files beside a raster, by name, as the last `look_beside` found them; none before the first."""
    return _KNOWN.get(path, ())


def side_digest(path: str) -> str | None:
    """Hex digest of the files beside a raster, with what they are; None where there is none that could change pixels.

    Raises OSError for a file that cannot be read.
    """
    stem = path.rpartition(".")[0]
    parts = [(one.path.removeprefix(stem), _content(Path(one.path))) for one in side_files(path)]
    parts = [(what, content) for what, content in parts if content is not None]
    return hashlib.sha256(repr(parts).encode()).hexdigest() if parts else None


def _listed(folder: str, names: set[str]) -> tuple[dict[str, list[SideFile]], dict[str, tuple[int, int]]]:
    """Side files by the name of their raster, and the states of the rasters, by one listing.

    A folder that cannot be listed has none: opening the raster says why.
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
            except OSError:  # a link to nothing
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
    """Digest of a side file, without what a viewer computed; None where there was nothing else."""
    if not path.name.endswith(PAM):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    content = COMPUTED.sub(b"", path.read_bytes())
    for element in NESTED:
        content = element.sub(b"", content)
    content = b" ".join(content.split())
    return hashlib.sha256(content).hexdigest() if content else None
