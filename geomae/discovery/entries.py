"""One data set of a new catalogue as YAML, with comments on what the user has to check or decide."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from statistics import median_high
from typing import Any

from geomae.catalog.band_order import is_alpha
from geomae.catalog.patterns import escape_pattern
from geomae.catalog.schema_cubes import Cube
from geomae.discovery.companions import Companion
from geomae.discovery.grouping import COMMON_FOLDERS, LOOKED_AT, BandGroup, StackGroup
from geomae.discovery.quality_layers import FMASK_CODES, is_fmask, layer_by_values, quality_layer
from geomae.discovery.sensor_guess import Evidence, SensorGuess, guess_sensor, kept_band
from geomae.discovery.sensor_lines import scaling_lines, sensor_lines, with_units
from geomae.discovery.stored_values import (
    NO_TAGS,
    Places,
    Samples,
    sample_files,
    sample_values,
    stored_bands,
    tags_of,
)
from geomae.discovery.yaml_lines import comment, entry_line, flow
from geomae.errors import RasterError
from geomae.rasters.cube_layouts import describe_cube
from geomae.rasters.headers import Header
from geomae.rasters.opening import header
from geomae.rasters.tile_moments import TileGrid
from geomae.sensors import Sensor, inline_sensor, sensor

LARGEST_TILE = 128  # pixels; larger rasters are cut into tiles
USUAL_TILE = 64
FEW_TILES = 100  # with fewer there is little to learn from
LARGEST_BLOCK_KM, BLOCKS = 2, 4  # side of the blocks of a split, and how many lie along a scene at least
MULTIPLE = 8  # the tile's side is a multiple, so that common patch sizes divide it
MARKS = frozenset(("mask", "masks", "qa", "quality", "flag", "flags", "cloud", "clouds", "label", "labels", "class"))
ALL_TRAIN = "all tiles are for training; to hold some out:"
FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Entry:
    """A data set as YAML `lines` (without its name), its key figures, and what the user must decide (`question`).

    `companions` are rasters beside the scenes, perhaps masks or labels. `further` are data sets of the same scenes that
    are written as comments: the end of a name, what it is, and its lines. `points` are the lines of a second data set,
    of tiles around points, which takes all other keys from this one, and `window` is the side of these tiles in pixels.
    """

    lines: tuple[str, ...]
    scenes: int
    sensor: str
    bands: tuple[str, ...]
    tile: int
    question: str | None
    companions: tuple[Companion, ...] = ()
    further: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    points: tuple[str, ...] = ()
    window: int = 0

    def has(self, key: str) -> bool:
        """Whether a line gives the key; comments do not."""
        return any(line.startswith(f"    {key}:") for line in self.lines)

    def text(self, name: str, second: str) -> list[str]:
        """The lines of the data set `name`, those of `second` with `points`, then those of `further` as comments."""
        written = [f"  {flow(name)}:{f' &{name}' if self.points else ''}", *self.lines]
        if self.points:
            written += ["", f"  {flow(second)}:  # tiles around points", f"    <<: *{name}  # its keys, but for these:"]
            written += [entry_line("tile", None), *self.points]
        for end, what, lines in self.further:
            written += [comment(what, indent=2), f"  # {flow(f'{name}_{end}')}:"]
            written += [f"  # {line[2:]}" for line in lines]
        return written


def band_entry(root: Path, below: str, group: BandGroup, *, outside: bool) -> Entry:
    """The entry of a product with one file per band; `below` is the path from the catalogue to `root`.

    Raises RasterError if no scene can be read.
    """
    headers = _first_readable(root, group)
    finest = max(headers.values(), key=lambda one: min(one.shape))
    guess, tokens = _tokens_of(root, group, finest)
    known = sensor_of(guess)
    places = {name: (headers[token], 1) for name, token in tokens.items()}
    tags = {name: tags_of(*place) for name, place in places.items()}
    usual = {name: known.scaling(known.band(name)) for name in tags}
    differ = any(tag not in (NO_TAGS, (usual[name].scale, usual[name].offset)) for name, tag in tags.items())
    scaling: list[str] = []
    if group.sensor is None or (known.unit == "reflectance" and known.scale == 1) or differ:
        files = [[str(root / scene[token]) for token in tokens.values()] for scene in group.by_scene]
        samples = sample_files(files, known.nodata)
        guess, scaling = _with_scaling(guess, known, called_from(root, group.files[0]), places, samples)
    lines = _path_lines(below, group.patterns, outside)
    lines += sensor_lines(guess)
    if all(name == token for name, token in tokens.items()):
        lines.append(entry_line("bands", list(tokens), "the part of the file name in place of {band}"))
    else:
        lines.append(entry_line("bands", tokens, "name of the band: the part of the file name in place of {band}"))
    left = [token for token in group.tokens if token not in tokens.values()]
    if left:
        lines.append(comment(f"left out (unknown, or another physical quantity): {', '.join(left)}"))
    if group.lacking:
        lines.append(comment(f"check: left out, because some scenes lack them: {', '.join(group.lacking)}"))
    lines += scaling
    token = next(token for token, one in headers.items() if one is finest)
    looked = min(group.scenes, LOOKED_AT)
    some = [group.by_scene[group.scenes * place // looked] for place in range(looked)]
    shapes = _shapes(root, [[scene[one] for one in (token, *tokens.values())] for scene in some]) or [finest.shape]
    lines += _tile_lines(shapes, group.scenes * len(shapes) / looked)
    lines += mask_lines([group.mask] if group.mask else [])
    lines.append(_split_line(finest))
    return Entry(tuple(lines), group.scenes, known.name, tuple(tokens), usual_tile(shapes), guess.question)


def stack_entry(
    root: Path, below: str, group: StackGroup, companions: tuple[Companion, ...], *, outside: bool
) -> Entry:
    """The entry of rasters that each hold all bands; `below` is the path from the catalogue to `root`."""
    first = group.headers[0]
    guess = guess_sensor(evidence_of(root, group))
    known = sensor_of(guess)
    read = {name: number for number, name in enumerate(guess.bands, start=1) if name}
    files = [str(root / path) for path in group.files]
    samples = sample_values(files, list(read.values()), known.nodata)
    places = {name: (first, number) for name, number in read.items()}
    guess, scaling = _with_scaling(guess, known, called_from(root, group.telling), places, samples)
    lines = _path_lines(below, group.patterns, outside)
    if group.telling != group.files[0]:
        lines.append(
            comment(f"check: numbers as in {group.files[0]} are taken as running numbers, not as the name of a sensor")
        )
    lines += sensor_lines(guess)
    skipped = "null skips a stored band" if None in guess.bands else ""
    lines.append(entry_line("bands", list(guess.bands), _joined(skipped, guess.checks.get("bands"))))
    lines += scaling
    unlike = sum((one.scales, one.offsets) != (first.scales, first.offsets) for one in group.headers)
    if unlike:
        lines.append(comment(f"check: {unlike} of the files examined have other tags for scale and offset"))
    shapes = [one.shape for one in group.headers]
    lines += _tile_lines(shapes, len(group.files) * len(shapes) / group.looked)
    skipped_bands = {number: first.names[number - 1] for number, band in enumerate(guess.bands, 1) if not band}
    lines += mask_lines(filter(None, skipped_bands.values())) or _unnamed_mask(root, group, skipped_bands)
    if group.classes:
        shown = ", ".join(group.classes[:4]) + (", ..." if len(group.classes) > 4 else "")
        lines.append(entry_line("label", {"folder": True}, f"check: the folders are taken as classes: {shown}"))
    if first.crs is None:
        own = "that of the sensor is used" if any(band.gsd_m for band in known.bands) else "none is known"
        lines.append(comment(f"the files have no ground sample distance, {own}; to set another: gsd_m: METRES"))
    lines.append(_split_line(first))
    names = tuple(name for name in guess.bands if name)
    size = usual_tile(shapes)
    return Entry(tuple(lines), len(group.files), known.name, names, size, guess.question, companions)


def cube_entry(root: Path, below: str, paths: Sequence[str], *, outside: bool) -> Entry:
    """The entry of cubes of one kind in one folder; `below` is the path from the catalogue to `root`.

    Raises RasterError if the first of them cannot be read.
    """
    layout = describe_cube(str(root / paths[0]), Cube(path=paths[0]), remote=False)
    arrays = [name for name in layout.variables if not quality_layer(name)]
    of_array = {name: header(str(layout.address(name, 0))) for name in arrays}
    marks = [name for name, info in of_array.items() if not layout.band and _is_mark(name, info)]
    arrays = [name for name in arrays if name not in marks] or arrays
    headers = [of_array[name] for name in arrays]
    first = headers[0]
    names = first.names if layout.band else tuple(arrays)
    guess = guess_sensor(
        Evidence(called_from(root, paths[0]), len(names), first.dtypes[0], tuple(names), first.roughly_m)
    )
    known = sensor_of(guess)
    at = {name: number for number, name in enumerate(guess.bands) if name}
    if not layout.band:  # in the sensor's order, as stores list arrays in any
        at = {band.name: at[band.name] for band in known.bands if band.name in at}
    bands: Any = list(guess.bands) if layout.band else {name: arrays[number] for name, number in at.items()}
    places = {name: (first, number + 1) if layout.band else (headers[number], 1) for name, number in at.items()}
    steps = range(max(1, len(layout.times)))
    if layout.band:
        numbers = [number for _, number in places.values()]
        samples = sample_values([str(layout.address(arrays[0], step)) for step in steps], numbers, known.nodata)
    else:
        addresses = [[str(layout.address(arrays[number], step)) for number in at.values()] for step in steps]
        samples = sample_files(addresses, known.nodata)
    guess, scaling = _with_scaling(guess, known, called_from(root, paths[0]), places, samples)
    suffix = PurePosixPath(paths[0]).suffix
    some = paths[0].rpartition("/")[0] + "/" if "/" in paths[0] else ""
    shown = below + (escape_pattern(paths[0]) if len(paths) == 1 else f"{escape_pattern(some)}*{suffix}")
    dates = f"each of {len(layout.times)} dates is a scene" if len(layout.times) > 1 else ""
    lines = [entry_line("cube", {"path": shown}, dates)]
    if outside:
        lines.append(entry_line("outside", True, "the files lie outside of the catalogue's folder"))
    lines += sensor_lines(guess)
    lines.append(
        entry_line(
            "bands", bands, _joined("" if layout.band else "name of the band: the array", guess.checks.get("bands"))
        )
    )
    lines += scaling
    scenes = len(paths) * len(layout.times)
    lines += _tile_lines([first.shape], scenes)
    masks = mask_lines(layout.readable)
    for name in () if masks or marks == arrays else marks:
        what = f"check: {name} is not taken as a band; if it marks invalid pixels"
        masks.append(comment(f"{what}: mask: {{band: {flow(name)}, invalid_values: [VALUE]}}"))
    lines += masks
    lines.append(_split_line(first))
    return Entry(tuple(lines), scenes, known.name, tuple(places), usual_tile([first.shape]), guess.question)


def _is_mark(name: str, info: Header) -> bool:
    """Whether an array of whole numbers has the name of a mask, of quality or of labels, and not of a measurement."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return info.dtypes[0].startswith(("uint", "int", "bool")) and not words.isdisjoint(MARKS)


