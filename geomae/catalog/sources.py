"""Make a Source from a catalogue entry with files: which files form a scene, and where its bands are stored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from geomae.catalog.attributes import Value
from geomae.catalog.catalog import BandFile, Catalog, Scene, Source
from geomae.catalog.paths import common_folder, find_band_scenes, find_files, no_file_error, static_folder
from geomae.catalog.scene_sources import source_from_scenes
from geomae.catalog.stored_bands import DescribeBands, StoredBands, bands_by_number, bands_by_token
from geomae.errors import CatalogError
from geomae.sensors import sensor as known_sensor


def resolve_files(catalog: Catalog, dataset: str, describe_bands: DescribeBands) -> Source:
    """Make the Source of an entry with `path`.

    `describe_bands` returns the description of each band in a file. It is called for the first readable file where the
    entry does not define `bands`, or names a mask's band by its description. Raises CatalogError, with file, line, key
    and remedy, where no file matches, a band or one of its files is missing, or a path leaves the catalogue's folder.
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
    """Make the Source of files that each hold all bands, for sources that find their files differently.

    The entry's bands, scaling, nodata, mask, labels and table apply as for `path`. `attributes` and `label_paths` are
    by path; `default_sensor` is used where the entry names none. The caller must check that the files may be read.
    """
    sensor = catalog.sensor(dataset) or (known_sensor(default_sensor) if default_sensor else None)
    if sensor is None:
        raise CatalogError(f"{catalog.place(dataset)}: does not say which sensor; add `sensor`")
    if not paths:
        raise CatalogError(f"{catalog.place(dataset)}: holds no files; check where they should be")
    stored = bands_by_number(catalog, dataset, sensor, paths, describe_bands)
    scenes = scenes_from_paths(paths, stored.numbers, root=root, attributes=attributes, label_paths=label_paths)
    return source_from_scenes(catalog, dataset, sensor, stored, scenes, describe_bands)


def scenes_from_paths(
    paths: Sequence[str],
    numbers: Sequence[int],
    *,
    root: str | None = None,
    attributes: Mapping[str, Mapping[str, Value]] | None = None,
    label_paths: Mapping[str, str] | None = None,
) -> tuple[Scene, ...]:
    """One scene per file, sorted by id; `numbers` are the stored bands to read, from 1.

    An id is the path below `root` (default: the innermost common folder) without suffix; files that differ only by
    their suffix keep it. `attributes` and `label_paths` are by path.
    """
    root = common_folder([path.rpartition("/")[0] for path in paths]) if root is None else root
    ids = [_id(path, root) for path in paths]
    times = Counter(ids)
    scenes = [
        Scene(
            id=_id(path, root, suffix=True) if times[scene_id] > 1 else scene_id,
            stem=_without_suffix(path.rpartition("/")[2]),
            bands=tuple(BandFile(path, number) for number in numbers),
            label_path=(label_paths or {}).get(path),
            attributes=dict((attributes or {}).get(path, {})),
        )
        for path, scene_id in zip(paths, ids, strict=True)
    ]
    return tuple(sorted(scenes, key=lambda scene: scene.id))


def _band_scenes(catalog: Catalog, dataset: str, stored: StoredBands, root: str) -> tuple[Scene, ...]:
    """The scenes of an entry with {band}; a mask's band is given by its token too."""
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


def _id(path: str, root: str, *, suffix: bool = False) -> str:
    below = path.removeprefix(root).strip("/") if path.startswith(f"{root}/") else path.strip("/")
    if suffix:
        return below
    folder, slash, name = below.rpartition("/")
    return f"{folder}{slash}{_without_suffix(name)}"


def _without_suffix(name: str) -> str:
    """What `PurePath.stem` gives, which takes a second for 100,000 files."""
    at = name.rfind(".")
    return name[:at] if 0 < at < len(name) - 1 else name
