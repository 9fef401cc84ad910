"""From a data set's name to what can be read: the one place that knows all kinds of sources."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from geomae.catalog import Catalog, DatasetEntry, Source, resolve_files, source_from_paths
from geomae.rasters import describe_bands
from geomae.tiles import landscape
from geomae.tiles.torchgeo import list_torchgeo

SAMPLE_DEFAULTS: dict[str, Any] = {
    "tile": {"size": 64, "stride": 32},
    "split": {"block_km": 1, "fractions": {"train": 0.8, "val": 0.1, "test": 0.1}, "seed": 0},
}


def open_source(catalog: Catalog, dataset: str) -> Source:
    """The Source of a data set; see `prepare`."""
    return prepare(catalog, dataset)[1]


def prepare(catalog: Catalog, dataset: str) -> tuple[Catalog, Source]:
    """The Source of a data set, and the catalogue in which its entry is complete.

    A generated or torchgeo source knows keys that the entry leaves out (`table`, `label`, `split`, ...): whoever goes
    on reading the entry takes the catalogue that is given back. The user's own keys win; the paths of a `sample` are
    relative to the folder of the landscape, which is drawn on first use. Raises CatalogError where entry and files do
    not fit together.
    """
    entry = catalog.entry(dataset)
    describe = partial(describe_bands, remote=entry.remote)
    if entry.sample is not None:
        catalog = _with_landscape(catalog, dataset)
    if entry.torchgeo_source is None:
        return catalog, resolve_files(catalog, dataset, describe)
    listing = list_torchgeo(catalog, dataset)
    if isinstance(listing.bands, dict):
        files = {"path": listing.paths, "bands": listing.bands}
        catalog = _completed(catalog, dataset, forced=files, without=("torchgeo", "args"))
        return catalog, resolve_files(catalog, dataset, describe)
    known: dict[str, Any] = {"bands": listing.bands} if listing.bands else {}
    if listing.attributes:
        known["label"] = {"column": "label"}
    catalog = _completed(catalog, dataset, defaults=known)
    source = source_from_paths(
        catalog, dataset, listing.paths, describe, root=listing.root, attributes=listing.attributes
    )
    return catalog, source


def _with_landscape(catalog: Catalog, dataset: str) -> Catalog:
    """The catalogue as if the user had written the entry of the landscape's files, in the landscape's folder."""
    entry = catalog.entry(dataset)
    assert entry.sample is not None
    with catalog.at(dataset, "sample"):
        folder = landscape.landscape(seed=entry.sample.seed, size=entry.sample.size, scenes=entry.sample.scenes)
    defaults = SAMPLE_DEFAULTS | landscape.describe()
    if entry.windows is not None:
        del defaults["tile"]
    if entry.unit is not None:  # the usual scale is that of the usual unit
        del defaults["scale"], defaults["offset"]
    return _completed(catalog, dataset, folder=folder, defaults=defaults, without=("sample",))


def _completed(
    catalog: Catalog,
    dataset: str,
    *,
    folder: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
    forced: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
) -> Catalog:
    """The catalogue with one entry changed: `defaults` give way to what the user wrote, and that to `forced`."""
    written = catalog.entry(dataset).model_dump(exclude_unset=True, by_alias=True)
    kept = {key: value for key, value in written.items() if key not in without}
    entry = DatasetEntry.model_validate({**(defaults or {}), **kept, **(forced or {})})
    return replace(catalog, folder=folder or catalog.folder, entries={**catalog.entries, dataset: entry})
