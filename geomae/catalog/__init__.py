"""The data catalogue: `data_catalog.yaml` becomes a Catalog, its entries Sources; selectors, filters, splits."""

from geomae.catalog.attributes import read_windows, require_columns, where_mask
from geomae.catalog.band_order import Placement, StoredOrder
from geomae.catalog.catalog import BandFile, Catalog, Scene, Source, open_catalog
from geomae.catalog.filters import Filter, parse_filter
from geomae.catalog.scene_sources import band_units
from geomae.catalog.schema import (
    DatasetEntry,
    Group,
    Label,
    Mask,
    Points,
    Sample,
    Split,
    Table,
    Tile,
    Torchgeo,
    Windows,
    json_schema,
)
from geomae.catalog.schema_forms import Column
from geomae.catalog.schema_times import Months, Time
from geomae.catalog.selectors import Condition, Selector, condition_mask, parse_selector, resolve_selectors
from geomae.catalog.sources import resolve_files, scenes_from_paths, source_from_paths
from geomae.catalog.splits import LEFT_OUT, block_splits, group_splits, hold_out, random_splits
from geomae.catalog.stac import resolve_stac
from geomae.catalog.stored_bands import DescribeBands, in_own_order

__all__ = [
    "LEFT_OUT",
    "BandFile",
    "Catalog",
    "Column",
    "Condition",
    "DatasetEntry",
    "DescribeBands",
    "Filter",
    "Group",
    "Label",
    "Mask",
    "Months",
    "Placement",
    "Points",
    "Sample",
    "Scene",
    "Selector",
    "Source",
    "Split",
    "StoredOrder",
    "Table",
    "Tile",
    "Time",
    "Torchgeo",
    "Windows",
    "band_units",
    "block_splits",
    "condition_mask",
    "group_splits",
    "hold_out",
    "in_own_order",
    "json_schema",
    "open_catalog",
    "parse_filter",
    "parse_selector",
    "random_splits",
    "read_windows",
    "require_columns",
    "resolve_files",
    "resolve_selectors",
    "resolve_stac",
    "scenes_from_paths",
    "source_from_paths",
    "where_mask",
]
