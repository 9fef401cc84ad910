"""What a catalogue entry becomes: scenes, each with the files that hold its bands."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from geomae.sensors import Band


@dataclass(frozen=True)
class BandFile:
    """One stored band: a file and the number of the band in it, counted from 1 as GDAL does."""

    path: str
    index: int = 1


@dataclass(frozen=True)
class Scene:
    """One place at one date: the stored bands that are read together, on one grid.

    `bands` follows the order of `Source.bands`. `files` are the distinct files of the bands. `stem` fills `{stem}` in
    the patterns of masks and labels.
    """

    id: str
    stem: str
    bands: tuple[BandFile, ...]
    mask: BandFile | None = None
    label_path: str | None = None
    attributes: Mapping[str, str | float | None] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """The distinct files that hold the bands, in the order of the bands."""
        return tuple(dict.fromkeys(band.path for band in self.bands))


@dataclass(frozen=True)
class Source:
    """A data set that is ready to be read.

    Physical value = stored value x scale + offset, per band, in `unit`. `stored_bands` is how many bands each file
    must hold (None where every band has a file of its own). `invalid_bits` and `invalid_values` say which values of a
    scene's mask file mark a pixel as invalid. `gsd_m` is the grid to which all bands are brought; None
    stands for that of the finest file of each scene.
    """

    name: str
    sensor: str
    bands: tuple[Band, ...]
    unit: str
    scale_C: tuple[float, ...]
    offset_C: tuple[float, ...]
    nodata: tuple[float, ...]
    gsd_m: float | None
    scenes: tuple[Scene, ...]
    stored_bands: int | None = None
    invalid_bits: tuple[int, ...] = ()
    invalid_values: tuple[int, ...] = ()
    remote: bool = False
