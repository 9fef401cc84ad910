"""The report of an audit, and its cache, which is valid while no file of the data set has changed.

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

PACKAGES = ("catalog", "rasters", "sensors")  # packages whose code determines the report


@dataclass(frozen=True)
class Problem:
    """A problem of a scene: `kind` is one of unreadable, damaged, band-count, band-order, dtype, invalid,
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
    """The result of the audit of a data set.

    `content` has a digest (SHA-256, 64 characters) per scene of the bytes of its files, with mask and side files; for a
    scene of a single file it is the digest of the file. Scenes with an unreadable file have none. `numbers` has the
    band numbers of scenes whose files name their bands in another order (see `in_own_order`); `unnamed` counts files
    that name no band and are read in the stored order. `remarks` are warnings on the files of the data set as a whole,
    each a sentence with their number and the remedy. `grids` are the grids of usable scenes, `acquired` the times from
    tags. `whole` has the moments (5, C) of scenes that this process read in one piece: count, mean, squared deviations,
    minimum and maximum of each band.
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
        """The report as JSON."""
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
    """A key of the cache: it changes with the files that are read, how they are read, and the code that checks them.

    `stamps` are the states of the files, in order. None where one is unknown.
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
    """The cached report with this key; None without one."""
    with contextlib.suppress(GeomaeError, AttributeError, KeyError, TypeError, ValueError):
        kept = read_json(_place(source))
        if kept["key"] == key:
            return _from_json(kept)
    return None


def store_report(source: Source, key: str, report: AuditReport) -> None:
    """Cache a report; where the cache cannot be written, the audit is repeated next time."""
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
    """The cache file of a data set, named by the data set and its first file."""
    return cache_folder() / "audit-report" / f"{digest([source.name, source.scenes[0].files[0]])}.json"


@functools.cache
def _code() -> str:
    """Digest of the code and the tables that determine a report."""
    known = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(path for name in PACKAGES for path in (package / name).rglob("*.*")):
        if path.suffix in (".py", ".yaml"):
            known.update(path.read_bytes())
    return known.hexdigest()
