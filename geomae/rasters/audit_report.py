"""What an audit found, and the cache in which it is kept while no file of the data set has changed.

C bands
"""

import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import Source
from geomae.errors import GeomaeError
from geomae.files import cache_folder, digest, read_json, write_text
from geomae.rasters.grids import Grid
from geomae.rasters.headers import Stamp

PACKAGES = ("catalog", "rasters", "sensors")  # whose code decides what an audit says


@dataclass(frozen=True)
class Problem:
    """What is wrong with a scene: `kind` is one of unreadable, damaged, band-count, band-order, dtype, invalid,
    constant, duplicate, size (the scene is quarantined), or suspicious (a warning only).
    """

    scene: str
    files: tuple[str, ...]
    kind: str
    message: str

    @property
    def quarantines(self) -> bool:
        """Whether the scene must not be used."""
        return self.kind != "suspicious"


@dataclass(frozen=True)
class AuditReport:
    """What the audit found in a data set.

    `content` has a digest (64 characters, SHA-256) per scene of the bytes of its files, mask included, and of what lies
    beside them; for a scene of one file alone it is that of the file. Scenes with a file that cannot be read at all
    have none. `numbers` has the scenes whose files name their bands in another order, by which they are read (see
    `in_own_order`); `unnamed` is how many files name no band and are taken in the stored order. `remarks` are warnings
    about the files of the data set together, each a sentence with their number and the remedy. `grids` are those of the
    scenes that can be used, `acquired` the times that tags tell. `whole` has the moments (5, C) of scenes that were
    held whole while they were read just now: count, mean, squares, least and largest value of each band.
    """

    source: str
    scenes: int
    files: int
    problems: tuple[Problem, ...]
    content: Mapping[str, str]
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unnamed: int = 0
    remarks: tuple[str, ...] = ()
    grids: Mapping[str, Grid] = field(default_factory=dict, repr=False)
    acquired: Mapping[str, str] = field(default_factory=dict, repr=False)
    whole: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def quarantined(self) -> frozenset[str]:
        """Ids of the scenes that must not be used."""
        return frozenset(problem.scene for problem in self.problems if problem.quarantines)

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def to_dict(self) -> dict[str, Any]:
        """Give the report as what JSON has."""
        return {
            "source": self.source,
            "scenes": self.scenes,
            "files": self.files,
            "counts": self.counts,
            "quarantined": sorted(self.quarantined),
            "problems": [
                {"scene": one.scene, "files": list(one.files), "kind": one.kind, "message": one.message}
                for one in self.problems
            ],
            "content": dict(self.content),
            "band_order": {"by_name": sorted(self.numbers), "unnamed": self.unnamed},
        }


def report_key(source: Source, stamps: Sequence[Stamp]) -> str | None:
    """Changes with what is asked of the files of a data set, with their states, and with the code that looks at them.

    `stamps` are those of the files that are read, in their order; None where one is not known.
    """
    if None in stamps:
        return None
    known = hashlib.sha256(f"{_code()} {replace(source, scenes=())}".encode())
    for scene in source.scenes:
        mask = scene.mask and (scene.mask.path, scene.mask.index)
        bands = [(band.path, band.index) for band in scene.bands]
        known.update(f"{scene.id}\n{bands}\n{mask}\n".encode(errors="surrogateescape"))
    known.update(repr(stamps).encode(errors="surrogateescape"))
    return known.hexdigest()


def load_report(source: Source, key: str) -> AuditReport | None:
    """The report that was kept under a key, if there is one."""
    with contextlib.suppress(GeomaeError, AttributeError, KeyError, TypeError, ValueError):
        kept = read_json(_place(source))
        if kept["key"] == key:
            return _from_json(kept)
    return None


def store_report(source: Source, key: str, report: AuditReport) -> None:
    """Keep a report; a cache that cannot be written costs time later and nothing else."""
    kinds: dict[tuple[Any, ...], int] = {}
    grids = {
        scene: (kinds.setdefault((one.height, one.width, one.gsd_m, one.crs), len(kinds)), *one.transform)
        for scene, one in report.grids.items()
    }
    kept = {
        "key": key,
        "counts": [report.source, report.scenes, report.files, report.unnamed],
        "problems": [[one.scene, one.files, one.kind, one.message] for one in report.problems],
        "content": report.content,
        "numbers": report.numbers,
        "remarks": report.remarks,
        "acquired": report.acquired,
        "kinds": list(kinds),
        "grids": grids,
    }
    with contextlib.suppress(GeomaeError):
        write_text(_place(source), json.dumps(kept, separators=(",", ":")))


def _from_json(kept: Mapping[str, Any]) -> AuditReport:
    source, scenes, files, unnamed = kept["counts"]
    kinds = kept["kinds"]
    return AuditReport(
        source,
        scenes,
        files,
        tuple(Problem(scene, tuple(files), kind, message) for scene, files, kind, message in kept["problems"]),
        kept["content"],
        {scene: tuple(one) for scene, one in kept["numbers"].items()},
        unnamed,
        tuple(kept["remarks"]),
        {scene: _grid(kinds[kind], transform) for scene, (kind, *transform) in kept["grids"].items()},
        kept["acquired"],
    )


def _grid(kind: Sequence[Any], transform: Sequence[float]) -> Grid:
    height, width, gsd_m, crs = kind
    a, b, c, d, e, f = transform
    return Grid(height, width, gsd_m, crs, (a, b, c, d, e, f))


def _place(source: Source) -> Path:
    """One file per data set: its name and its first file."""
    return cache_folder() / "audit-report" / f"{digest([source.name, source.scenes[0].files[0]])}.json"


@functools.cache
def _code() -> str:
    """Digest of the code and the tables that decide what an audit says."""
    known = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(path for name in PACKAGES for path in (package / name).rglob("*.*")):
        if path.suffix in (".py", ".yaml"):
            known.update(path.read_bytes())
    return known.hexdigest()