def evidence_of(root: Path, group: StackGroup) -> Evidence:
    """The evidence on the sensor of a group of rasters; band descriptions count only if all files share them."""
    first = group.headers[0]
    shared = [set(texts) for texts in zip(*(one.names for one in group.headers), strict=True)]
    descriptions = tuple(texts.pop() if len(texts) == 1 else None for texts in shared)
    path = called_from(root, group.telling)
    return Evidence(path, first.count, first.dtypes[0], descriptions, first.roughly_m, first.alpha)


def called_from(root: Path, path: str) -> str:
    """A path below `root` that begins with the name of `root`, and of its parent if the name is as general as `images`.

    Guesses from names must not depend on which of the folders was searched.
    """
    names = root.parts[-2:] if root.name.lower() in COMMON_FOLDERS else root.parts[-1:]
    return "/".join((*names, path))


def usual_tile(shapes: Sequence[tuple[int, int]]) -> int:
    """Side of the tiles in pixels, for the smallest raster that is at least half as large as the median one."""
    sides = [min(shape) for shape in shapes]
    side = min(one for one in sides if 2 * one >= median_high(sides))
    return USUAL_TILE if side >= LARGEST_TILE else side // MULTIPLE * MULTIPLE or side


def _tokens_of(root: Path, group: BandGroup, finest: Header) -> tuple[SensorGuess, dict[str, str]]:
    """The sensor of a product, and the tokens of its usable bands, in the sensor's order."""
    if group.sensor is None:
        path = called_from(root, group.files[0])
        dtype, gsd_m = finest.dtypes[0], finest.roughly_m
        guess = guess_sensor(Evidence(path, len(group.tokens), dtype, group.tokens, gsd_m))
        pairs = {name: token for name, token in zip(guess.bands, group.tokens, strict=True) if name}
    else:
        known = sensor(group.sensor)
        pairs = {}
        for token in group.tokens:
            name = kept_band(known, known.band(token))
            if name and not token.startswith("ST_"):
                pairs[name] = token
        guess = SensorGuess(group.sensor, tuple(pairs), certain=True)
    order = [band.name for band in sensor_of(guess).bands if band.name in pairs]
    return guess, {name: pairs[name] for name in order}


