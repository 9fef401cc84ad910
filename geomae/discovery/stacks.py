"""Rasters that hold all their bands each: which of them make one data set, and which only go with others."""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from statistics import median

from geomae.discovery.products import folder_pattern
from geomae.errors import RasterError
from geomae.rasters.opening import Header, header

LOOKED_AT = 40  # files of a folder whose headers are read; where they differ, those of all
LARGEST_PATCH = 600  # side in pixels of what may lie in folders named by class
SPLIT_NAMES = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))
COMMON_FOLDERS = frozenset(("images", "image", "img", "imgs", "data", "rasters", "tif", "tifs", "tiles", "scenes"))
SEVERAL = 2  # files that a folder of a class has at least


@dataclass(frozen=True)
class StackGroup:
    """Rasters of one kind that make one data set.

    `patterns` and `files` are relative to the folder that was searched, `headers` are of some of the files. `classes`
    are the names of the folders where these look like classes. `companions` are patterns of one-band rasters of the
    same file names, which may be masks or labels.
    """

    name: str
    patterns: tuple[str, ...]
    files: tuple[str, ...]
    headers: tuple[Header, ...]
    classes: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()

    @property
    def one_band(self) -> bool:
        """Whether the files hold a single band of whole numbers, as masks and labels do."""
        return self.headers[0].count == 1 and self.headers[0].dtypes[0].startswith(("uint", "int"))


def stack_groups(
    root: Path, paths: Sequence[str], hint: Callable[[str], object], progress: Callable[[int], None]
) -> tuple[list[StackGroup], list[str]]:
    """Data sets among `paths` (relative to `root`, sorted), and messages about files that cannot be read.

    Files of one folder, suffix, band count, data type and `hint` (what a name tells of the sensor) are alike; so are
    folders side by side. `progress` hears how many files were looked at.
    """
    by_folder: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        pure = PurePosixPath(path)
        folder = "" if str(pure.parent) == "." else str(pure.parent)
        by_folder.setdefault((folder, pure.suffix), []).append(path)
    problems: list[str] = []
    folders: list[_Folder] = []
    done = 0
    for (folder, suffix), files in by_folder.items():
        folders += _kinds(root, folder, suffix, files, hint, problems)
        done += len(files)
        progress(done)
    beside: dict[tuple[object, ...], list[_Folder]] = {}
    for one in folders:
        beside.setdefault((_beside(one, folders), one.suffix, one.kind), []).append(one)
    groups = [group for parts in beside.values() for group in _merged(parts)]
    return _with_companions(groups), problems


@dataclass(frozen=True)
class _Folder:
    path: str
    suffix: str
    kind: tuple[object, ...]
    files: tuple[str, ...]
    headers: tuple[Header, ...]
    patterns: tuple[str, ...]


