"""Grouping of files into data sets: products with one file per band, recognised by name, and stacks of bands."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from statistics import median

from geomae.catalog.patterns import escape_pattern
from geomae.discovery.quality_layers import quality_layer
from geomae.discovery.running_numbers import without_running_numbers
from geomae.errors import RasterError
from geomae.rasters.headers import Header
from geomae.rasters.opening import header
from geomae.sensors import FIRST_OFFSET_BASELINE

SUFFIX = r"\.(?:tiff?|gtif|jp2|png|jpe?g)"
SAFE = re.compile(
    r"(?P<folder>(?:.*/)?)(?P<product>S2[A-D]_MSI(?P<level>L1C|L2A)_\d{8}T\d{6}_N(?P<baseline>\d{4})_[^/]+\.SAFE)/"
    r"GRANULE/[^/]+/IMG_DATA/(?P<resolution>R\d+m/)?[^/]+?_(?P<token>B\d[\dA]|SCL)(?:_\d+m)?\.jp2"
)
LANDSAT = re.compile(
    r"(?P<folder>(?:.*/)?)(?P<product>L(?P<letter>[COTEM])0(?P<number>[45789])_(?P<level>L1|L2)[A-Z]{2}_\d{6}_\d{8}_\d{8}"
    r"_\d{2}_[A-Z0-9]{2})_(?P<token>(?:SR_|ST_)?B\d+|QA_PIXEL)(?P<suffix>\.(?:TIF|tif))"
)
HLS = re.compile(
    r"(?P<folder>(?:.*/)?)(?P<product>HLS\.(?P<kind>[LS]30)\.T\w{5}\.\d{7}T\d{6}\.v\d+\.\d+)\."
    r"(?P<token>B\d[\dA]|Fmask)(?P<suffix>\.tif)"
)
# Files that agencies deliver beside the bands: masks, angles, quick looks. None of them is a data set.
BESIDE = re.compile(
    r".*\.SAFE/.*"
    r"|(?:.*/)?L[COTEM]0[45789]_L[12][A-Z]{2}(?:_[A-Z0-9]+){5}_(?:QA|ST|SR|SAA|SZA|VAA|VZA|thumb)(?:_\w+)?\.\w+"
    r"|(?:.*/)?HLS\.[LS]30\.T\w{5}\.\w+\.v\d+\.\d+\.(?:(?:SAA|SZA|VAA|VZA)\.\w+|jpe?g)"
)
NAMED = re.compile(
    r"(?P<folder>(?:.*/)?)(?P<base>[^/]*?)(?P<separator>(?<![^/])|[_. -])"
    r"(?P<token>B\d{1,2}A?|coastal|blue|green|red|rededge\d*|nir\d*|swir\d+|lwir\d*|pan|V[VH]|H[VH]"
    r"|SCL|QA_PIXEL|Fmask)"
    rf"(?P<resolution>_\d+m)?(?P<suffix>(?:_\(Raw\))?{SUFFIX})",  # EO Browser writes B02_(Raw).tiff
    re.IGNORECASE,
)
LANDSAT_SENSORS = {
    "4": "landsat-4-tm",
    "5": "landsat-5-tm",
    "7": "landsat-7-etm",
    "8": "landsat-8-oli",
    "9": "landsat-9-oli",
}
LOOKED_AT = 40  # files of a folder whose headers are read; if they differ, all are read
LARGEST_PATCH = 600  # side in pixels up to which rasters may lie in folders named by class
SPLIT_NAMES = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))
COMMON_FOLDERS = frozenset(("images", "image", "img", "imgs", "data", "rasters", "tif", "tifs", "tiles", "scenes"))
Progress = Callable[[int], None]
SEVERAL = 2  # least number of files in the folder of a class


@dataclass(frozen=True)
class BandGroup:
    """Scenes with one file per band that make one data set.

    A token is the part of a file name that names the band. `tokens` are those of every scene, `lacking` those of only
    some scenes. `by_scene` has the files of each scene by token. `patterns` and `files` are relative to the searched
    folder. `sensor` is known only for products; `mask` is the token of a quality layer.
    """

    name: str
    patterns: tuple[str, ...]
    files: tuple[str, ...]
    by_scene: tuple[Mapping[str, str], ...]
    tokens: tuple[str, ...]
    lacking: tuple[str, ...]
    sensor: str | None
    mask: str | None

    @property
    def scenes(self) -> int:
        """Number of scenes."""
        return len(self.by_scene)


def band_groups(paths: Iterable[str]) -> tuple[list[BandGroup], list[str]]:
    """Data sets with one file per band among `paths` (relative, sorted), and the paths that belong to none.

    Other files of a product are in neither.
    """
    known: list[_BandFile] = []
    named: list[_BandFile] = []
    rest: list[str] = []
    for path in paths:
        if file := _safe(path) or _landsat(path) or _hls(path):
            known.append(file)
        elif BESIDE.fullmatch(path):
            continue
        elif file := _named(path):
            named.append(file)
        else:
            rest.append(path)
    tokens = _by_scene(named)
    alone = [one for one in named if len(tokens[one.scene]) < 2]  # a single layer is not a product
    named = [one for one in named if len(tokens[one.scene]) >= 2]
    rest = sorted([*rest, *(one.path for one in alone)])
    groups: dict[tuple[str, ...], list[_BandFile]] = {}
    for one in known:
        groups.setdefault((one.sensor or "",), []).append(one)
    scenes_in: dict[str, set[str]] = {}
    for one in named:
        scenes_in.setdefault(one.folder, set()).add(one.scene)
    for one in named:
        lone = len(scenes_in[one.folder]) == 1  # a folder of its own for each scene
        anchor = str(PurePosixPath(one.folder).parent) + "/*" if lone and one.folder else one.folder
        groups.setdefault((anchor, one.tail), []).append(one)
    return [_group(files) for files in groups.values()], rest


def folder_pattern(folders: Sequence[str]) -> str:
    """A glob (empty, or with / at its end) for folders: the folder itself, its siblings, or all below a common one."""
    distinct = sorted(set(folders))
    if len(distinct) == 1:
        return f"{escape_pattern(distinct[0])}/" if distinct[0] else ""
    parents = {str(PurePosixPath(one).parent) if one else "" for one in distinct}
    shared = PurePosixPath(*_common(distinct))
    prefix = "" if str(shared) == "." else f"{escape_pattern(str(shared))}/"
    siblings = len(parents) == 1 and "" not in distinct
    return f"{prefix}*/" if siblings else f"{prefix}**/"


@dataclass(frozen=True)
class _BandFile:
    path: str
    scene: str
    token: str
    folder: str  # of the product
    tail: str  # glob below that folder, with {band}
    sensor: str | None


def _common(folders: Sequence[str]) -> list[str]:
    parts = [PurePosixPath(one).parts for one in folders]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return shared


def _safe(path: str) -> _BandFile | None:
    match = SAFE.fullmatch(path)
    if match is None:
        return None
    level, baseline = match["level"], match["baseline"]
    offset = "-n0400" if int(baseline) >= FIRST_OFFSET_BASELINE else ""
    below = "R*m/*_{band}_*m.jp2" if match["resolution"] else "*_{band}.jp2"
    tail = f"S2?_MSI{level}_*_N{baseline}_*.SAFE/GRANULE/*/IMG_DATA/{below}"
    sensor = f"sentinel-2-{level.lower()}{offset}"
    return _BandFile(path, match["product"], match["token"], match["folder"].rstrip("/"), tail, sensor)


def _landsat(path: str) -> _BandFile | None:
    match = LANDSAT.fullmatch(path)
    if match is None:
        return None
    mission = f"L{match['letter']}0{match['number']}_{match['level']}"
    sensor = LANDSAT_SENSORS[match["number"]] + ("-c2l2" if match["level"] == "L2" else "")
    tail = f"{mission}??_*_{{band}}{match['suffix']}"
    return _BandFile(path, match["product"], match["token"], match["folder"].rstrip("/"), tail, sensor)


def _hls(path: str) -> _BandFile | None:
    match = HLS.fullmatch(path)
    if match is None:
        return None
    kind, tail = match["kind"], f"HLS.{match['kind']}.*.{{band}}{match['suffix']}"
    return _BandFile(path, match["product"], match["token"], match["folder"].rstrip("/"), tail, f"hls-{kind.lower()}")


def _named(path: str) -> _BandFile | None:
    match = NAMED.fullmatch(path)
    if match is None:
        return None
    start = f"*{match['separator']}" if match["base"] else ""
    tail = f"{start}{{band}}{'_*m' if match['resolution'] else ''}{match['suffix']}"
    scene = match["folder"] + match["base"]
    return _BandFile(path, scene, match["token"], match["folder"].rstrip("/"), tail, None)


def _by_scene(files: Sequence[_BandFile]) -> dict[str, dict[str, str]]:
    scenes: dict[str, dict[str, str]] = {}
    for one in files:
        scenes.setdefault(one.scene, {}).setdefault(one.token, one.path)
    return scenes


def _group(files: Sequence[_BandFile]) -> BandGroup:
    scenes = _by_scene(files)
    everywhere = set.intersection(*(set(tokens) for tokens in scenes.values()))
    somewhere = {token for tokens in scenes.values() for token in tokens}
    tails: dict[str, list[str]] = {}
    for one in files:
        tails.setdefault(one.tail, []).append(one.folder)
    sensor = files[0].sensor
    layers = {token for token in somewhere if quality_layer(token)}
    shared = _common(sorted({one.folder for one in files}))
    return BandGroup(
        name=sensor or (shared[-1] if shared else ""),
        patterns=tuple(folder_pattern(folders) + tail for tail, folders in sorted(tails.items())),
        files=tuple(one.path for one in files),
        by_scene=tuple(scenes.values()),
        tokens=tuple(sorted(everywhere - layers)),
        lacking=tuple(sorted(somewhere - everywhere - layers)),
        sensor=sensor,
        mask=min(everywhere & layers, default=None),
    )


@dataclass(frozen=True)
class StackGroup:
    """Rasters of one kind that make one data set.

    `patterns` and `files` are relative to the searched folder, `headers` are of those that can be read of the `looked`
    files that were examined. `telling` is the
    path of one file without running numbers. `classes` are the names of the folders if these look like classes.
    """

    name: str
    patterns: tuple[str, ...]
    files: tuple[str, ...]
    headers: tuple[Header, ...]
    looked: int
    telling: str
    classes: tuple[str, ...] = ()

    @property
    def one_band(self) -> bool:
        """Whether the files hold a single band of integers, as masks and labels do."""
        return self.headers[0].count == 1 and self.headers[0].dtypes[0].startswith(("uint", "int"))


def stack_groups(
    root: Path, paths: Sequence[str], taken: Iterable[str], hint: Callable[[str], object], progress: Progress
) -> tuple[list[StackGroup], list[str]]:
    """Data sets among `paths` (relative to `root`, sorted), and messages about files that cannot be read.

    Their patterns do not match the files that are `taken` by other data sets.

    Files are of one kind if they share folder, suffix, band count, data type and `hint` (what the name says of the
    sensor, without running numbers); folders of one parent may be merged. `progress` is called with the number of files
    examined.
    """
    by_folder, taken_in = _by_folder(paths), _by_folder(taken)
    problems: list[str] = []
    headers: dict[tuple[str, str], dict[str, Header]] = {}
    done = 0
    for place, files in by_folder.items():
        looked = min(LOOKED_AT, len(files))
        headers[place] = _headers(root, [files[len(files) * number // looked] for number in range(looked)], problems)
        done += len(files)
        progress(done)
    telling = without_running_numbers({path: _bands(one) for seen in headers.values() for path, one in seen.items()})
    folders: list[_Folder] = []
    for place, files in by_folder.items():
        kinds = _kinds(root, place, files, headers[place], _Names(telling, hint), problems)
        folders += (
            [_with_own_patterns(one, [*files, *taken_in[place]]) for one in kinds] if place in taken_in else kinds
        )
    beside: dict[tuple[object, ...], list[_Folder]] = {}
    for one in folders:
        beside.setdefault((_beside(one, folders), one.suffix, one.kind), []).append(one)
    groups = [group for parts in beside.values() for group in _merged(parts)]
    return groups, problems


def _by_folder(paths: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """Paths by folder and suffix."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        pure = PurePosixPath(path)
        folder = "" if str(pure.parent) == "." else str(pure.parent)
        found.setdefault((folder, pure.suffix), []).append(path)
    return found


