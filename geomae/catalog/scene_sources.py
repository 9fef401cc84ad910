"""Make a Source from scenes: add scaling, nodata, masks, labels, attributes and times of the catalogue entry."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from geomae.catalog.attributes import attach_table
from geomae.catalog.catalog import BandFile, Catalog, Scene, Source
from geomae.catalog.paths import require_file
from geomae.catalog.scene_times import with_scene_times
from geomae.catalog.schema import DatasetEntry
from geomae.catalog.stored_bands import DescribeBands, StoredBands, find_band, first_described
from geomae.errors import CatalogError, nearest
from geomae.sensors import OFFSET_SUFFIX, Band, Sensor, carries_offset, sensor, sensor_names

DIGITAL_NUMBER = "digital_number"
SENTINEL_2 = tuple(f"sentinel-2-{level}{suffix}" for level in ("l1c", "l2a") for suffix in ("", OFFSET_SUFFIX))
LARGEST_FIGURE = 1e30  # largest scale and offset: times 65535, it still fits into float32
STEM = re.compile(r"\{stem(?::(?P<old>[^={}]+)=(?P<new>[^={}]*))?\}")
STEM_HELP = "write {stem}, or {stem:OLD=NEW} with an OLD that is once in the name of each scene"
MIXED = "mixed"  # unit of a data set whose bands have different units


@dataclass(frozen=True)
class Stated:
    """Scale, offset and nodata of the bands from metadata (STAC items, attributes of a cube); None where not given.

    They are used where the catalogue gives none, and take precedence over the sensor's table. `nodata` is treated like
    the nodata of files.
    """

    scale_C: tuple[float | None, ...]
    offset_C: tuple[float | None, ...]
    nodata: tuple[float, ...] = ()


def source_from_scenes(
    catalog: Catalog,
    dataset: str,
    sensor: Sensor,
    stored: StoredBands,
    scenes: tuple[Scene, ...],
    describe_bands: DescribeBands,
    stated: Stated | None = None,
) -> Source:
    """Make the Source of `scenes`, with scaling, nodata, labels, table, times and masks of the entry.

    `stored` are the bands to read; `stated` is the scaling that metadata give. Raises CatalogError where keys of the
    entry do not fit the files.
    """
    entry = catalog.entry(dataset)
    if stated is None or set(stated.offset_C) == {None}:
        _check_baselines(catalog, dataset, sensor, scenes)
    unit, scale_C, offset_C = scaling(catalog, dataset, sensor, stored.bands, stated)
    scenes = with_scene_times(catalog, dataset, attach_table(catalog, dataset, _with_labels(catalog, dataset, scenes)))
    scenes = _with_masks(catalog, dataset, scenes, stored, describe_bands)
    order, layer = stored.order, entry.mask.band if entry.mask else None
    if order is not None and isinstance(layer, str) and (own := scenes[0].mask) and own.path in scenes[0].files:
        order = order.with_layer(layer, own.index)
    return Source(
        name=dataset,
        sensor=sensor.name,
        bands=stored.bands,
        unit=unit,
        scale_C=scale_C,
        offset_C=offset_C,
        nodata=nodata_values(entry, sensor, stated),
        gsd_m=entry.gsd_m,
        scenes=scenes,
        stored_bands=stored.count,
        invalid_bits=entry.mask.invalid_bits if entry.mask else (),
        invalid_values=entry.mask.invalid_values if entry.mask else (),
        remote=entry.remote,
        order=order,
    )


def scaling(
    catalog: Catalog, dataset: str, sensor: Sensor, bands: Sequence[Band], stated: Stated | None = None
) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """The unit, and scale and offset of each band: the entry's, else those in `stated`, else the sensor's.

    Digital numbers are not scaled. Raises CatalogError where the entry has another unit than the sensor without giving
    a scale, and for scales and offsets that are too large for float32.
    """
    entry = catalog.entry(dataset)
    usual = [sensor.scaling(band) for band in bands]
    units = {one.unit for one in usual}
    unit = entry.unit or (units.pop() if len(units) == 1 else MIXED)
    as_stored = entry.unit == DIGITAL_NUMBER
    scaled = entry.scale is not None or (stated is not None and None not in stated.scale_C)
    if entry.unit and not as_stored and not scaled and any(one.unit != entry.unit for one in usual):
        place = catalog.place(dataset, "unit")
        raise CatalogError(f"{place}: {entry.unit} is not the unit of sensor {sensor.name}; add `scale` and `offset`")
    scale_C = [1.0 if as_stored else one.scale for one in usual]
    offset_C = [0.0 if as_stored else one.offset for one in usual]
    if stated is not None and not as_stored:
        scale_C = [one if own is None else own for own, one in zip(stated.scale_C, scale_C, strict=True)]
        offset_C = [one if own is None else own for own, one in zip(stated.offset_C, offset_C, strict=True)]
    given_C = (entry_figures(catalog, dataset, sensor, bands, key) for key in ("scale", "offset"))
    scales, offsets = (
        tuple(one if own is None else own for own, one in zip(own_C, other_C, strict=True))
        for own_C, other_C in zip(given_C, (scale_C, offset_C), strict=True)
    )
    for key, figures in (("scale", scales), ("offset", offsets)):
        if any(abs(figure) > LARGEST_FIGURE for figure in figures):
            raise CatalogError(
                f"{catalog.place(dataset, key)}: {max(figures, key=abs):g} makes values that are not finite; correct it"
            )
    return unit, scales, offsets


def entry_figures(
    catalog: Catalog, dataset: str, sensor: Sensor, bands: Sequence[Band], key: str
) -> tuple[float | None, ...]:
    """The entry's `scale` or `offset` (`key`) of each band; None where it gives none."""
    given: Any = getattr(catalog.entry(dataset), key)
    if not isinstance(given, dict):
        return (None if given is None else float(given),) * len(bands)
    named = {find_band(catalog, dataset, sensor, token, key, token).name: float(one) for token, one in given.items()}
    return tuple(named.get(band.name) for band in bands)


