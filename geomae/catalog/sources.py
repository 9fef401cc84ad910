"""From a catalogue entry to a Source: which bands it reads and where they are stored, masks, labels and attributes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from geomae.catalog.attributes import Value, attach_table
from geomae.catalog.catalog import BandFile, Catalog, Scene, Source
from geomae.catalog.paths import (
    STEM,
    common_folder,
    find_band_scenes,
    find_files,
    no_file_error,
    require_file,
    static_folder,
)
from geomae.catalog.scene_times import with_scene_times
from geomae.catalog.schema import DatasetEntry
from geomae.catalog.stored_bands import (
    DescribeBands,
    StoredBands,
    bands_by_number,
    bands_by_token,
    find_band,
    first_described,
)
from geomae.errors import CatalogError, nearest
from geomae.sensors import OFFSET_SUFFIX, Band, Sensor, carries_offset, sensor, sensor_names
from geomae.sensors import sensor as known_sensor

DIGITAL_NUMBER = "digital_number"
SENTINEL_2 = tuple(f"sentinel-2-{level}{suffix}" for level in ("l1c", "l2a") for suffix in ("", OFFSET_SUFFIX))
LARGEST_FIGURE = 1e30  # of scales and offsets: times 65535 it still is a float32
MIXED = "mixed"  # unit of a data set whose bands have different ones


@dataclass(frozen=True)
class Stated:
    """What metadata beside the pixels (STAC items, attributes of a cube) say of the stored values of the bands read.

    It counts where the catalogue says nothing, and before the sensor's table; None where nothing is stated. `nodata`
    counts as that of files does.
    """

    scale_C: tuple[float | None, ...]
    offset_C: tuple[float | None, ...]
    nodata: tuple[float, ...] = ()


def resolve_files(catalog: Catalog, dataset: str, describe_bands: DescribeBands) -> Source:
    """The Source of an entry with `path`.

    `describe_bands` gives the description of each band that a file stores; it is asked about the first file that can
    be read where `bands` (or a mask's band) is left to the file. Raises CatalogError with file, line, key and remedy
    when no file matches, a band or one of its files is missing, or a path leaves the catalogue's folder.
    """
    entry = catalog.entry(dataset)
    sensor = catalog.sensor(dataset)
    if not entry.paths or sensor is None:
        raise CatalogError(f"{catalog.place(dataset)}: is not a data set of files; add `path` and `sensor`")
    root = common_folder([static_folder(catalog, pattern) for pattern in entry.paths])
    if entry.one_file_per_band:
        stored = bands_by_token(catalog, dataset, sensor)
        scenes = _band_scenes(catalog, dataset, stored, root)
        return source_from_scenes(catalog, dataset, sensor, stored, scenes, describe_bands)
    paths: dict[str, None] = {}
    for pattern in entry.paths:
        files = find_files(catalog, dataset, pattern, "path")
        if not files:
            raise no_file_error(catalog, dataset, pattern, "path")
        paths |= dict.fromkeys(files)
    return source_from_paths(catalog, dataset, list(paths), describe_bands, root=root)


def source_from_paths(
    catalog: Catalog,
    dataset: str,
    paths: Sequence[str],
    describe_bands: DescribeBands,
    *,
    root: str | None = None,
    attributes: Mapping[str, Mapping[str, Value]] | None = None,
    label_paths: Mapping[str, str] | None = None,
    default_sensor: str | None = None,
) -> Source:
    """The Source of files that hold all bands each, for sources that find their files in a way of their own.

    The entry's bands, scaling, nodata, mask, labels and table count as for `path`. `attributes` and `label_paths` are
    by path; `default_sensor` counts where the entry names none. Whether the files may be read is the caller's to check.
    """
    sensor = catalog.sensor(dataset) or (known_sensor(default_sensor) if default_sensor else None)
    if sensor is None:
        raise CatalogError(f"{catalog.place(dataset)}: does not say which sensor; add `sensor`")
    if not paths:
        raise CatalogError(f"{catalog.place(dataset)}: holds no files; check where they should be")
    stored = bands_by_number(catalog, dataset, sensor, paths, describe_bands)
    scenes = scenes_from_paths(paths, stored.numbers, root=root, attributes=attributes, label_paths=label_paths)
    return source_from_scenes(catalog, dataset, sensor, stored, scenes, describe_bands)


def source_from_scenes(
    catalog: Catalog,
    dataset: str,
    sensor: Sensor,
    stored: StoredBands,
    scenes: tuple[Scene, ...],
    describe_bands: DescribeBands,
    stated: Stated | None = None,
) -> Source:
    """The Source of scenes that were found: with scaling, nodata, labels, table, times and masks of the entry.

    `stored` says which bands are read; `stated` is what metadata beside the pixels say of their values.
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


def scenes_from_paths(
    paths: Sequence[str],
    numbers: Sequence[int],
    *,
    root: str | None = None,
    attributes: Mapping[str, Mapping[str, Value]] | None = None,
    label_paths: Mapping[str, str] | None = None,
) -> tuple[Scene, ...]:
    """One scene per file, sorted by id; `numbers` are the stored bands that are read, from 1.

    An id is the path below `root` (default: the longest folder that holds all files) without suffix; files that differ
    by their suffix only keep it. `attributes` and `label_paths` are by path.
    """
    root = common_folder([path.rpartition("/")[0] for path in paths]) if root is None else root
    ids = [_id(path, root) for path in paths]
    times = Counter(ids)
    scenes = [
        Scene(
            id=_id(path, root, suffix=True) if times[scene_id] > 1 else scene_id,
            stem=PurePosixPath(path).stem,
            bands=tuple(BandFile(path, number) for number in numbers),
            label_path=(label_paths or {}).get(path),
            attributes=dict((attributes or {}).get(path, {})),
        )
        for path, scene_id in zip(paths, ids, strict=True)
    ]
    return tuple(sorted(scenes, key=lambda scene: scene.id))


def scaling(
    catalog: Catalog, dataset: str, sensor: Sensor, bands: Sequence[Band], stated: Stated | None = None
) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """Unit, scale and offset of each band: the entry's, else what is `stated`, else the sensor's.

    Digital numbers are taken as they are stored. Raises CatalogError when the entry names another unit than the
    sensor's and does not say the scale, and for figures with which values leave float32.
    """
    entry = catalog.entry(dataset)
    usual = [sensor.scaling(band) for band in bands]
    units = {one.unit for one in usual}
    unit = entry.unit or (units.pop() if len(units) == 1 else MIXED)
    as_stored = entry.unit == DIGITAL_NUMBER
    if entry.unit and not as_stored and entry.scale is None and any(one.unit != entry.unit for one in usual):
        place = catalog.place(dataset, "unit")
        raise CatalogError(f"{place}: {entry.unit} is not the unit of sensor {sensor.name}; add `scale` and `offset`")
    scale_C = [1.0 if as_stored else one.scale for one in usual]
    offset_C = [0.0 if as_stored else one.offset for one in usual]
    if stated is not None and not as_stored:
        scale_C = [one if own is None else own for own, one in zip(stated.scale_C, scale_C, strict=True)]
        offset_C = [one if own is None else own for own, one in zip(stated.offset_C, offset_C, strict=True)]
    scales = _own(catalog, dataset, sensor, bands, "scale", scale_C)
    offsets = _own(catalog, dataset, sensor, bands, "offset", offset_C)
    for key, figures in (("scale", scales), ("offset", offsets)):
        if any(abs(figure) > LARGEST_FIGURE for figure in figures):
            raise CatalogError(
                f"{catalog.place(dataset, key)}: {max(figures, key=abs):g} makes values that are not finite; correct it"
            )
    return unit, scales, offsets


def band_units(catalog: Catalog, source: Source) -> tuple[str, ...]:
    """The unit of each band of a data set, also where they have different ones."""
    if source.unit != MIXED:
        return (source.unit,) * len(source.bands)
    known = catalog.sensor(source.name) or (sensor(source.sensor) if source.sensor in sensor_names() else None)
    return tuple(known.scaling(band).unit if known else source.unit for band in source.bands)


def nodata_values(entry: DatasetEntry, sensor: Sensor, stated: Stated | None = None) -> tuple[float, ...]:
    """The stored values that are no measurement: the entry's, the sensor's and those stated; an empty list in the entry
    is none.
    """
    if entry.nodata == ():
        return ()
    return tuple(dict.fromkeys((*entry.nodata_values, *sensor.nodata, *(stated.nodata if stated else ()))))


def _band_scenes(catalog: Catalog, dataset: str, stored: StoredBands, root: str) -> tuple[Scene, ...]:
    """Scenes of an entry with {band}; a mask's band is a token like the others."""
    mask = catalog.entry(dataset).mask
    token = mask.band if mask is not None else None
    if isinstance(token, int):
        place = catalog.place(dataset, "mask", "band")
        raise CatalogError(f"{place}: {token} is no token for {{band}}; write the token in the file's name")
    scenes = []
    tokens = [*stored.tokens, *([token] if token and token not in stored.tokens else [])]
    band_scenes = find_band_scenes(catalog, dataset, tokens)
    if not all(scene.path.startswith(f"{root}/") for scene in band_scenes):  # {band} or R10m above the wildcards
        root = common_folder([scene.path.rpartition("/")[0] for scene in band_scenes])
    for scene in band_scenes:
        scene_id = scene.path.removeprefix(root).strip("/")
        bands = tuple(BandFile(scene.files[one]) for one in stored.tokens)
        mask_file = BandFile(scene.files[token]) if token else None
        scenes.append(Scene(scene_id, PurePosixPath(scene.path).name, bands, mask_file))
    return tuple(sorted(scenes, key=lambda scene: scene.id))


def _check_baselines(catalog: Catalog, dataset: str, sensor: Sensor, scenes: Sequence[Scene]) -> None:
    """Raise CatalogError where names of files say that Sentinel-2 values carry an offset and the sensor does not, or
    the reverse; unless the entry states the offset, or takes values as they are stored.
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
        f"baseline {'before 04.00' if late else 'from 04.00 on'}, whose values carry {'no' if late else 'an'} offset, "
        f"as {PurePosixPath(wrong[0]).name}, and {sensor.name} assumes {sensor.offset:g}; {remedy}, or state `offset`"
    )


def _with_labels(catalog: Catalog, dataset: str, scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
    """Scenes with the label raster of each; with `folder: true` the folder's name is the attribute `label`."""
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
        raise CatalogError(f"{place}: there is no band {number} in files of {stored.count} bands; correct the number")
    return tuple(replace(scene, mask=BandFile(scene.files[0], number)) for scene in scenes)


def _by_stem(catalog: Catalog, dataset: str, pattern: str, scenes: Sequence[Scene], *keys: str) -> list[str]:
    """The file of each scene that a pattern with {stem} names, or the one file that it names for all."""
    if STEM not in pattern:
        return [require_file(catalog, dataset, pattern, *keys)] * len(scenes)
    return [require_file(catalog, dataset, pattern.replace(STEM, scene.stem), *keys) for scene in scenes]


def _id(path: str, root: str, *, suffix: bool = False) -> str:
    below = path.removeprefix(root).strip("/") if path.startswith(f"{root}/") else path.strip("/")
    return below if suffix else str(PurePosixPath(below).with_suffix(""))


def _own(
    catalog: Catalog, dataset: str, sensor: Sensor, bands: Sequence[Band], key: str, default_C: list[float]
) -> tuple[float, ...]:
    """The entry's numbers at `key` where it gives any, else the default."""
    given: Any = getattr(catalog.entry(dataset), key)
    if given is None:
        return tuple(default_C)
    if not isinstance(given, dict):
        return (float(given),) * len(bands)
    named = {find_band(catalog, dataset, sensor, token, key, token).name: value for token, value in given.items()}
    return tuple(float(named.get(band.name, default)) for band, default in zip(bands, default_C, strict=True))
