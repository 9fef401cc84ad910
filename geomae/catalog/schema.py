"""The whole catalogue format as frozen models: what `data_catalog.yaml` may hold, and which keys fit together."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from geomae.catalog.parts import (
    NAME_PATTERN,
    Bands,
    Domain,
    Group,
    Label,
    Mask,
    NodataValues,
    Number,
    Paths,
    PerBand,
    Sample,
    SensorEntry,
    Split,
    Table,
    Text,
    Tile,
    Torchgeo,
    TorchgeoEntry,
    Windows,
)
from geomae.catalog.strict import Strict, refuse
from geomae.catalog.where import parse_filter
from geomae.errors import CatalogError, nearest
from geomae.sensors import UNITS

SOURCES = ("path", "torchgeo", "sample")
BAND = "{band}"
RESERVED = {
    "stac": "download the items and name their files with `path`",
    "cube": "write its slices as GeoTIFF and name them with `path`",
}


def _checked_filter(text: str) -> str:
    try:
        parse_filter(text)
    except CatalogError as error:
        refuse(str(error))
    return text


def _checked_unit(unit: str) -> str:
    if unit not in UNITS:
        refuse(f"unknown unit {unit!r}; {nearest(unit, UNITS)}")
    return unit


class DatasetEntry(Strict):
    """One data set, as it is written; `tile` and `windows` both absent make each scene one tile."""

    reserved: ClassVar[Mapping[str, str]] = RESERVED

    description: str | None = Field(None, description="free text")
    path: Paths | None = Field(None, description="file, glob or list; with {band} one file per band")
    torchgeo: TorchgeoEntry | None = Field(None, description="class of torchgeo.datasets: a name, or class and args")
    args: dict[str, Any] | None = Field(None, description="arguments of the torchgeo class, if that is a name")
    sample: Sample | None = Field(None, description="the generated landscape")
    sensor: SensorEntry | None = Field(None, description="name of a known sensor, or inline bands")
    bands: Bands | None = Field(None, description="stored order, null skips one; or name: token for {band}")
    unit: Annotated[str, AfterValidator(_checked_unit)] | None = Field(
        None, description="unit of scaled values; default the sensor's", json_schema_extra={"enum": [*UNITS, None]}
    )
    scale: PerBand | None = Field(None, description="physical = stored x scale + offset; a number, or by band")
    offset: PerBand | None = Field(None, description="in the unit; a number, or by band")
    gsd_m: Annotated[Number, Field(gt=0)] | None = Field(None, description="grid of the tiles; default: the finest")
    nodata: NodataValues | None = Field(None, description="stored values that are no measurement; [] for none")
    mask: Mask | None = None
    tile: Tile | None = None
    windows: Windows | None = None
    table: Table | None = None
    label: Label | None = None
    split: Split | None = None
    group: Group | None = None
    domain: Domain | None = Field(None, description="a name, or a column")
    where: Annotated[Text, AfterValidator(_checked_filter)] | None = Field(None, description="filter over attributes")
    remote: bool = Field(False, description="allow s3, gs, https and downloads")
    outside: bool = Field(False, description="allow paths that leave the catalogue's folder")

    @model_validator(mode="after")
    def _fits_together(self) -> "DatasetEntry":
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if not given:
            refuse("has no source; add `path`, `torchgeo` or `sample`")
        if len(given) > 1:
            refuse(f"has two sources, `{given[0]}` and `{given[1]}`; keep one", given[1])
        if self.args is not None and not isinstance(self.torchgeo, str):
            refuse("`args` belongs to `torchgeo: NAME`; move it or remove it", "args")
        if self.path is not None and self.sensor is None:
            refuse("does not say which sensor; add `sensor`, a name or inline bands", "path")
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
            refuse(f"some paths have {BAND} and some have not; put them into two data sets", "path")
        if isinstance(self.bands, dict) and not any(per_band):
            refuse(f"a mapping from band to token is for a `path` with {BAND}; write a list in stored order", "bands")
        if isinstance(self.bands, tuple):
            if any(per_band) and None in self.bands:
                refuse(f"null skips a band within a file; with {BAND} leave the band out", "bands")
            if set(self.bands) == {None}:
                refuse("skips every band; name at least one", "bands")

    @property
    def paths(self) -> tuple[str, ...]:
        """The patterns of `path`, also when it is one; empty for other sources."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    @property
    def one_file_per_band(self) -> bool:
        """Whether `path` has {band}."""
        return any(BAND in path for path in self.paths)

    @property
    def torchgeo_source(self) -> Torchgeo | None:
        """The class and its arguments, in whichever way they were written."""
        if isinstance(self.torchgeo, str):
            return Torchgeo.model_validate({"class": self.torchgeo, "args": self.args or {}})
        return self.torchgeo

    @property
    def nodata_values(self) -> tuple[float, ...]:
        """The values of `nodata`, also when it is one."""
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
