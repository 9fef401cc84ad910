"""The audit's remarks on the files of a data set as a whole: a sentence each, with their number and the remedy."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import PurePosixPath

from geomae.catalog import Scene, Source
from geomae.catalog.band_order import is_alpha
from geomae.rasters.file_records import FileFacts, FileRecord
from geomae.sensors import sensor, sensor_names

SHOWN = 5  # files that a remark names
NO_TAGS = (1.0, 0.0)  # scale and offset of a file without tags for them
DARKEST = -0.05  # reflectance: dark pixels below it show a wrong scale or offset
NO_OFFSET = -0.5  # reflectance: values below it are not explained by a wrong offset
BRIGHTEST = 0.09  # reflectance: some pixels of a data set are darker, in shadow, water or a dark band
WHITE = 1.0  # reflectance: if the darkest pixels are above it, `scale` is wrong, and nothing is known of the offset
Numbers = Mapping[str, Sequence[int]]  # scene -> its file's number of each band, as in `AuditReport`


def listed(paths: Sequence[str]) -> str:
    """The number of files and the names of some: `2 files (a.tif, b.tif)`."""
    names = ", ".join(PurePosixPath(path).name for path in paths[:SHOWN])
    return f"{len(paths)} file{'s' * (len(paths) != 1)} ({names}{', ...' if len(paths) > SHOWN else ''})"


def band_order_remarks(
    source: Source, scenes: Sequence[Scene], facts: Mapping[str, FileFacts], numbers: Numbers, unnamed: int
) -> list[str]:
    """Remarks on files that are read by the names of their bands, and on unnamed files among named ones."""
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
            f"{unnamed} of {len(scenes)} files name no band of {source.sensor} and are read in the order "
            f"{source.order}; if theirs is another, name the bands in them or make them their own data set"
        )
    return messages


def file_remarks(
    source: Source, scenes: Sequence[Scene], facts: Mapping[str, FileFacts], numbers: Numbers
) -> list[str]:
    """Remarks on scale and offset tags that differ from the catalogue, alpha bands, palettes, nodata in lossy files."""

    def those(chosen: Callable[[FileFacts], bool]) -> list[str]:
        used = dict.fromkeys(path for scene in scenes for path in scene.files)
        return [path for path in used if chosen(facts[path])]

    messages = [*_tag_remarks(source, scenes, facts, numbers), *_alpha_remarks(source, scenes, facts, numbers)]
    if paletted := those(lambda one: one.palette):
        messages.append(
            f"{listed(paletted)}: the values are indices of a colour table and no measurements; expand them "
            "(`rio convert` or `gdal_translate -expand rgb`), or leave them out"
        )
    if lossy := those(lambda one: one.lossy and not one.masked and (one.nodata or bool(source.nodata))):
        messages.append(
            f"{listed(lossy)}: the compression is lossy, so that nodata pixels may differ slightly from its value and "
            "count as valid; add a mask, or use the files from before the compression"
        )
    return messages


def offset_remarks(source: Source, scenes: Sequence[Scene], records: Mapping[str, FileRecord]) -> list[str]:
    """Remarks where the darkest pixels suggest that an offset is applied twice, or not at all; no tag shows this."""
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
        remedy = "the pixels may include it already: then write `offset: 0`" if offset < 0 else "check `scale`"
        messages.append(
            f"{listed(negative)} of {len(darkest)}: the first percentile of {source.bands[position].name} is "
            f"{dark:.3g} in the first, lower than any surface reflects, with `offset` {offset:g}; {remedy}"
        )
    usual = _family_offset(source.sensor)
    if usual < 0 and darkest and all(source.offset_C[position] == 0 for position in bands):
        (dark, position), path = min((value, path) for path, value in darkest.items())
        if BRIGHTEST < dark < WHITE:
            messages.append(
                f"nothing in {len(darkest)} file{'s' * (len(darkest) != 1)} is darker than {dark:.3g} (first "
                f"percentile of {source.bands[position].name} in {PurePosixPath(path).name}), and `offset` is 0; if "
                f"stored values include an offset, write it, as `offset: {usual:g}`"
            )
    return messages


def _stored(paths: Set[str], scenes: Sequence[Scene], numbers: Numbers) -> Iterator[tuple[int, str, int]]:
    """Band of the source, file, and number in that file, for all bands that are read from `paths`."""
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
            f"catalogue says {said[0]:g} and {said[1]:g}; if the tags are right, write `scale: {tags[0]:g}` and "
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
    return [f"{listed(list(paths))}: {first}; write null for it in `bands`, and it is used as a mask"] if paths else []


def _reflectance(source: Source) -> list[int]:
    """The bands of a source whose unit is reflectance."""
    if source.unit == "reflectance":
        return list(range(len(source.bands)))
    if source.sensor in sensor_names() and source.unit == "mixed":
        known = sensor(source.sensor)
        return [at for at, band in enumerate(source.bands) if known.scaling(band).unit == "reflectance"]
    return []


def _family_offset(name: str) -> float:
    """The offset of reflectance in some product of a sensor; 0 where none has one, or the sensor is unknown."""
    if name not in sensor_names():
        return 0.0
    family = name.split("-")[:2]
    products = [sensor(other) for other in sensor_names() if other.split("-")[:2] == family]
    return min((one.offset for one in products if one.unit == "reflectance"), default=0.0)
