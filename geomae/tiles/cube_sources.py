"""From a catalogue entry with `cube` to its Source: each time step of each store is a scene."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from geomae.catalog import BandFile, Catalog, Scene, Source
from geomae.catalog.band_order import described_band
from geomae.catalog.paths import common_folder, find_files, is_url, no_file_error, static_folder
from geomae.catalog.scene_sources import Stated, source_from_scenes
from geomae.catalog.stored_bands import StoredBands, bands_by_number, find_band
from geomae.catalog.times import TIME
from geomae.errors import CatalogError, RasterError, nearest
from geomae.rasters import describe_bands
from geomae.rasters.cube_layouts import CubeLayout, describe_cube
from geomae.rasters.opening import header
from geomae.sensors import Band, Sensor

logger = logging.getLogger(__name__)
NO_STATEMENT = (1.0, 0.0)


@dataclass(frozen=True)
class _Chosen:
    """The arrays of a cube that are read: one for each band or one for all bands, and an optional quality array."""

    stored: StoredBands
    variables: tuple[str, ...]
    quality: str | None


def resolve_cube(catalog: Catalog, dataset: str) -> Source:
    """The Source of an entry with `cube`.

    Raises CatalogError, with file, line, key and remedy, for stores that are missing, unsafe or still being written,
    for ambiguous dimensions and bands, and for cubes of one data set with different contents.
    """
    entry, sensor = catalog.entry(dataset), catalog.sensor(dataset)
    assert entry.cube is not None and sensor is not None
    stores: dict[str, None] = {}
    for pattern in entry.cube.paths:
        found = find_files(catalog, dataset, pattern, "cube", "path", folders=True)
        if not found:
            raise no_file_error(catalog, dataset, pattern, "cube", "path")
        stores |= dict.fromkeys(found)
    root = common_folder([static_folder(catalog, pattern) for pattern in entry.cube.paths])
    try:
        layouts = [describe_cube(store, entry.cube, remote=entry.remote) for store in stores]
        chosen = _choose(catalog, dataset, sensor, layouts[0])
        scenes = [scene for layout in layouts for scene in _scenes(catalog, dataset, layout, chosen, root)]
        stated = _stated(catalog, dataset, scenes)
    except RasterError as error:
        raise CatalogError(f"{catalog.place(dataset, 'cube')}: {error}") from error
    _warn_of_missing_chunks(catalog, dataset, layouts)
    describe = partial(describe_bands, remote=entry.remote)
    ordered = tuple(sorted(scenes, key=lambda scene: scene.id))
    return source_from_scenes(catalog, dataset, sensor, chosen.stored, ordered, describe, stated)


def _warn_of_missing_chunks(catalog: Catalog, dataset: str, layouts: Sequence[CubeLayout]) -> None:
    sparse = [layout.absent for layout in layouts if layout.absent is not None]
    if sparse:
        logger.warning(
            "%s: %d of %d cubes lack chunks, which Zarr reads as fill value; wait if they are still being written: %s",
            catalog.place(dataset, "cube"),
            len(sparse),
            len(layouts),
            sparse[0],
        )


def _choose(catalog: Catalog, dataset: str, sensor: Sensor, layout: CubeLayout) -> _Chosen:
    """Choose the arrays of the bands, by the first cube of a data set."""
    entry = catalog.entry(dataset)
    assert entry.cube is not None
    mask = entry.mask.band if entry.mask else None
    quality = mask if isinstance(mask, str) and mask in layout.readable else None
    if layout.band is not None:
        address = str(layout.address(layout.variables[0], 0))
        described = partial(describe_bands, remote=entry.remote)
        return _Chosen(bands_by_number(catalog, dataset, sensor, [address], described), layout.variables, quality)
    if mask is not None and quality is None:
        remedy = nearest(str(mask), layout.readable)
        raise CatalogError(f"{catalog.place(dataset, 'mask', 'band')}: the cube has no array {mask!r}; {remedy}")
    names = [name for name in layout.variables if name != quality or name in (entry.cube.variables or ())]
    by_band = _by_band(catalog, dataset, sensor, names)
    variables = tuple(by_band.values())
    stored = StoredBands(tuple(sensor.band(name) for name in by_band), (1,) * len(by_band), variables, None)
    return _Chosen(stored, variables, quality)


def _by_band(catalog: Catalog, dataset: str, sensor: Sensor, names: Sequence[str]) -> dict[str, str]:
    """The array of each band, by the band's name; see `docs/catalogue.md`."""
    entry = catalog.entry(dataset)
    assert entry.cube is not None
    place = catalog.place(dataset, "bands" if entry.bands else "cube")
    pairs: list[tuple[Band | None, str]] = []
    if isinstance(entry.bands, dict):
        pairs = [(find_band(catalog, dataset, sensor, one, "bands", one), array) for one, array in entry.bands.items()]
    elif isinstance(entry.bands, tuple) and entry.cube.variables is not None:
        if len(entry.bands) != len(names):
            raise CatalogError(
                f"{place}: has {len(entry.bands)} names, and `variables` {len(names)}; give one for each"
            )
        pairs = [
            (None if one is None else find_band(catalog, dataset, sensor, one, "bands", at), array)
            for at, (one, array) in enumerate(zip(entry.bands, names, strict=True))
        ]
    else:
        pairs = [(described_band(sensor, array), array) for array in names]
        if entry.cube.variables is None:  # stores list arrays in any order
            pairs.sort(key=lambda one: sensor.bands.index(one[0]) if one[0] else -1)
        if isinstance(entry.bands, tuple):
            wanted = [find_band(catalog, dataset, sensor, str(one), "bands", at) for at, one in enumerate(entry.bands)]
            known = {band.name: array for band, array in pairs if band is not None}
            pairs = [(band, known.get(band.name, band.name)) for band in wanted]
        elif entry.cube.variables is not None and (unknown := [array for band, array in pairs if band is None]):
            raise CatalogError(
                f"{place}: {unknown[0]!r} is no band of {sensor.name}; add `bands: {{BAND: {unknown[0]}}}`"
            )
    kept = [(band.name, array) for band, array in pairs if band is not None]
    if not kept:
        shown = ", ".join(names[:8])
        raise CatalogError(
            f"{place}: no array has the name of a band of {sensor.name} ({shown}); add `bands: {{BAND: ARRAY}}`"
        )
    twice = [name for name, times in Counter(name for name, _ in kept).items() if times > 1]
    if twice:
        raise CatalogError(f"{place}: two arrays match band {twice[0]}; name one of them in `bands`")
    return dict(kept)


