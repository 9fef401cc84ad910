"""The parts of a data set's entry: tiles, masks, labels, splits, groups, domains."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator

from geomae.catalog.strict import Strict, refuse

NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]*"  # of data sets and splits: what a selector and a folder's name can hold
ALL = "all"  # the split of a selector that takes every tile
SUM_TOLERANCE = 0.02  # thirds are written as 0.33

Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Share = Annotated[Number, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


def mapping_or_value(value: object) -> str:
    """Choose the branch of a union by the form in which a key is written."""
    return "mapping" if isinstance(value, (dict, BaseModel)) else "value"


def mapping_or_list(value: object) -> str:
    """Choose the branch of a union by the form in which a key is written."""
    return "mapping" if isinstance(value, dict) else "list"


def list_or_value(value: object) -> str:
    """Choose the branch of a union by the form in which a key is written."""
    return "list" if isinstance(value, (list, tuple)) else "value"


def mapping_list_or_value(value: object) -> str:
    """Choose the branch of a union by the form in which a key is written."""
    return mapping_or_list(value) if isinstance(value, (dict, list, tuple)) else "value"


def _checked_fractions(fractions: dict[str, float]) -> dict[str, float]:
    for name in fractions:
        if name == ALL:
            refuse(f"a split cannot be called {ALL!r}, which stands for every tile; rename it", name)
    total = sum(fractions.values())
    if abs(total - 1) > SUM_TOLERANCE:
        refuse(f"the fractions sum to {total:g}; make them sum to 1")
    return fractions


Fractions = Annotated[
    dict[Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")], Annotated[Number, Field(gt=0, le=1)]],
    Field(min_length=1),
    AfterValidator(_checked_fractions),
]


class Column(Strict):
    """A column of the attributes."""

    column: Text = Field(description="name of a column of `table` or `windows`")


class Tile(Strict):
    """Tiles on a regular grid over each scene."""

    size: Annotated[Whole, Field(gt=0)] = Field(description="side of a tile in pixels of the grid at `gsd_m`")
    stride: Annotated[Whole, Field(gt=0)] | None = Field(None, description="pixels between tiles; default: the size")
    min_valid: Share = Field(0.5, description="share of valid pixels that a tile needs")


class Windows(Strict):
    """Tiles as a table lists them, in pixels from the upper left of each scene."""

    table: Text = Field(description="CSV file, relative to the catalogue; its other columns are attributes of windows")
    key: Text = Field(description="column with the scene: file stem, or path relative to the table's folder")
    row: Text = Field(description="column with the first row of the window")
    col: Text = Field(description="column with the first column of the window")
    size: Annotated[Whole, Field(gt=0)] = Field(description="side of a window in pixels")


class Table(Strict):
    """Attributes of the scenes."""

    path: Text = Field(description="CSV file, relative to the catalogue")
    key: Text = Field(description="column with the scene: file stem, or path relative to the table's folder")


class Mask(Strict):
    """Which pixels a quality layer marks as invalid."""

    path: Text | None = Field(None, description="file of the layer; {stem} is the scene's")
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
            refuse("says of no pixel that it is invalid; add `invalid_bits` or `invalid_values`")
        return self


class Label(Strict):
    """Where labels come from."""

    reserved: ClassVar[Mapping[str, str]] = {"vector": "burn it into a raster and use `raster`"}

    column: Text | None = Field(None, description="column of the attributes")
    folder: bool = Field(False, description="the name of the folder that holds the file")
    raster: Text | None = Field(None, description="file, or pattern with {stem}, with a class per pixel")
    classes: dict[Whole, Text] | None = Field(None, description="name of each value of the raster that counts")
    min_purity: Share | None = Field(None, description="share of a tile's pixels that its class needs; default 0.5")

    @model_validator(mode="after")
    def _one_source(self) -> "Label":
        given = [key for key in ("column", "folder", "raster") if getattr(self, key)]
        if len(given) != 1:
            refuse("labels come from one of `column`, `folder: true` and `raster`; keep one", *given[-1:])
        for key in ("classes", "min_purity"):
            if self.raster is None and getattr(self, key) is not None:
                refuse(f"{key!r} is for labels from a `raster`; remove it", key)
        if self.raster is not None and not self.classes:
            refuse("labels from a raster need `classes`; add a mapping from value to name, as in {10: tree}", "raster")
        return self


class Split(Strict):
    """How tiles are dealt to splits."""

    column: Text | None = Field(None, description="column with the name of the split")
    block_km: Annotated[Number, Field(gt=0)] | None = Field(None, description="side of spatial blocks in kilometres")
    fractions: Fractions | None = Field(None, description="share of the blocks per split")
    group: Fractions | None = Field(None, description="share of the groups per split")
    random: Fractions | None = Field(None, description="share of the tiles per split")
    seed: Annotated[Whole, Field(ge=0)] = Field(0, description="chooses the dealing")

    @model_validator(mode="after")
    def _one_way(self) -> "Split":
        ways = [key for key in ("column", "block_km", "group", "random") if getattr(self, key) is not None]
        if len(ways) != 1:
            refuse("split by one of `column`, `block_km`, `group` and `random`; keep one", *ways[-1:])
        if (self.block_km is None) != (self.fractions is None):
            refuse("`block_km` and `fractions` belong together; give both", *ways)
        if self.column is not None and "seed" in self.model_fields_set:
            refuse("a split by `column` is not dealt; remove `seed`", "seed")
        return self


class Group(Strict):
    """What belongs together, for intervals and folds."""

    column: Text = Field(description="column of the groups that intervals resample")
    folds: Text | None = Field(None, description="column by which folds within train are made; default: the groups")


class Torchgeo(Strict):
    """A data set of torchgeo."""

    class_name: Text = Field(alias="class", description="name of a class in torchgeo.datasets")
    args: dict[str, Any] = Field({}, description="arguments of the class")


class Sample(Strict):
    """The generated landscape."""

    seed: Annotated[Whole, Field(ge=0)] = Field(0, description="chooses the landscape")
    size: Annotated[Whole, Field(ge=64, le=2048)] = Field(512, description="side of a scene in pixels")
    scenes: Annotated[Whole, Field(ge=1, le=64)] = Field(2, description="number of scenes of each domain")


Domain = Annotated[Annotated[Column, Tag("mapping")] | Annotated[Text, Tag("value")], Discriminator(mapping_or_value)]
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
