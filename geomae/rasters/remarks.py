"""What the audit remarks about the files of a data set together: a sentence each, with their number and the remedy."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import PurePosixPath

from geomae.catalog import Scene, Source
from geomae.catalog.band_order import is_alpha
from geomae.rasters.file_records import FileFacts, FileRecord
from geomae.sensors import sensor, sensor_names

SHOWN = 5  # files that a remark names
NO_TAGS = (1.0, 0.0)  # scale and offset of a file that says nothing of them
DARKEST = -0.05  # reflectance below which no dark pixel lies that is scaled rightly
NO_OFFSET = -0.5  # and below which it is no offset that is wrong
BRIGHTEST = 0.09  # reflectance below which some pixel of a data set lies, in shadow, water or a dark band
Numbers = Mapping[str, Sequence[int]]  # scene -> where its file has each band, as in `AuditReport`


def listed(paths: Sequence[str]) -> str:
    """How many files, and the names of some: `2 files (a.tif, b.tif)`."""
    names = ", ".join(PurePosixPath(path).name for path in paths[:SHOWN])
    return f"{len(paths)} file{'s' * (len(paths) != 1)} ({names}{', ...' if len(paths) > SHOWN else ''})"


def band_order_remarks(
    source: Source, scenes: Sequence[Scene], facts: Mapping[str, FileFacts], numbers: Numbers, unnamed: int
) -> list[str]:
    """Files that are read by the names of their bands, and nameless files among others that have names."""
    messages = []
    moved = [scene.files[0] for scene in scenes if scene.id in numbers]
    if moved:
        own = ", ".join(name or "no name" for name in facts[moved[0]].names)
        messages.append(
            f"{listed(moved)}: the bands are stored in another order than {source.order} (in the first {own}) and are "
            "read by their names; correct the names if they are wrong"
        )
    if 0 < unnamed < len(scenes):
        messages.append(
            f"{unnamed} of {len(scenes)} files name no band of {source.sensor} and are taken in the order "
            f"{source.order}; if that is not theirs, name the bands in them or make them their own data set"
        )
    return messages


def file_remarks(
    source: Source, scenes: Sequence[Scene], facts: Mapping[str, FileFacts], numbers: Numbers
) -> list[str]:
    """Tags of scale and offset that the catalogue contradicts, alpha that is read, palettes, nodata in lossy files."""

    def those(chosen: Callable[[FileFacts], bool]) -> list[str]:
        used = dict.fromkeys(path for scene in scenes for path in scene.files)
        return [path for path in used if chosen(facts[path])]

    messages = [*_tag_remarks(source, scenes, facts, numbers), *_alpha_remarks(source, scenes, facts, numbers)]
    if paletted := those(lambda one: one.palette):
        messages.append(
            f"{listed(paletted)}: the values are places in a table of colours and no measurements; expand them "
            "(`rio convert` or `gdal_translate -expand rgb`), or leave them out"
        )
    if lossy := those(lambda one: one.lossy and not one.masked and (one.nodata or bool(source.nodata))):
        messages.append(
            f"{listed(lossy)}: the compression changes values, so that nodata may be a little beside its value and "
            "count as valid; add a mask, or take the files from before the compression"
        )
    return messages


def offset_remarks(source: Source, scenes: Sequence[Scene], records: Mapping[str, FileRecord]) -> list[str]:
    """Pixels whose darkest hundredth says that an offset is applied twice, or not at all; no tag can tell."""
    bands = _reflectance(source)
    darkest: dict[str, tuple[float, int]] = {}
    for scene in scenes:
        measured = {path: dict(records[path].bands) for path in scene.files}
        darks = ((measured[scene.bands[at].path][scene.bands[at].index].dark, at) for at in bands)
        if found := [(dark, at) for dark, at in darks if dark is not None]:
            darkest[scene.files[0]] = min(found)
    messages = []
    negative = [path for path, (dark, _) in darkest.items() if NO_OFFSET < dark < DARKEST]
    if negative:
        dark, position = darkest[negative[0]]
        offset = source.offset_C[position]
        remedy = "the pixels may hold it already: then state `offset: 0`" if offset < 0 else "check `scale`"
        messages.append(
            f"{listed(negative)} of {len(darkest)}: the darkest hundredth of {source.bands[position].name} is "
            f"{dark:.3g} in the first, less than any ground reflects, with `offset` {offset:g}; {remedy}"
        )
    usual = _family_offset(source.sensor)
    if usual < 0 and darkest and all(source.offset_C[position] == 0 for position in bands):
        (dark, position), path = min((value, path) for path, value in darkest.items())
        if dark > BRIGHTEST:
            messages.append(
                f"nothing in {len(darkest)} file{'s' * (len(darkest) != 1)} is darker than {dark:.3g} (darkest "
                f"hundredth of {source.bands[position].name} in {PurePosixPath(path).name}), and `offset` is 0; if the "
                f"stored values carry an offset, state it, as `offset: {usual:g}`"
            )
    return messages


def _stored(paths: Set[str], scenes: Sequence[Scene], numbers: Numbers) -> Iterator[tuple[int, str, int]]:
    """Band of the source, file, and number in that file, of all that is read from `paths`."""
    for scene in scenes if paths else ():
        own = numbers.get(scene.id)
        for position, band in enumerate(scene.bands):
            if band.path in paths:
                yield position, band.path, own[band.index - 1] if own else band.index


def _tag_remarks(
    source: Source, scenes: Sequence[Scene], facts: Mapping[str, FileFacts], numbers: Numbers
) -> list[str]:
    first = ""
    paths: dict[str, None] = {}
    tagged = {path for path, one in facts.items() if set(one.scales) != {1.0} or set(one.offsets) != {0.0}}
    for position, path, number in _stored(tagged, scenes, numbers):
        tags = facts[path].scales[number - 1], facts[path].offsets[number - 1]
        said = source.scale_C[position], source.offset_C[position]
        if tags == NO_TAGS or all(
            math.isclose(*pair, rel_tol=1e-5, abs_tol=1e-9) for pair in zip(tags, said, strict=True)
        ):
            continue
        paths[path] = None
        first = first or (
            f"scale {tags[0]:g} and offset {tags[1]:g} for {source.bands[position].name} in the first, and the "
            f"catalogue takes {said[0]:g} and {said[1]:g}; if the tags are right, write `scale: {tags[0]:g}` and "
            f"`offset: {tags[1]:g}`"
        )
    return [f"{listed(list(paths))}: the tags say {first}"] if paths else []


def _alpha_remarks(
    source: Source, scenes: Sequence[Scene], facts: Mapping[str, FileFacts], numbers: Numbers
) -> list[str]:
    first = ""
    paths: dict[str, None] = {}
    marked = {path for path, one in facts.items() if one.alpha is not None}
    for position, path, number in _stored(marked, scenes, numbers):
        if facts[path].alpha == number and is_alpha(facts[path].names[number - 1]):
            paths[path] = None
            first = first or f"band {number} is marked as alpha and read as {source.bands[position].name}"
    return [f"{listed(list(paths))}: {first}; write null for it in `bands`, and it says what is valid"] if paths else []


def _reflectance(source: Source) -> list[int]:
    """The bands of a source whose unit is reflectance."""
    if source.unit == "reflectance":
        return list(range(len(source.bands)))
    if source.sensor in sensor_names() and source.unit == "mixed":
        known = sensor(source.sensor)
        return [at for at, band in enumerate(source.bands) if known.scaling(band).unit == "reflectance"]
    return []


def _family_offset(name: str) -> float:
    """The offset of reflectance that some product of a sensor carries; 0 where none does, or the sensor is unknown."""
    if name not in sensor_names():
        return 0.0
    family = name.split("-")[:2]
    products = [sensor(other) for other in sensor_names() if other.split("-")[:2] == family]
    return min((one.offset for one in products if one.unit == "reflectance"), default=0.0)
