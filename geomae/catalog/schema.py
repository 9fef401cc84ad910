"""The format of `data_catalog.yaml` as frozen pydantic models."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from geomae.catalog.filters import parse_filter
from geomae.catalog.schema_cubes import Cube
from geomae.catalog.schema_forms import (
    Column,
    Number,
    Share,
    Strict,
    Text,
    Whole,
    list_or_value,
    mapping_list_or_value,
    mapping_or_list,
    mapping_or_value,
)
from geomae.catalog.schema_times import Domain, Time
from geomae.config import refuse
from geomae.errors import CatalogError, nearest
from geomae.sensors import UNITS

NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]*"  # of data sets and splits, which are part of selectors and folder names
ALL = "all"  # the split of a selector that takes every tile
SUM_TOLERANCE = 0.02  # thirds are written as 0.33


def _checked_fractions(fractions: dict[str, float]) -> dict[str, float]:
    for name in fractions:
        if name == ALL:
            refuse(f"a split cannot be called {ALL!r}, which stands for every tile; rename it", name)
    total = sum(fractions.values())
    if abs(total - 1) > SUM_TOLERANCE:
        refuse(f"the fractions sum to {total:g}; make them sum to 1")
    return fractions


Classes = Annotated[dict[Whole | Text, Text], Field(min_length=1)]
Fractions = Annotated[
    dict[Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")], Annotated[Number, Field(gt=0, le=1)]],
    Field(min_length=1),
    AfterValidator(_checked_fractions),
]


def _checked_filter(text: str) -> str:
    try:
        parse_filter(text)
    except CatalogError as error:
        refuse(str(error))
    return text


class Tile(Strict):
    """Tiles on a regular grid in each scene."""

    size: Annotated[Whole, Field(gt=0)] = Field(description="side of a tile in pixels of the grid at `gsd_m`")
    stride: Annotated[Whole, Field(gt=0)] | None = Field(None, description="pixels between tiles; default: the size")
    min_valid: Share = Field(0.5, description="smallest fraction of valid pixels in a tile")


class Windows(Strict):
    """Tiles listed in a table, in pixels from the upper left corner of each scene."""

    table: Text = Field(description="CSV file, relative to the catalogue; its other columns are attributes of windows")
    key: Text = Field(description="column with the scene: file stem, or path relative to the table's folder")
    row: Text = Field(description="column with the first row of the window")
    col: Text = Field(description="column with the first column of the window")
    size: Annotated[Whole, Field(gt=0)] = Field(description="side of a window in pixels")


class Points(Strict):
    """A tile around each point of a file, in every scene that covers it."""

    points: Text = Field(
        description="GeoPackage, GeoJSON, GeoParquet, Shapefile or CSV (x, y, crs); its columns are attributes"
    )
    size: Annotated[Whole, Field(gt=0)] = Field(description="side of a tile in pixels of the scene's grid")
    layer: Text | None = Field(None, description="layer of the file; default: its only one")
    where: Annotated[Text, AfterValidator(_checked_filter)] | None = Field(
        None, description="filter over the file's columns"
    )
    days: Annotated[Number, Field(ge=0)] | None = Field(
        None, description="days between a point's `time` and a scene's; default 30 where both are known"
    )
    strict: bool = Field(False, description="refuse tiles with different labels that share pixels")


class Table(Strict):
    """Attributes of the scenes."""

    path: Text = Field(description="CSV file, relative to the catalogue")
    key: Text = Field(description="column with the scene: file stem, or path relative to the table's folder")


class Mask(Strict):
    """The pixels that a quality layer marks as invalid."""

    path: Text | None = Field(None, description="file of the layer; {stem} or {stem:OLD=NEW} is the scene's")
    band: Text | Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="name or number (from 1) of the layer in the scene's file; its token with {band}"
    )
    invalid_bits: tuple[Annotated[Whole, Field(ge=0, lt=64)], ...] = Field((), description="bits, 0 is the lowest")
    invalid_values: tuple[Whole, ...] = Field((), description="values")

    @model_validator(mode="after")
    def _complete(self) -> "Mask":
        if (self.path is None) == (self.band is None):
            refuse("name the layer by either `path` or `band`")
        if not self.invalid_bits and not self.invalid_values:
            refuse("marks no pixel as invalid; add `invalid_bits` or `invalid_values`")
        return self


class Vector(Strict):
    """Polygons with a class each."""

    path: Text = Field(description="vector file, relative to the catalogue")
    column: Text = Field(description="column with the class of each polygon")
    layer: Text | None = Field(None, description="layer of the file; default: its only one with geometries")
    all_touched: bool = Field(
        False, description="label every pixel that a polygon touches, not only those centred in it"
    )


class Label(Strict):
    """The source of labels."""

    column: Text | None = Field(None, description="column of the attributes")
    folder: bool = Field(False, description="the name of the folder that holds the file")
    raster: Text | None = Field(
        None, description="file with a class per pixel; {stem} or {stem:OLD=NEW} is the scene's"
    )
    vector: Vector | None = Field(None, description="polygons with a class each")
    classes: Classes | None = Field(None, description="name of the class of each value; other values have none")
    min_purity: Share | None = Field(None, description="smallest fraction of pixels with the tile's class; default 0.5")

    @model_validator(mode="after")
    def _one_source(self) -> "Label":
        given = [key for key in ("column", "folder", "raster", "vector") if getattr(self, key)]
        if len(given) != 1:
            refuse("labels come from one of `column`, `folder: true`, `raster` and `vector`; keep one", *given[-1:])
        for key in ("classes", "min_purity"):
            if given[0] in ("column", "folder") and getattr(self, key) is not None:
                refuse(f"{key!r} is for labels from a `raster` or a `vector`; remove it", key)
        if self.raster is not None and not self.classes:
            refuse("labels from a raster need `classes`; add a mapping from value to name, as in {10: tree}", "raster")
        if self.raster is not None and any(not isinstance(value, int) for value in self.classes or {}):
            refuse("a raster holds whole numbers; write one before each name, as in {10: tree}", "classes")
        return self


class Split(Strict):
    """How tiles are assigned to splits."""

    column: Text | None = Field(None, description="column with the name of the split")
    block_km: Annotated[Number, Field(gt=0)] | None = Field(None, description="side of spatial blocks in kilometres")
    fractions: Fractions | None = Field(None, description="fraction of the blocks per split")
    group: Fractions | None = Field(None, description="fraction of the groups per split")
    random: Fractions | None = Field(None, description="fraction of the tiles per split")
    seed: Annotated[Whole, Field(ge=0)] = Field(0, description="random seed of the assignment")

    @model_validator(mode="after")
    def _one_way(self) -> "Split":
        ways = [key for key in ("column", "block_km", "group", "random") if getattr(self, key) is not None]
        if len(ways) != 1:
            refuse("split by one of `column`, `block_km`, `group` and `random`; keep one", *ways[-1:])
        if (self.block_km is None) != (self.fractions is None):
            refuse("`block_km` and `fractions` belong together; give both", *ways)
        if self.column is not None and "seed" in self.model_fields_set:
            refuse("a split by `column` is not random; remove `seed`", "seed")
        return self


class Group(Strict):
    """Groups of tiles that are not independent, for intervals and folds."""

    column: Text = Field(description="column of the groups that intervals resample")
    folds: Text | None = Field(None, description="column of the groups for folds within train; default: `column`")


class Stac(Strict):
    """STAC items: each is a scene, and its assets are the files of the bands."""

    items: Text = Field(
        description="file or glob: ItemCollection or Item (.json), one item per line (.ndjson), a static catalogue "
        "(catalog.json), or stac-geoparquet (.parquet)"
    )
    assets: Annotated[dict[Text, Text], Field(min_length=1)] | None = Field(
        None, description="band: key of the asset that holds it; default: by the names that the items give their bands"
    )
    sign: Literal["planetary-computer"] | None = Field(
        None, description="service that signs the links of the assets, each time they are opened"
    )


class Torchgeo(Strict):
    """A data set of torchgeo."""

    class_name: Text = Field(alias="class", description="name of a class in torchgeo.datasets")
    args: dict[str, Any] = Field({}, description="arguments of the class")


class Sample(Strict):
    """The generated landscape."""

    seed: Annotated[Whole, Field(ge=0)] = Field(0, description="random seed of the landscape")
    size: Annotated[Whole, Field(ge=64, le=2048)] = Field(512, description="side of a scene in pixels")
    scenes: Annotated[Whole, Field(ge=1, le=64)] = Field(2, description="number of scenes of each domain")
    shift: Literal["none", "covariate", "shares", "conditional", "concept", "sensor"] | None = Field(
        None, description="draw a source and a target that differ only in this, instead of lowland and dryland"
    )
    strength: Share = Field(1.0, description="size of the difference; 0 is none")
    side: Literal["source", "target"] | None = Field(None, description="only one side of a shift; default both")

    @model_validator(mode="after")
    def _fits_together(self) -> "Sample":
        given = self.model_fields_set
        for key in ("strength", "side"):
            if self.shift is None and key in given:
                refuse(f"`{key}` needs a shift; add `shift: covariate`, or remove it", key)
        if self.shift == "none" and "strength" in given:
            refuse("`shift: none` has no strength; remove it", "strength")
        if self.shift == "sensor" and self.side is None:
            refuse("two sensors are two data sets; write `side: source` here and `side: target` in another", "shift")
        return self


def points_or_table(value: object) -> str:
    """Choose between the two forms of `windows`: only one has the key `points`."""
    has_points = "points" in value if isinstance(value, dict) else isinstance(value, Points)
    return "from points" if has_points else "from table"


WindowsEntry = Annotated[
    Annotated[Points, Tag("from points")] | Annotated[Windows, Tag("from table")], Discriminator(points_or_table)
]
PerBand = Annotated[
    Annotated[dict[str, Number], Tag("mapping")] | Annotated[Number, Tag("value")], Discriminator(mapping_or_value)
]
Paths = Annotated[
    Annotated[tuple[Text, ...], Field(min_length=1), Tag("list")] | Annotated[Text, Tag("value")],
    Discriminator(list_or_value),
]
Nodata = Annotated[Number, Field(allow_inf_nan=True)]
NodataValues = Annotated[
    Annotated[tuple[Nodata, ...], Tag("list")] | Annotated[Nodata, Tag("value")], Discriminator(list_or_value)
]
Bands = Annotated[
    Annotated[dict[Text, Text], Field(min_length=1), Tag("mapping")]
    | Annotated[tuple[Text | None, ...], Field(min_length=1), Tag("list")],
    Discriminator(mapping_or_list),
]
SensorEntry = Annotated[
    Annotated[dict[str, Any], Tag("mapping")]
    | Annotated[tuple[Any, ...], Field(min_length=1), Tag("list")]
    | Annotated[Text, Tag("value")],
    Discriminator(mapping_list_or_value),
]
TorchgeoEntry = Annotated[
    Annotated[Torchgeo, Tag("mapping")] | Annotated[Text, Tag("value")], Discriminator(mapping_or_value)
]


SOURCES = {"path": True, "stac": True, "cube": True, "torchgeo": False, "sample": False}
"""The keys of DatasetEntry of which each entry has one, and whether the schema asks for `sensor` beside it. How each is
opened is in `tiles.sources.RESOLVERS`."""
BAND = "{band}"


def _checked_unit(unit: str) -> str:
    if unit not in UNITS:
        refuse(f"unknown unit {unit!r}; {nearest(unit, UNITS)}")
    return unit


class DatasetEntry(Strict):
    """One data set of the catalogue. Without `tile` and `windows`, each scene is one tile."""

    description: str | None = Field(None, description="free text")
    path: Paths | None = Field(None, description="file, glob or list; with {band} one file per band")
    stac: Stac | None = Field(None, description="STAC items, whose assets hold the bands")
    torchgeo: TorchgeoEntry | None = Field(None, description="class of torchgeo.datasets: a name, or class and args")
    args: dict[str, Any] | None = Field(None, description="arguments of the torchgeo class, if that is a name")
    cube: Cube | None = Field(None, description="Zarr, NetCDF4 or HDF5 with dates, bands, rows and columns")
    sample: Sample | None = Field(None, description="the generated landscape")
    sensor: SensorEntry | None = Field(None, description="name of a known sensor, or inline bands")
    bands: Bands | None = Field(None, description="stored order, null skips one; or name: token for {band}")
    unit: Annotated[str, AfterValidator(_checked_unit)] | None = Field(
        None, description="unit of scaled values; default the sensor's", json_schema_extra={"enum": [*UNITS, None]}
    )
    scale: PerBand | None = Field(None, description="physical = stored x scale + offset; a number, or by band")
    offset: PerBand | None = Field(None, description="in the unit; a number, or by band")
    gsd_m: Annotated[Number, Field(gt=0)] | None = Field(None, description="grid of the tiles; default: the finest")
    nodata: NodataValues | None = Field(None, description="stored values that mark missing data; [] for none")
    mask: Mask | None = None
    tile: Tile | None = None
    windows: WindowsEntry | None = None
    table: Table | None = None
    time: Time | None = None
    label: Label | None = None
    split: Split | None = None
    group: Group | None = None
    places: Column | None = Field(None, description="column whose value is equal for scenes of the same ground")
    domain: Domain | None = Field(None, description="a name, a column, or months by name")
    where: Annotated[Text, AfterValidator(_checked_filter)] | None = Field(None, description="filter over attributes")
    remote: bool = Field(False, description="allow s3, gs, https and downloads")
    outside: bool = Field(False, description="allow paths that leave the catalogue's folder")

    @model_validator(mode="after")
    def _fits_together(self) -> "DatasetEntry":
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if not given:
            *others, last = (f"`{key}`" for key in SOURCES)
            refuse(f"has no source; add {', '.join(others)} or {last}")
        if len(given) > 1:
            refuse(f"has two sources, `{given[0]}` and `{given[1]}`; keep one", given[1])
        if self.args is not None and not isinstance(self.torchgeo, str):
            refuse("`args` belongs to `torchgeo: NAME`; move it or remove it", "args")
        if SOURCES[given[0]] and self.sensor is None:
            refuse("does not say which sensor; add `sensor`, a name or inline bands", given[0])
        if self.tile is not None and self.windows is not None:
            refuse("has both `tile` and `windows`; keep one", "windows")
        if self.split is not None and self.split.group is not None and self.group is None:
            refuse("a split by group needs groups; add `group: {column: ...}`", "split", "group")
        if self.scale == 0 or (isinstance(self.scale, dict) and 0 in self.scale.values()):
            refuse("a scale of 0 makes every pixel equal; give another number", "scale")
        self._check_band_files()
        return self

    def _check_band_files(self) -> None:
        per_band = [BAND in path for path in self.paths]
        if any(per_band) and not all(per_band):
            refuse(f"some paths have {BAND} and others do not; put them into two data sets", "path")
        if self.stac is not None and (isinstance(self.bands, dict) or None in (self.bands or ())):
            refuse("items name their bands; list those to read, and say where they lie with `stac.assets`", "bands")
        if isinstance(self.bands, dict) and self.cube is not None and self.cube.band is not None:
            refuse("a mapping from band to array is for a cube without `band`; write a list in stored order", "bands")
        if isinstance(self.bands, dict) and not any(per_band) and self.cube is None:
            refuse(f"a mapping from band to token is for a `path` with {BAND}; write a list in stored order", "bands")
        if isinstance(self.bands, tuple):
            if any(per_band) and None in self.bands:
                refuse(f"null skips a band within a file; with {BAND} leave the band out", "bands")
            if set(self.bands) == {None}:
                refuse("skips every band; name at least one", "bands")

    @property
    def place_column(self) -> tuple[str, str] | None:
        """The column whose value is equal for tiles of the same place, and the key that names it; None without one."""
        if self.places is not None:
            return self.places.column, "places"
        return (self.group.folds, "group.folds") if self.group and self.group.folds else None

    @property
    def source(self) -> str:
        """The key that names the source."""
        return next(key for key in SOURCES if getattr(self, key) is not None)

    @property
    def paths(self) -> tuple[str, ...]:
        """The patterns of `path` as a tuple, also for a single one; empty for other sources."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    @property
    def one_file_per_band(self) -> bool:
        """Whether `path` has {band}."""
        return any(BAND in path for path in self.paths)

    @property
    def torchgeo_source(self) -> Torchgeo | None:
        """The class and its arguments, from either form of the key; None for other sources."""
        if isinstance(self.torchgeo, str):
            return Torchgeo.model_validate({"class": self.torchgeo, "args": self.args or {}})
        return self.torchgeo

    @property
    def nodata_values(self) -> tuple[float, ...]:
        """The values of `nodata` as a tuple, also for a single one; empty without the key."""
        if isinstance(self.nodata, tuple):
            return self.nodata
        return () if self.nodata is None else (self.nodata,)


class CatalogFile(Strict):
    """The top level of a catalogue."""

    version: Literal[1] = Field(description="version of the format")
    default: tuple[Text, ...] = Field((), description="data sets that a command takes when it names none")
    datasets: Annotated[dict[Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")], DatasetEntry], Field(min_length=1)] = (
        Field(description="data sets by name")
    )

    @model_validator(mode="after")
    def _known_defaults(self) -> "CatalogFile":
        for index, name in enumerate(self.default):
            if name not in self.datasets:
                refuse(f"unknown data set {name!r}; {nearest(name, self.datasets)}", "default", index)
        return self


def json_schema() -> dict[str, Any]:
    """The format as JSON Schema (draft 2020-12), for editors."""
    schema = CatalogFile.model_json_schema()
    entry = schema["$defs"]["DatasetEntry"]
    entry["oneOf"] = [{"required": [key]} for key in SOURCES]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "geomae data catalogue"}