@dataclass(frozen=True)
class _Names:
    """Functions on names: `telling` removes running numbers from a path, `hint` guesses sensors from the result."""

    telling: Callable[[str], str]
    hint: Callable[[str], object]


@dataclass(frozen=True)
class _Folder:
    path: str
    suffix: str
    kind: tuple[object, ...]
    files: tuple[str, ...]
    headers: tuple[Header, ...]
    looked: int
    patterns: tuple[str, ...]
    telling: str


def _bands(one: Header) -> tuple[int, str]:
    """The properties that files of one kind share."""
    return one.count, one.dtypes[0]


def _kinds(
    root: Path,
    place: tuple[str, str],
    files: Sequence[str],
    header_of: dict[str, Header],
    names: _Names,
    problems: list[str],
) -> list[_Folder]:
    """The kinds of files of one suffix in one folder, from the headers of some of them."""
    folder, suffix = place

    def kinds_of() -> dict[str, tuple[object, ...]]:
        return {path: (*_bands(one), names.hint(names.telling(path))) for path, one in header_of.items()}

    kinds = kinds_of()
    if len(set(kinds.values())) > 1 and len(files) > LOOKED_AT:
        header_of = _headers(root, files, problems)
        kinds = kinds_of()
    distinct = sorted(set(kinds.values()), key=str)
    if len(distinct) == 1:
        pattern = f"{escape_pattern(folder)}/*{suffix}" if folder else f"*{suffix}"
        telling = names.telling(files[0])
        looked, seen = min(LOOKED_AT, len(files)), tuple(header_of.values())
        return [_Folder(folder, suffix, distinct[0], tuple(files), seen, looked, (pattern,), telling)]
    result = []
    for kind in distinct:
        own = tuple(path for path in files if kinds.get(path) == kind)
        others = [path for path in files if kinds.get(path) != kind]
        headers = tuple(header_of[path] for path in own)
        patterns = _patterns(own, others, suffix)
        result.append(_Folder(folder, suffix, kind, own, headers, len(own), patterns, names.telling(own[0])))
    return result


