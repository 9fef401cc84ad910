"""The audit of a data set before training: files that cannot be read, and values that look wrong."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import Scene, Source
from geomae.catalog.schema_cubes import is_cube
from geomae.errors import RasterError
from geomae.rasters.audit_report import AuditReport, Problem, load_report, report_key, store_report
from geomae.rasters.file_records import BandRecord, FileFacts, FileRecord
from geomae.rasters.grid_remarks import grid_remarks
from geomae.rasters.grids import Grid, layout_of, scene_layout
from geomae.rasters.headers import Stamp
from geomae.rasters.inspection import Place, inspect_files, placing
from geomae.rasters.measuring import Wanted
from geomae.rasters.opening import beside_stamp, is_remote, stamp
from geomae.rasters.remarks import band_order_remarks, file_remarks, offset_remarks
from geomae.rasters.side_files import look_beside
from geomae.rasters.tile_moments import FileTiles, MeasuredTiles, TileMoments
from geomae.rasters.work_share import ALONE, WorkShare

MOST_NOT_FINITE = 0.5  # share of NaN and infinities from which a band is suspicious
LARGEST_VALUE = 1e12  # in any unit: beyond it, sums of squares and products overflow float32 and statistics become NaN
PLAUSIBLE_VALUES = {  # per unit, range of every pixel: sensors saturate within it
    "reflectance": (-0.5, 10.0),
    "brightness_temperature": (50.0, 2000.0),
    "decibel": (-200.0, 200.0),
}
PLAUSIBLE_MEDIANS = {"reflectance": (-0.2, 1.6), "brightness_temperature": (150.0, 400.0)}  # per unit


def audit(
    source: Source,
    *,
    workers: int,
    share: WorkShare = ALONE,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    tiles: MeasuredTiles | None = None,
) -> AuditReport:
    """Read every file of a data set and report scenes that cannot be used, and scenes that look wrong.

    Files are read in pieces by `workers` threads. Results are cached, so that a file is read again only after the file,
    its side files, or the way it is read has changed. A scene is reported with its first quarantining problem only.
    Every process of `share` reads its part of the files. `progress` is called with (what, done, total). `tiles` gets
    the moments of the tiles of scenes that are read in this call, if those of the files are those of the scene.
    """
    wanted = _wanted(source, tiles)
    stamps = _stamps(source, wanted)
    key = report_key(source, [stamps.get(one.path) for one in wanted])
    kept = load_report(source, key) if key is not None else None
    if all(share.exchange(kept is not None)) and kept is not None:
        return kept

    def known(done: int) -> None:
        progress(f"auditing {source.name}", done, len(wanted))

    records, measured = inspect_files(source, wanted, stamps, workers=workers, share=share, progress=known)
    report = _judge(source, records, placing(source.order))
    if tiles is not None and measured:
        tiles.scenes.update(_tiles(source, report, records, measured))
    sound = not any(record.kind == "unreadable" for record in records.values())
    if key is not None and sound and share.leads:
        store_report(source, key, report)
    return report


def _stamps(source: Source, wanted: Sequence[Wanted]) -> dict[str, Stamp]:
    """The states of the existing local files of a data set; each folder is listed once."""
    labels = {scene.label_path for scene in source.scenes if scene.label_path}
    paths = {one.path for one in wanted}
    states = look_beside(path for path in paths | labels if not is_remote(path) and not is_cube(path))
    stamps: dict[str, Stamp] = {path: (*state, *beside_stamp(path)) for path, state in states.items()}
    for path in paths - stamps.keys():
        with contextlib.suppress(RasterError):  # reading the file reports the error
            stamps[path] = stamp(path, remote=source.remote)
    return stamps


def _judge(source: Source, records: Mapping[str, FileRecord], place: Place | None) -> AuditReport:
    """The report on the scenes, from the records of their files."""
    dtypes = _usual_dtypes(source, records)
    problems: list[Problem] = []
    sound: list[Scene] = []
    content: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for scene in source.scenes:
        digests = [records[path].content for path in _paths(scene)]
        if None not in digests:
            content[scene.id] = _join([str(digest) for digest in digests])
        problem = _unusable(source, scene, records, dtypes) or _duplicate(scene, records, seen)
        if problem is not None:
            problems.append(problem)
        else:
            sound.append(scene)
            problems.extend(_suspicious(source, scene, records))
    facts = {path: facts for path, record in records.items() if (facts := record.facts) is not None}
    numbers, unnamed = _orders(sound, facts, place)
    notes = [*band_order_remarks(source, sound, facts, numbers, unnamed), *file_remarks(source, sound, facts, numbers)]
    notes += [*offset_remarks(source, sound, records), *grid_remarks(source, sound, facts)]
    grids, acquired = _grids(source, sound, records)
    return AuditReport(
        source.name,
        len(source.scenes),
        len(records),
        tuple(problems),
        content,
        numbers,
        unnamed,
        tuple(notes),
        grids,
        acquired,
        _whole(sound, records, grids),
    )


def _grids(
    source: Source, sound: Sequence[Scene], records: Mapping[str, FileRecord]
) -> tuple[dict[str, Grid], dict[str, str]]:
    """Grid and time of each scene, from its headers. A scene whose grid cannot be computed is left out."""
    headers = {path: record.header for path, record in records.items() if record.header is not None}
    grids, acquired = {}, {}
    for scene in sound:
        with contextlib.suppress(RasterError):
            layout = layout_of(source, scene, headers.__getitem__)
            grids[scene.id] = layout.grid
            if time := layout.parts[0].header.acquired:
                acquired[scene.id] = time
    return grids, acquired


def _whole(
    sound: Sequence[Scene], records: Mapping[str, FileRecord], grids: Mapping[str, Grid]
) -> dict[str, NDArray[np.float64]]:
    """The moments (5, C) of scenes of one file that was read in one piece, without a mask, on the file's own grid."""
    found = {}
    for scene in sound:
        record = records[scene.files[0]]
        bands = dict(record.bands)
        chosen = [bands[band.index] for band in scene.bands if band.path == scene.files[0]]
        grid = grids.get(scene.id)
        if (
            scene.mask is None and grid is not None and record.header is not None
            and grid.transform == record.header.transform and record.header.shape == (grid.height, grid.width)
            and len({band.index for band in scene.bands}) == len(bands) == len(chosen) == len(scene.bands)
            and all(one.mean is not None for one in chosen)
        ):  # fmt: skip
            figures = [(one.valid, one.mean, one.squares, *_range(one)) for one in chosen]
            found[scene.id] = np.array(figures, dtype=np.float64).T
    return found