def sensor_of(guess: SensorGuess) -> Sensor:
    """The sensor of a guess, from the tables or from its inline bands."""
    if isinstance(guess.sensor, str):
        return sensor(guess.sensor)
    values = dict(guess.sensor)
    return inline_sensor(values.pop("name"), values)


def _with_scaling(
    guess: SensorGuess, known: Sensor, path: str, places: Places, samples: Samples
) -> tuple[SensorGuess, list[str]]:
    """The guess and the lines on unit, scale and offset; `places` are the header and number of each band by name."""
    stored = stored_bands(path, places, samples)
    if isinstance(guess.sensor, str):
        return guess, scaling_lines(guess, known, stored)
    return with_units(guess, stored)


def _path_lines(below: str, patterns: Sequence[str], outside: bool) -> list[str]:
    paths = [below + pattern for pattern in patterns]
    lines = [entry_line("path", paths[0] if len(paths) == 1 else paths)]
    if outside:
        lines.append(entry_line("outside", True, "the files lie outside of the catalogue's folder"))
    return lines


def _first_readable(root: Path, group: BandGroup) -> dict[str, Header]:
    """The headers, by token, of the first scene whose files can all be read. Raises the first error if none can."""
    first: RasterError | None = None
    for files in group.by_scene:
        try:
            return {token: header(str(root / files[token])) for token in files if token in group.tokens}
        except RasterError as error:
            first = first or error
    assert first is not None  # a group has a scene
    raise first


