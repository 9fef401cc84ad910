"""Products with one file per band, known by the names of their files: which files make one data set."""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

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
# What agencies put beside the bands: masks, angles, quick looks. None of it is a data set.
BESIDE = re.compile(
    r".*\.SAFE/.*"
    r"|(?:.*/)?L[COTEM]0[45789]_L[12][A-Z]{2}(?:_[A-Z0-9]+){5}_(?:QA|ST|SR|SAA|SZA|VAA|VZA|thumb)(?:_\w+)?\.\w+"
    r"|(?:.*/)?HLS\.[LS]30\.T\w{5}\.\w+\.v\d+\.\d+\.(?:(?:SAA|SZA|VAA|VZA)\.\w+|jpe?g)"
)
NAMED = re.compile(
    r"(?P<folder>(?:.*/)?)(?P<base>[^/]*?)(?P<separator>(?<![^/])|[_. -])"
    r"(?P<token>B\d{1,2}A?|coastal|blue|green|red|rededge\d*|nir\d*|swir\d+|lwir\d*|pan|V[VH]|H[VH])"
    rf"(?P<resolution>_\d+m)?(?P<suffix>{SUFFIX})",
    re.IGNORECASE,
)
LANDSAT_SENSORS = {
    "4": "landsat-4-tm",
    "5": "landsat-5-tm",
    "7": "landsat-7-etm",
    "8": "landsat-8-oli",
    "9": "landsat-9-oli",
}
FIRST_OFFSET_BASELINE = 400  # from 04.00 on Sentinel-2 values carry an offset
MASKS = {  # token of the quality layer: how to leave clouds and their shadows out
    "SCL": "{band: SCL, invalid_values: [0, 1, 3, 8, 9, 10]}",
    "QA_PIXEL": "{band: QA_PIXEL, invalid_bits: [0, 1, 3, 4]}",
    "Fmask": "{band: Fmask, invalid_bits: [1, 2, 3]}",
}


@dataclass(frozen=True)
class BandGroup:
    """Scenes with one file per band that make one data set.

    `patterns` and `files` are relative to the folder that was searched. `tokens` are those that every scene has,
    `lacking` those that only some have, `first` the files of the first scene by token. `sensor` is known for products
    only, `mask` is the token of a quality layer.
    """

    name: str
    patterns: tuple[str, ...]
    files: tuple[str, ...]
    first: Mapping[str, str]
    scenes: int
    tokens: tuple[str, ...]
    lacking: tuple[str, ...]
    sensor: str | None
    mask: str | None


def band_groups(paths: Iterable[str]) -> tuple[list[BandGroup], list[str]]:
    """Data sets with one file per band among `paths` (relative, sorted), and the paths that belong to none.

    What lies beside the bands of a product belongs to neither.
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
    alone = [one for one in named if len(tokens[one.scene]) < 2]  # one layer is no product
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
        return f"{glob.escape(distinct[0])}/" if distinct[0] else ""
    parents = {str(PurePosixPath(one).parent) if one else "" for one in distinct}
    shared = PurePosixPath(*_common(distinct))
    prefix = "" if str(shared) == "." else f"{glob.escape(str(shared))}/"
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
    shared = _common(sorted({one.folder for one in files}))
    return BandGroup(
        name=sensor or (shared[-1] if shared else ""),
        patterns=tuple(folder_pattern(folders) + tail for tail, folders in sorted(tails.items())),
        files=tuple(one.path for one in files),
        first=next(iter(scenes.values())),
        scenes=len(scenes),
        tokens=tuple(sorted(everywhere - set(MASKS))),
        lacking=tuple(sorted(somewhere - everywhere - set(MASKS))),
        sensor=sensor,
        mask=next((token for token in MASKS if token in everywhere), None),
    )