def band_units(catalog: Catalog, source: Source) -> tuple[str, ...]:
    """The unit of each band of a data set; bands may have different units."""
    if source.unit != MIXED:
        return (source.unit,) * len(source.bands)
    known = catalog.sensor(source.name) or (sensor(source.sensor) if source.sensor in sensor_names() else None)
    return tuple(known.scaling(band).unit if known else source.unit for band in source.bands)


def nodata_values(entry: DatasetEntry, sensor: Sensor, stated: Stated | None = None) -> tuple[float, ...]:
    """The stored values that mark missing data: those of the entry, of the sensor and in `stated`.

    An empty list in the entry means that there are none.
    """
    if entry.nodata == ():
        return ()
    return tuple(dict.fromkeys((*entry.nodata_values, *sensor.nodata, *(stated.nodata if stated else ()))))


def _check_baselines(catalog: Catalog, dataset: str, sensor: Sensor, scenes: Sequence[Scene]) -> None:
    """Raise CatalogError where Sentinel-2 product names and the sensor disagree on whether values include an offset.

    Not checked where the entry gives the offset, or uses digital numbers.
    """
    entry = catalog.entry(dataset)
    if isinstance(entry.sensor, (dict, tuple)) or sensor.name not in SENTINEL_2:
        return
    if entry.offset is not None or entry.unit == DIGITAL_NUMBER:
        return
    late = sensor.name.endswith(OFFSET_SUFFIX)
    carried = [(scene.files[0], carries_offset(scene.files[0])) for scene in scenes]
    wrong = [path for path, own in carried if own is not None and own != late]
    if not wrong:
        return
    other = sensor.name.removesuffix(OFFSET_SUFFIX) if late else f"{sensor.name}{OFFSET_SUFFIX}"
    mixed = any(own == late for _, own in carried)
    remedy = f"make those a data set with `sensor: {other}`" if mixed else f"write `sensor: {other}`"
    raise CatalogError(
        f"{catalog.place(dataset, 'sensor')}: {len(wrong)} of {len(scenes)} scenes are by their names of a processing "
        f"baseline {'before 04.00' if late else 'from 04.00 on'}, whose values include {'no' if late else 'an'} offset "
        f"({PurePosixPath(wrong[0]).name}), but {sensor.name} assumes {sensor.offset:g}; {remedy}, or state `offset`"
    )