def _tile_lines(shapes: Sequence[tuple[int, int]], scenes: float) -> list[str]:
    """The `tile` line; `shapes` in pixels are those of some of the `scenes` that can be read.

    Few tiles get a remark on what gives more.
    """
    size, least = usual_tile(shapes), min(map(min, shapes))
    small = sum(min(shape) < size for shape in shapes)
    are = "is smaller and is" if small == 1 else "are smaller and are"
    remark = f"; check: {small} of {len(shapes)} rasters examined {are} left out" if small else ""

    def about(size: int, stride: int) -> int:
        return round(scenes * sum(prod(TileGrid(size, stride).shape(*shape)) for shape in shapes) / len(shapes))

    finer = {"size": size // 2, "stride": size // 4}
    if (few := about(size, size)) < FEW_TILES and finer["stride"] >= MULTIPLE:
        what = f"about {few} tile{'s' * (few != 1)}, few to learn from"
        remark += f"; {what}: tile: {flow(finer)} gives about {about(**finer)}"
    return [entry_line("tile", {"size": size}, f"pixels; the smallest raster has {least}{remark}")]


def mask_lines(names: Iterable[str]) -> list[str]:
    """The `mask` line of the first quality layer among these names, if there is one."""
    layers = ((name, layer) for name in names if (layer := quality_layer(name)))
    return [entry_line("mask", layer.mask(band=name), layer.remark) for name, layer in layers][:1]


def _unnamed_mask(root: Path, group: StackGroup, skipped: Mapping[int, str | None]) -> list[str]:
    """A comment on the skipped band, if any, that no name tells to be a quality layer, but its few values suggest."""
    alpha = group.headers[0].alpha  # it marks valid pixels without a line here
    numbers = [number for number, name in skipped.items() if number != alpha and not is_alpha(name)]
    found = layer_by_values(root, group.files, numbers)
    if found is None:
        return []
    number, values = found
    what = f"check: band {number} is skipped and holds only the values {', '.join(map(str, values))};"
    if is_fmask(values):
        mask = FMASK_CODES.mask(band=number)
        return [comment(f"{what} if these are codes of Fmask, mask shadows, clouds and fill: mask: {flow(mask)}")]
    return [comment(f"{what} if it is a quality layer: mask: {{band: {number}, invalid_values: [VALUE]}}")]


def _split_line(first: Header) -> str:
    """A suggested split, as a comment: the user decides on splits. Blocks are smaller than a scene."""
    if first.crs is not None and min(first.shape) > 2 * LARGEST_TILE:
        side_km = min(first.shape) * (first.roughly_m or 1000) / 1000 / BLOCKS
        how: dict[str, Any] = {"block_km": min(LARGEST_BLOCK_KM, float(f"{side_km:.0e}")), "fractions": FRACTIONS}
    else:
        how = {"random": FRACTIONS}
    return comment(f"{ALL_TRAIN} split: {flow(how)}")


def _shapes(root: Path, scenes: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """The shapes, in pixels, of the first file of each scene; scenes with a file that cannot be read are skipped."""
    shapes = []
    for files in scenes:
        with contextlib.suppress(RasterError):
            headers = [header(str(root / path)) for path in files]  # of all, as one broken file spoils a scene
            shapes.append(headers[0].shape)
    return shapes


def _joined(*texts: str | None) -> str:
    return "; ".join(text if number == 0 else f"check: {text}" for number, text in enumerate(texts) if text)
