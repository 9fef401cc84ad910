"""The catalogue key `cube`, and the address of one array of a cube at one time step."""

import re
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import quote, unquote

from pydantic import Discriminator, Field, Tag

from geomae.catalog.schema_forms import Strict, Text, list_or_value

FILE_SUFFIXES = frozenset((".nc", ".nc4", ".h5", ".hdf5", ".he5"))  # of cubes that are one file: NetCDF4 and HDF5
ADDRESS = re.compile(r"(?P<store>.+)#(?P<variable>[^#\[\]/]+)\[(?P<dims>[^\[\]/]*\by=[^\[\]/]*,x=[^\[\]/]*)\]")

Names = Annotated[tuple[Text, ...], Field(min_length=1)]


class Cube(Strict):
    """Zarr stores, or NetCDF4 and HDF5 files; each time step is a scene."""

    path: Annotated[
        Annotated[Names, Tag("list")] | Annotated[Text, Tag("value")],
        Discriminator(list_or_value),
    ] = Field(description="store or file, glob or list; relative to the catalogue")
    variables: Names | None = Field(
        None, description="arrays to read, one per band; with `band`, the one array of all bands"
    )
    band: Text | None = Field(None, description="dimension of the bands, if one array holds all bands")
    time: Text | None = Field(None, description="dimension of the dates; default: found by name and attributes")
    y: Text | None = Field(None, description="dimension of the rows; default: found by name and attributes")
    x: Text | None = Field(None, description="dimension of the columns; default: found by name and attributes")

    @property
    def paths(self) -> tuple[str, ...]:
        """The patterns of `path` as a tuple, also where it is a single one."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclass(frozen=True)
class CubeAddress:
    """The address of one array of a cube, at one time step if it has any; used in place of a file's path.

    `y`, `x`, `band` and `time` are the names of its dimensions.
    """

    store: str
    variable: str
    y: str
    x: str
    band: str | None = None
    time: str | None = None
    step: int | None = None

    def __str__(self) -> str:
        parts = [] if self.time is None else [f"time={quote(self.time, safe='')}:{self.step}"]
        parts += [] if self.band is None else [f"band={quote(self.band, safe='')}"]
        parts += [f"y={quote(self.y, safe='')}", f"x={quote(self.x, safe='')}"]
        return f"{self.store}#{quote(self.variable, safe='')}[{','.join(parts)}]"

    def of(self, variable: str) -> "CubeAddress":
        """The address of another array, without a dimension of bands, on the same grid."""
        return replace(self, variable=variable, band=None)


def is_cube(path: str) -> bool:
    """Whether a path is the address of an array of a cube."""
    return path.endswith("]") and ADDRESS.fullmatch(path) is not None


def cube_address(path: str) -> CubeAddress:
    """Parse the text of an address, for which `is_cube` must hold."""
    match = ADDRESS.fullmatch(path)
    assert match is not None
    dims = dict(part.split("=", 1) for part in match["dims"].split(","))
    time, _, step = dims.get("time", "").rpartition(":")
    band = unquote(dims["band"]) if "band" in dims else None
    place = unquote(match["variable"]), unquote(dims["y"]), unquote(dims["x"])
    return CubeAddress(match["store"], *place, band, unquote(time) or None, int(step) if step else None)
