"""What the audit remarks about the files of a data set together: a sentence each, with their number and the remedy."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from geomae.catalog import Scene, Source
from geomae.rasters.inspection import FileRecord

SHOWN = 5  # files that a remark names


def remarks(
    source: Source,
    scenes: Sequence[Scene],
    records: Mapping[str, FileRecord],
    numbers: Mapping[str, tuple[int, ...]],
    unnamed: int,
) -> tuple[str, ...]:
    """Remarks about `scenes`, which are those that can be used; `numbers` and `unnamed` are as in `AuditReport`."""
    return tuple(_band_order(source, scenes, records, numbers, unnamed))


def listed(paths: Sequence[str]) -> str:
    """How many files, and the names of some: `2 files (a.tif, b.tif)`."""
    names = ", ".join(PurePosixPath(path).name for path in paths[:SHOWN])
    return f"{len(paths)} file{'s' * (len(paths) != 1)} ({names}{', ...' if len(paths) > SHOWN else ''})"


def _band_order(
    source: Source,
    scenes: Sequence[Scene],
    records: Mapping[str, FileRecord],
    numbers: Mapping[str, tuple[int, ...]],
    unnamed: int,
) -> list[str]:
    """Files that are read by the names of their bands, and nameless files among others that have names."""
    messages = []
    moved = [scene.files[0] for scene in scenes if scene.id in numbers]
    if moved:
        facts = records[moved[0]].facts
        own = ", ".join(name or "no name" for name in facts.names) if facts else ""
        messages.append(
            f"{listed(moved)} store the bands in another order than {source.order} (the first {own}) and are read by "
            "the names in them; nothing to do if the names are right, else correct them"
        )
    if 0 < unnamed < len(scenes):
        messages.append(
            f"{unnamed} of {len(scenes)} files do not name their bands and are taken in the order {source.order}; "
            "if that is not theirs, name the bands in them or make them their own data set"
        )
    return messages