def _with_labels(catalog: Catalog, dataset: str, scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
    """Add the label raster of each scene; with `folder: true`, the folder's name as the attribute `label`."""
    label = catalog.entry(dataset).label
    if label is not None and label.folder:
        folders = [PurePosixPath(scene.files[0]).parent.name for scene in scenes]
        return tuple(
            replace(scene, attributes={**scene.attributes, "label": folder})
            for scene, folder in zip(scenes, folders, strict=True)
        )
    if label is None or label.raster is None:
        return scenes
    paths = _by_stem(catalog, dataset, label.raster, scenes, "label", "raster")
    return tuple(replace(scene, label_path=path) for scene, path in zip(scenes, paths, strict=True))


def _with_masks(
    catalog: Catalog, dataset: str, scenes: tuple[Scene, ...], stored: StoredBands, describe_bands: DescribeBands
) -> tuple[Scene, ...]:
    mask = catalog.entry(dataset).mask
    if mask is None or scenes[0].mask is not None or (mask.band is not None and stored.count is None):
        return scenes
    if mask.path is not None:
        paths = _by_stem(catalog, dataset, mask.path, scenes, "mask", "path")
        return tuple(replace(scene, mask=BandFile(path)) for scene, path in zip(scenes, paths, strict=True))
    place = catalog.place(dataset, "mask", "band")
    number = mask.band
    if isinstance(number, str):
        known = [name or "" for name in first_described((scene.files[0] for scene in scenes), describe_bands)[1]]
        if number not in known:
            remedy = nearest(number, [name for name in known if name])
            raise CatalogError(f"{place}: the files describe no band as {number!r}; {remedy} (or write its number)")
        number = known.index(number) + 1
    if number is None or (stored.count is not None and number > stored.count):
        problem = f"there is no band {number} in files of {stored.count} bands; correct the number"
        if catalog.entry(dataset).bands is not None:
            problem = (
                f"`bands` lists {stored.count} bands, and the mask is band {number}; list every stored band in "
                "`bands`, null for each that is not read, or correct the number"
            )
        raise CatalogError(f"{place}: {problem}")
    return tuple(replace(scene, mask=BandFile(scene.files[0], number)) for scene in scenes)


def _by_stem(catalog: Catalog, dataset: str, pattern: str, scenes: Sequence[Scene], *keys: str) -> list[str]:
    """The file of each scene by a pattern with {stem}; without {stem}, the same file for all scenes."""
    place = catalog.place(dataset, *keys)
    if not STEM.search(pattern):
        if "{stem" in pattern:
            raise CatalogError(f"{place}: {pattern!r}: {STEM_HELP}")
        return [require_file(catalog, dataset, pattern, *keys)] * len(scenes)
    return [require_file(catalog, dataset, fill_stem(pattern, scene.stem, place), *keys) for scene in scenes]


def fill_stem(pattern: str, stem: str, place: str) -> str:
    """A pattern with the stem of a scene in place of `{stem}`.

    In place of `{stem:OLD=NEW}`, the stem has NEW instead of OLD. Raises CatalogError, whose message begins with
    `place`, if the stem does not contain OLD exactly once.
    """

    def filled(match: re.Match[str]) -> str:
        old, new = match["old"], match["new"]
        if old is None:
            return stem
        if stem.count(old) != 1:
            raise CatalogError(
                f"{place}: {match[0]} replaces {old!r}, which the scene {stem} has {_times(stem.count(old))} in its "
                f"name; {STEM_HELP}"
            )
        return stem.replace(old, new)

    return STEM.sub(filled, pattern)


def _times(count: int) -> str:
    return f"{count} times" if count else "not"