def _with_own_patterns(one: _Folder, paths: Sequence[str]) -> _Folder:
    """The same files, with patterns that match none of the other `paths` of the folder."""
    own = set(one.files)
    return replace(one, patterns=_patterns(one.files, [path for path in paths if path not in own], one.suffix))


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
    """A pattern with the beginning or the end that only these files share, or with the beginning among names of one
    length; else all names.
    """
    first, last = (name.removesuffix(suffix) for name in (min(own), max(own)))  # sorted, these share the least
    length = next((at for at, (one, two) in enumerate(zip(first, last, strict=False)) if one != two), len(first))
    start = first[:length]
    folder = own[0].rpartition("/")[0]
    if len(own) > 1 and len(start) > len(folder) and not any(path.startswith(start) for path in others):
        return (f"{escape_pattern(start)}*{suffix}",)
    end = _shared_end([path.removesuffix(suffix) for path in own])
    if len(own) > 1 and end and not any(path.removesuffix(suffix).endswith(end) for path in others):
        start = f"{escape_pattern(folder)}/*" if folder else "*"
        return (f"{start}{escape_pattern(end)}{suffix}",)
    lengths = {len(path) for path in own}
    if (
        len(own) > 1
        and len(lengths) == 1
        and not any(len(path) in lengths and path.startswith(start) for path in others)
    ):
        return (f"{escape_pattern(start)}{'?' * (len(first) - length)}{suffix}",)
    return tuple(escape_pattern(path) for path in own)