def _kinds(
    root: Path, folder: str, suffix: str, files: Sequence[str], hint: Callable[[str], object], problems: list[str]
) -> list[_Folder]:
    """The kinds of files in one folder."""
    some = [files[len(files) * place // LOOKED_AT] for place in range(LOOKED_AT)] if len(files) > LOOKED_AT else files
    header_of = _headers(root, some, problems)
    kinds = {path: (one.count, one.dtypes[0], hint(path)) for path, one in header_of.items()}
    if len(set(kinds.values())) > 1 and len(some) < len(files):
        header_of = _headers(root, files, problems)
        kinds = {path: (one.count, one.dtypes[0], hint(path)) for path, one in header_of.items()}
    distinct = sorted(set(kinds.values()), key=str)
    if len(distinct) == 1:
        pattern = f"{glob.escape(folder)}/*{suffix}" if folder else f"*{suffix}"
        return [_Folder(folder, suffix, distinct[0], tuple(files), tuple(header_of.values()), (pattern,))]
    result = []
    for kind in distinct:
        own = tuple(path for path in files if kinds.get(path) == kind)
        others = [path for path in files if kinds.get(path) != kind]
        headers = tuple(header_of[path] for path in own)
        result.append(_Folder(folder, suffix, kind, own, headers, _patterns(own, others, suffix)))
    return result


def _headers(root: Path, paths: Sequence[str], problems: list[str]) -> dict[str, Header]:
    headers = {}
    for path in paths:
        try:
            headers[path] = header(str(root / path))
        except RasterError as error:
            if str(error) not in problems:
                problems.append(str(error))
    return headers


def _patterns(own: Sequence[str], others: Sequence[str], suffix: str) -> tuple[str, ...]:
    """The beginning that files share and no other file has; else their names."""
    first, last = (name.removesuffix(suffix) for name in (min(own), max(own)))  # sorted, these share the least
    length = next((at for at, (one, two) in enumerate(zip(first, last, strict=False)) if one != two), len(first))
    start = first[:length]
    folder = own[0].rpartition("/")[0]
    if len(own) > 1 and len(start) > len(folder) and not any(path.startswith(start) for path in others):
        return (f"{glob.escape(start)}*{suffix}",)
    return tuple(glob.escape(path) for path in own)


def _beside(one: _Folder, folders: Sequence[_Folder]) -> str:
    """What folders that may be merged have in common: their parent, where each holds this one kind of raster only."""
    mixed = sum(other.path == one.path for other in folders) > 1
    name = PurePosixPath(one.path).name
    if not one.path or mixed or name.lower() in SPLIT_NAMES:
        return f"{one.path}/."
    return str(PurePosixPath(one.path).parent)


def _merged(parts: Sequence[_Folder]) -> list[StackGroup]:
    """One group of folders side by side, or one of each where one-band files of equal names say otherwise."""
    stems = [{PurePosixPath(path).stem for path in part.files} for part in parts]
    disjoint = sum(map(len, stems)) == len(set().union(*stems))
    first = parts[0]
    if len(parts) == 1 or (first.kind[0] == 1 and not disjoint):
        return [StackGroup(_telling_name(one.path), one.patterns, one.files, one.headers) for one in parts]
    headers = tuple(one for part in parts for one in part.headers)
    pattern = folder_pattern([part.path for part in parts]) + f"*{first.suffix}"
    names = [PurePosixPath(part.path).name for part in parts]
    small = all(max(one.shape) <= LARGEST_PATCH for one in headers)
    named = not any(name.isdigit() for name in names)
    several = median(len(part.files) for part in parts) >= SEVERAL
    classes = tuple(sorted(names)) if small and named and several and disjoint else ()
    files = tuple(path for part in parts for path in part.files)
    return [StackGroup(_telling_name(str(PurePosixPath(first.path).parent)), (pattern,), files, headers, classes)]


def _telling_name(folder: str) -> str:
    """The name of the innermost folder that is more than `images`; empty where there is none."""
    names = [name for name in PurePosixPath(folder).parts if name.lower() not in COMMON_FOLDERS]
    return names[-1] if names else ""


def _with_companions(groups: Sequence[StackGroup]) -> list[StackGroup]:
    """Groups without the one-band rasters that stand beside another group, which get these as `companions`."""
    stems: Mapping[int, frozenset[str]] = {
        number: frozenset(PurePosixPath(path).stem for path in group.files) for number, group in enumerate(groups)
    }
    companions: dict[int, list[str]] = {}
    taken = set()
    for number, group in enumerate(groups):
        if not group.one_band:
            continue
        for other, candidate in enumerate(groups):
            if not candidate.one_band and stems[other] <= stems[number] and _one_folder(group):
                companions.setdefault(other, []).append(group.patterns[0])
                taken.add(number)
                break
    return [
        replace(group, companions=tuple(companions.get(number, ())))
        for number, group in enumerate(groups)
        if number not in taken
    ]


def _one_folder(group: StackGroup) -> bool:
    return len(group.patterns) == 1 and "*" not in group.patterns[0].rpartition("/")[0]
