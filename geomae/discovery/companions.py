"""Rasters beside imagery: a file for each scene that holds its mask or its labels, found by their names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from pathlib import PurePosixPath

from geomae.catalog.paths import SEPARATORS
from geomae.catalog.patterns import escape_pattern
from geomae.discovery.grouping import StackGroup
from geomae.discovery.quality_layers import UDM2, QualityLayer
from geomae.rasters.headers import Header

MOST_WORDS = 8  # kinds of files beside the scenes that are named by another word, at most
KIND = re.compile(  # a word for what belongs to an image
    r"(?<![a-z0-9])(?:f?masks?|msk|scl|qa|clouds?|udm2|labels?|lbl|gt|truth|annotation|class(?:es)?|seg(?:mentation)?"
    r"|target|map|lc|lulc|landcover|worldcover)(?![a-z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Companion:
    """Rasters beside the scenes of a data set.

    `path` is the catalogue's, with `{stem}` for the scene; `files` are those of the scenes, and `pattern` describes
    them. All are relative to the searched folder. `word` is the part of the stem and what replaces it, and `layer` what
    the files are, if that is known.
    """

    pattern: str
    path: str
    files: tuple[str, ...]
    word: tuple[str, str] | None = None
    layer: QualityLayer | None = None


@dataclass(frozen=True)
class Accompanied:
    """A group of rasters with the companions of its scenes."""

    group: StackGroup
    companions: tuple[Companion, ...] = ()


def with_companions(groups: Sequence[StackGroup]) -> tuple[list[Accompanied], list[str]]:
    """The groups that are imagery or stand alone, each with the files that exist for each of its scenes.

    Files that fit several groups belong to all of them, but only to those of the same names if there are such. The
    second value lists files beside the scenes that belong to none.
    """
    found: dict[int, list[Companion]] = {}
    taken: set[int] = set()
    left: list[str] = []
    for number, group in enumerate(groups):
        if not _is_beside(group):
            continue
        fits: dict[int, list[Companion]] = {}
        for other, candidate in enumerate(groups):
            here = [] if _is_beside(candidate) else beside_each(candidate.files, group.files)
            here = [one for one in here if one.word is None or _same_ground(candidate, group, one.word)]
            if here:
                fits[other] = here
        alike = {other: here for other, here in fits.items() if not any(one.word for one in here)}
        used: set[str] = set()
        for other, here in (alike or fits).items():
            found.setdefault(other, []).extend(replace(one, layer=_layer(one, group)) for one in here)
            used.update(path for one in here for path in one.files)
        if used:
            taken.add(number)
            left += [path for path in group.files if path not in used]
    rest = [number for number in range(len(groups)) if number not in taken]
    return [Accompanied(groups[number], tuple(found.get(number, ()))) for number in rest], left


def is_planet_mask(group: StackGroup) -> bool:
    """Whether the files are usable data masks (UDM2), by their names or the names of their bands."""
    return _is_udm2(group.files[0], group.headers[0])


def _layer(one: Companion, group: StackGroup) -> QualityLayer | None:
    """What the files of a companion are by their own names and bands: a group may hold several kinds."""
    own = next((info for info in group.headers if info.path.endswith(f"/{one.files[0]}")), None)
    return UDM2 if _is_udm2(one.files[0], own) else None


def _is_udm2(path: str, info: Header | None) -> bool:
    pure = PurePosixPath(path)
    named = "_udm2" in pure.name.lower() or pure.parent.name.lower() == "udm2"
    return named or (info is not None and info.names[:2] == ("clear", "snow"))


def _same_ground(images: StackGroup, others: StackGroup, word: tuple[str, str]) -> bool:
    """Whether the first image that was examined with its file shows the same ground.

    Without a CRS, the files are believed to belong together by a word for what belongs to an image.
    """
    by_stem = {PurePosixPath(one.path).stem: one for one in others.headers}
    pairs = ((one, by_stem.get(PurePosixPath(one.path).stem.replace(*word))) for one in images.headers)
    pair = next(((one, other) for one, other in pairs if other is not None), None)
    if pair is None or None in (pair[0].crs, pair[1].crs):
        return KIND.search(word[1]) is not None
    return pair[0].crs == pair[1].crs and _meet(*pair)


def _meet(one: Header, other: Header) -> bool:
    """Whether the footprints of two rasters of one CRS overlap."""
    west, south, east, north = _bounds(one)
    west_2, south_2, east_2, north_2 = _bounds(other)
    return max(west, west_2) < min(east, east_2) and max(south, south_2) < min(north, north_2)


def _bounds(info: Header) -> tuple[float, float, float, float]:
    """West, south, east and north of a raster, which may be rotated."""
    a, b, left, d, e, top = info.transform
    corners = [(col, row) for col in (0, info.width) for row in (0, info.height)]
    x, y = zip(*((left + a * col + b * row, top + d * col + e * row) for col, row in corners), strict=True)
    return min(x), min(y), max(x), max(y)


def _is_beside(group: StackGroup) -> bool:
    return group.one_band or is_planet_mask(group)


def beside_each(images: Sequence[str], others: Sequence[str]) -> list[Companion]:
    """Files in one folder that exist for every image.

    They are named like it, with an ending (`*_fmask.tif`), or, beside images of one folder, with another word in place
    of one (`*_mask.tif` for `*_image.tif`).
    """
    folders = {path.rpartition("/")[0] for path in others}
    if len(folders) > 1:
        return []
    folder, suffix = folders.pop(), PurePosixPath(others[0]).suffix
    start = f"{escape_pattern(folder)}/" if folder else ""
    plain = f"{folder}/" if folder else ""
    stems = {PurePosixPath(path).stem for path in images}
    names = {PurePosixPath(path).stem for path in others}
    endings: dict[str, dict[str, str]] = {}  # by ending: the name of each stem
    for name in names:
        longest = next((name[:end] for end in range(len(name), 0, -1) if name[:end] in stems), None)
        if longest is not None:
            endings.setdefault(name.removeprefix(longest), {})[longest] = name
    companions = []
    for ending, name_of in sorted(endings.items()):
        if name_of.keys() == stems:
            files = tuple(sorted(f"{plain}{name}{suffix}" for name in name_of.values()))
            pattern = f"{start}*{escape_pattern(ending)}{suffix}"
            companions.append(Companion(pattern, f"{plain}{{stem}}{ending}{suffix}", files))
    names -= {PurePosixPath(path).stem for one in companions for path in one.files}
    one_folder = len({path.rpartition("/")[0] for path in images}) == 1
    for _ in range(MOST_WORDS if one_folder else 0):
        word = _other_word(stems, names)
        if word is None:
            break
        old, new = word
        own = {stem.replace(old, new) for stem in stems}
        names -= own
        files = tuple(sorted(f"{plain}{name}{suffix}" for name in own))
        pattern = f"{start}*{escape_pattern(new)}*{suffix}"
        companions.append(Companion(pattern, f"{plain}{{stem:{old}={new}}}{suffix}", files, word))
    return companions


def _other_word(stems: set[str], names: set[str]) -> tuple[str, str] | None:
    """A word of the stems, and the one that some of the names have in its place; None if there are no such names."""
    first = min(stems)
    for name in sorted(names, key=lambda one: (-_shared(first, one) - _shared(first[::-1], one[::-1]), one)):
        word = _difference(first, name)
        if word is None or any(stem.count(word[0]) != 1 for stem in stems):
            continue
        if {stem.replace(*word) for stem in stems} <= names:
            return word
    return None


def _difference(stem: str, name: str) -> tuple[str, str] | None:
    """The whole words of a stem in place of which a name has others; None if these may be another scene."""
    begin = _shared(stem, name)
    end = min(_shared(stem[::-1], name[::-1]), min(len(stem), len(name)) - begin)
    while begin and stem[begin - 1] not in SEPARATORS:
        begin -= 1
    while end and stem[-end] not in SEPARATORS:
        end -= 1
    old, new = stem[begin : len(stem) - end], name[begin : len(name) - end]
    kept = stem[:begin] + stem[len(stem) - end :]
    if not (old and new and re.search(r"[A-Za-z0-9]", kept) and re.fullmatch(r"[^={}]+", old + new)):
        return None
    another_scene = re.search(r"\d", re.sub("udm2", "", new, flags=re.IGNORECASE))  # its number, date or grid
    return None if another_scene or old.isdigit() else (old, new)


def _shared(one: str, other: str) -> int:
    """The number of letters that both begin with."""
    return len(commonprefix([one, other]))  # noqa: RUF071  # letters, not folders, are compared