def _shared_end(stems: Sequence[str]) -> str:
    """The end that all names share, from a separator on; empty if there is none."""
    turned = [stem[::-1] for stem in (min(stems, key=lambda one: one[::-1]), max(stems, key=lambda one: one[::-1]))]
    length = next((at for at, (one, two) in enumerate(zip(*turned, strict=False)) if one != two), len(turned[0]))
    end = stems[0].rpartition("/")[2][-length:] if length else ""
    separator = re.search(r"[_. -]", end)
    return end[separator.start() :] if separator else ""


def _beside(one: _Folder, folders: Sequence[_Folder]) -> str:
    """The key by which folders are merged: their parent, if each folder holds only this kind of raster."""
    mixed = sum(other.path == one.path for other in folders) > 1
    name = PurePosixPath(one.path).name
    if not one.path or mixed or name.lower() in SPLIT_NAMES:
        return f"{one.path}/."
    return str(PurePosixPath(one.path).parent)


def _merged(parts: Sequence[_Folder]) -> list[StackGroup]:
    """One group of all folders, or one per folder if they hold one-band files of equal names."""
    stems = [{PurePosixPath(path).stem for path in part.files} for part in parts]
    disjoint = sum(map(len, stems)) == len(set().union(*stems))
    first = parts[0]
    if len(parts) == 1 or (first.kind[0] == 1 and not disjoint):
        return [
            StackGroup(telling_name(one.path), one.patterns, one.files, one.headers, one.looked, one.telling)
            for one in parts
        ]
    headers = tuple(one for part in parts for one in part.headers)
    pattern = folder_pattern([part.path for part in parts]) + f"*{first.suffix}"
    names = [PurePosixPath(part.path).name for part in parts]
    small = all(max(one.shape) <= LARGEST_PATCH for one in headers)
    named = not any(name.isdigit() for name in names)
    several = median(len(part.files) for part in parts) >= SEVERAL
    classes = tuple(sorted(names)) if small and named and several and disjoint else ()
    files = tuple(path for part in parts for path in part.files)
    name = telling_name(str(PurePosixPath(first.path).parent))
    looked = sum(part.looked for part in parts)
    return [StackGroup(name, (pattern,), files, headers, looked, first.telling, classes)]


def telling_name(folder: str) -> str:
    """The name of the innermost folder that is more specific than `images`; empty if there is none."""
    names = [name for name in PurePosixPath(folder).parts if name.lower() not in COMMON_FOLDERS]
    return names[-1] if names else ""