def _tiles(
    source: Source, report: AuditReport, records: Mapping[str, FileRecord], measured: Mapping[str, TileMoments]
) -> dict[str, list[FileTiles]]:
    """The moments of the tiles of scenes without a mask whose files were all measured and lie on the scene's grid."""
    found = {}
    for scene in source.scenes:
        grid = report.grids.get(scene.id)
        if grid is None or scene.mask is not None or not set(scene.files) <= measured.keys():
            continue
        files = []
        for path in scene.files:
            record, there = records[path], [at for at, band in enumerate(scene.bands) if band.path == path]
            numbers = [number for number, _ in record.bands]
            used = [scene.bands[at].index for at in there]
            info = record.header
            if info is None or (info.shape, info.transform) != ((grid.height, grid.width), grid.transform):
                break
            if sorted(used) != numbers:  # scenes may share a file, and scale its bands in ways of their own
                break
            files.append((measured[path], there, [numbers.index(number) for number in used]))
        else:
            found[scene.id] = files
    return found


def _range(band: BandRecord) -> tuple[float, float]:
    """The smallest and the largest valid value; infinities where there is none."""
    return (np.inf, -np.inf) if band.low is None or band.high is None else (band.low, band.high)


def _orders(
    sound: Sequence[Scene], facts: Mapping[str, FileFacts], place: Place | None
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Band numbers of scenes whose files name their bands in another order, and the number of files without names."""
    if place is None:
        return {}, 0
    placements = {scene.id: place(facts[scene.files[0]].names) for scene in sound}
    moved = {scene_id: one.numbers for scene_id, one in placements.items() if one.moved and one.numbers}
    return moved, sum(not one.named for one in placements.values())


def stored_value(value: float, scale: float, offset: float) -> str:
    """A value as the file stores it, in digits that identify it: a whole number, else in float32 precision."""
    raw = (value - offset) / scale
    if abs(raw) < 1e6 and abs(raw - round(raw)) < 0.01:
        return str(round(raw))
    limits = np.finfo(np.float32)
    return str(np.float32(min(max(raw, float(limits.min)), float(limits.max))))


def _paths(scene: Scene) -> tuple[str, ...]:
    return scene.files if scene.mask is None else tuple(dict.fromkeys((*scene.files, scene.mask.path)))


def _wanted(source: Source, tiles: MeasuredTiles | None) -> list[Wanted]:
    """The distinct files of a data set, and the bands that are read of each and the tiles that are measured."""
    bands: dict[str, dict[int, tuple[float, float]]] = {}
    for scene in source.scenes:
        for band, scale, offset in zip(scene.bands, source.scale_C, source.offset_C, strict=True):
            bands.setdefault(band.path, {}).setdefault(band.index, (scale, offset))
        if scene.mask is not None:
            bands.setdefault(scene.mask.path, {}).setdefault(scene.mask.index, (1.0, 0.0))
    imagery = {path for scene in source.scenes for path in scene.files}
    bare = {path for scene in source.scenes if scene.mask is None for path in scene.files}
    wanted = []
    for path, used in bands.items():
        chosen = tuple((number, *used[number]) for number in sorted(used))
        own = tiles if path in bare else None
        wanted.append(Wanted(path, chosen, source.nodata, source.remote, path in imagery, own))
    return wanted


def _role(scene: Scene, path: str) -> tuple[int, ...]:
    """The bands of the source that a file holds; files of one role should have the same type."""
    return tuple(position for position, band in enumerate(scene.bands) if band.path == path)


def _usual_dtypes(source: Source, records: Mapping[str, FileRecord]) -> dict[tuple[int, ...], str]:
    """The data type that most files of each role have."""
    votes: dict[tuple[int, ...], Counter[str]] = {}
    for path, role in dict.fromkeys((path, _role(scene, path)) for scene in source.scenes for path in scene.files):
        if records[path].dtype:
            votes.setdefault(role, Counter())[records[path].dtype] += 1
    return {role: counter.most_common(1)[0][0] for role, counter in votes.items()}


def _unusable(
    source: Source, scene: Scene, records: Mapping[str, FileRecord], dtypes: Mapping[tuple[int, ...], str]
) -> Problem | None:
    """The first reason, if any, for which a scene must not be used."""
    for path in _paths(scene):
        record = records[path]
        if record.kind == "band-order":
            return Problem(scene.id, (path,), record.kind, _contradiction(source, path, str(record.message)))
        if record.kind is not None:
            return Problem(scene.id, (path,), record.kind, str(record.message))
    for path in scene.files:
        record, role = records[path], _role(scene, path)
        needed = max(scene.bands[position].index for position in role)
        if record.count < needed or (source.stored_bands is not None and record.count != source.stored_bands):
            expected = source.stored_bands or needed
            skipped = ", with null for each stored band that is not read" if record.count > expected else ""
            message = f"{path}: has {record.count} bands instead of {expected}; correct `bands`{skipped}"
            return Problem(scene.id, (path,), "band-count", message)
        if record.dtype != dtypes[role]:
            message = f"{path}: is {record.dtype}, and most files are {dtypes[role]}"
            return Problem(scene.id, (path,), "dtype", f"{message}; convert it, or make it its own data set")
    if len(_paths(scene)) > 1:  # a single file needs no check
        try:
            scene_layout(source, scene)
        except RasterError as error:
            return Problem(scene.id, scene.files, "unreadable", str(error))
    bands = [band for _, band in _bands(source, scene, records)]
    if all(band.valid == 0 for band in bands):
        message = f"{scene.files[0]}: has no valid pixel; check `nodata`, or leave the scene out"
        return Problem(scene.id, scene.files, "invalid", message)
    if all(band.low == band.high for band in bands):
        message = f"{scene.files[0]}: all its pixels are {_figure(bands[0].low)}; leave the scene out"
        return Problem(scene.id, scene.files, "constant", message)
    return None


def _contradiction(source: Source, path: str, described: str) -> str:
    order = source.order
    assert order is not None
    if order.stated:
        said, remedy = f"where `bands` says {order}", "correct `bands`, or the descriptions in the file"
    else:
        said, remedy = f"where the first file has {order}", "add `bands`, or make it its own data set"
    return f"{path}: names its bands {described}, {said}; {remedy}"


def _duplicate(scene: Scene, records: Mapping[str, FileRecord], seen: dict[tuple[Any, ...], str]) -> Problem | None:
    """A problem where an earlier scene has the same bytes in the same bands."""
    key = tuple((records[band.path].digest, band.index) for band in scene.bands)
    first = seen.setdefault(key, scene.id)
    if first == scene.id:
        return None
    message = f"{scene.files[0]}: has the same bytes as scene {first}; remove one of the two"
    return Problem(scene.id, scene.files, "duplicate", message)


def _suspicious(source: Source, scene: Scene, records: Mapping[str, FileRecord]) -> Iterable[Problem]:
    low, high = PLAUSIBLE_MEDIANS.get(source.unit, (float("-inf"), float("inf")))
    far, gone, flat = [], [], []
    beyond: dict[str, list[str]] = {}  # names of bands by stored value
    fills: dict[str, list[str]] = {}
    for (name, band), *scaling in zip(_bands(source, scene, records), source.scale_C, source.offset_C, strict=True):
        fits = band.median is None or low <= band.median <= high
        extreme = _beyond(source.unit if fits else "", band)  # with a wrong `scale` all values are wrong
        if band.fill is not None:
            fills.setdefault(stored_value(band.fill, *scaling), []).append(f"{name} ({band.fill_share:.1%})")
        if extreme is not None and extreme != band.fill:
            beyond.setdefault(stored_value(extreme, *scaling), []).append(name)
        if band.not_finite > MOST_NOT_FINITE * band.pixels:
            gone.append(f"{name} ({band.not_finite / band.pixels:.0%})")
        if not fits:
            far.append(f"{name} ({_figure(band.median)})")
        if band.valid == 0 or band.low == band.high:
            flat.append(name)
    unit = source.unit.replace("_", " ")
    messages = [
        f"{value} is in {', '.join(names)} and far from all other values; if it is no measurement, declare `nodata`"
        for value, names in fills.items()
    ]
    messages += [
        f"{value} in {', '.join(names)} is beyond any {unit}; if it is no measurement, declare `nodata`"
        for value, names in beyond.items()
    ]
    if far:
        messages.append(f"median {unit} out of {low:g} to {high:g} in {', '.join(far)}; check `scale` and `offset`")
    if gone:
        messages.append(f"most values are NaN or infinite in {', '.join(gone)}; check how the file was made")
    if flat:
        messages.append(f"a single value or no valid pixel in {', '.join(flat)}; check `bands`")
    return [Problem(scene.id, scene.files, "suspicious", f"{scene.files[0]}: {text}") for text in messages]


def _beyond(unit: str, band: BandRecord) -> float | None:
    """The lowest or highest value of a band where it is outside the plausible range of `unit`; else None."""
    least, most = PLAUSIBLE_VALUES.get(unit, (-LARGEST_VALUE, LARGEST_VALUE))
    if band.low is not None and band.low < least:
        return band.low
    return band.high if band.high is not None and band.high > most else None


def _bands(source: Source, scene: Scene, records: Mapping[str, FileRecord]) -> list[tuple[str, BandRecord]]:
    """(name, record) of every band of a scene."""
    return [
        (band.name, dict(records[stored.path].bands)[stored.index])
        for band, stored in zip(source.bands, scene.bands, strict=True)
    ]


def _join(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