def _scenes(catalog: Catalog, dataset: str, layout: CubeLayout, chosen: _Chosen, root: str) -> list[Scene]:
    """The scenes of one cube, in the order of its steps."""
    wanted = [*chosen.variables, *([chosen.quality] if chosen.quality else [])]
    for name in wanted:
        if name not in layout.readable:
            place = catalog.place(dataset, "bands" if catalog.entry(dataset).bands else "cube")
            remedy = nearest(name, layout.readable)
            raise CatalogError(f"{place}: {layout.store} has no array {name!r} on the grid of the others; {remedy}")
    below = layout.store.removeprefix(root).strip("/") if not is_url(layout.store) else layout.store.rpartition("/")[2]
    name = str(PurePosixPath(below).with_suffix("")) or PurePosixPath(layout.store).stem
    marks = _marks(layout.times)
    scenes = []
    for step, (time, mark) in enumerate(zip(layout.times, marks, strict=True)):
        addresses = [str(layout.address(variable, step)) for variable in chosen.variables]
        if layout.band is None:
            bands = tuple(BandFile(address) for address in addresses)
        else:
            bands = tuple(BandFile(addresses[0], number) for number in chosen.stored.numbers)
        mask = BandFile(str(layout.address(chosen.quality, step))) if chosen.quality else None
        scene_id = f"{name}{mark}"
        attributes = {} if time is None else {TIME: time}
        scenes.append(Scene(scene_id, PurePosixPath(scene_id).name, bands, mask, None, attributes))
    return scenes


def _marks(times: Sequence[str | None]) -> list[str]:
    """The suffix of the name of each time step: the day, the time where days repeat, else the number of the step."""
    if len(times) == 1:
        return [""]
    for length in (8, None):
        marks = [None if time is None else time.translate({45: None, 58: None, 90: None})[:length] for time in times]
        if None not in marks and len(set(marks)) == len(marks):
            return [f"_{mark}" for mark in marks]
    return [f"_{number:04d}" for number in range(len(times))]


def _stated(catalog: Catalog, dataset: str, scenes: Sequence[Scene]) -> Stated:
    """Scale and offset from the attributes of the arrays; they must be the same in all cubes of a data set."""
    remote = catalog.entry(dataset).remote
    said: dict[str, list[tuple[float, float]]] = {}
    for scene in scenes:
        store = scene.bands[0].path.partition("#")[0]
        if store not in said:
            headers = {path: header(path, remote=remote) for path in scene.files}
            numbers = [(headers[one.path], one.index - 1) for one in scene.bands]
            said[store] = [(info.scales[number], info.offsets[number]) for info, number in numbers]
    first = next(iter(said))
    for store, figures in said.items():
        if figures != said[first]:
            raise CatalogError(
                f"{catalog.place(dataset, 'cube')}: {store} and {first} differ in scale_factor or add_offset; make "
                "each a data set of its own"
            )
    known = [None if one == NO_STATEMENT else one for one in said[first]]
    return Stated(tuple(one and one[0] for one in known), tuple(one and one[1] for one in known))
