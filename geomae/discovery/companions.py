"""Rasters beside imagery: a file for each scene that holds its mask or its labels, found by their names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from geomae.catalog.patterns import escape_pattern
from geomae.discovery.grouping import StackGroup

SEPARATORS = "_. -"


@dataclass(frozen=True)
class Companion:
    """Rasters beside the scenes of a data set.

    `pattern` matches them. `path` is the catalogue's, with `{stem}` for the scene; both are relative to the searched
    folder.
    """

    pattern: str
    path: str


def with_companions(groups: Sequence[StackGroup]) -> list[tuple[StackGroup, tuple[Companion, ...]]]:
    """The groups that are imagery or stand alone, each with the groups that have a file for each of its scenes."""
    found: dict[int, list[Companion]] = {}
    taken = set()
    for number, group in enumerate(groups):
        for other, candidate in enumerate(groups):
            if _is_beside(group) and not _is_beside(candidate) and (here := beside_each(candidate.files, group.files)):
                found.setdefault(other, []).extend(here)
                taken.add(number)
                break
    return [(group, tuple(found.get(number, ()))) for number, group in enumerate(groups) if number not in taken]


def is_planet_mask(group: StackGroup) -> bool:
    """Whether the files are usable data masks (UDM2), by their name or the names of their bands."""
    return "_udm2" in group.telling.lower() or group.headers[0].names[:2] == ("clear", "snow")


def _is_beside(group: StackGroup) -> bool:
    return group.one_band or is_planet_mask(group)


def beside_each(images: Sequence[str], others: Sequence[str]) -> list[Companion]:
    """Files in one folder that exist for every image.

    They are named like it, with an ending (`*_fmask.tif`), or with another word in place of one (`*_mask.tif` for
    `*_image.tif`).
    """
    folders = {path.rpartition("/")[0] for path in others}
    if len(folders) > 1:
        return []
    folder, suffix = folders.pop(), PurePosixPath(others[0]).suffix
    stems = {PurePosixPath(path).stem for path in images}
    names = {PurePosixPath(path).stem for path in others}
    having: dict[str, set[str]] = {}
    for name in names:
        longest = next((name[:end] for end in range(len(name), 0, -1) if name[:end] in stems), None)
        if longest is not None:
            having.setdefault(name.removeprefix(longest), set()).add(longest)
    start = f"{escape_pattern(folder)}/" if folder else ""
    plain = f"{folder}/" if folder else ""
    endings = [ending for ending, of in sorted(having.items()) if of == stems]
    if endings:
        return [
            Companion(f"{start}*{escape_pattern(ending)}{suffix}", f"{plain}{{stem}}{ending}{suffix}")
            for ending in endings
        ]
    word = _other_word(stems, names)
    if word is None:
        return []
    old, new = word
    return [Companion(f"{start}*{escape_pattern(new)}*{suffix}", f"{plain}{{stem:{old}={new}}}{suffix}")]


def _other_word(stems: set[str], names: set[str]) -> tuple[str, str] | None:
    """The word of the stems, and the one that the names have in its place; None if these are no such names."""
    first = min(stems)
    nearest = max(sorted(names), key=lambda name: _shared(first, name) + _shared(first[::-1], name[::-1]))
    begin = _shared(first, nearest)
    end = min(_shared(first[::-1], nearest[::-1]), min(len(first), len(nearest)) - begin)
    while begin and first[begin - 1] not in SEPARATORS:
        begin -= 1
    while end and first[-end] not in SEPARATORS:
        end -= 1
    old, new = first[begin : len(first) - end], nearest[begin : len(nearest) - end]
    kept = first[:begin] + first[len(first) - end :]
    if not re.search(r"[A-Za-z0-9]", kept) or not re.fullmatch(r"[^={}]+", old + new) or not (old and new):
        return None
    numbers = any(word.isdigit() for word in re.split(f"[{SEPARATORS}]", f"{old} {new}"))  # of another scene
    if numbers or any(stem.count(old) != 1 for stem in stems):
        return None
    return (old, new) if {stem.replace(old, new) for stem in stems} <= names else None


def _shared(one: str, other: str) -> int:
    """The number of letters that both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
