"""What files say of their bands, on which the guess of a unit rests: tags, and a sample of the stored values.

C bands, N sampled pixels
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geomae.errors import RasterError
from geomae.rasters.headers import Header
from geomae.rasters.opening import header, opened
from geomae.rasters.stored import Span, read_stored

LOOKED_AT, LOOKED_PX = 10, 256  # files that are read, and rows and columns of a window in each, at most
EVERY = 5  # of these rows and columns, one is used
PLACES = (0.5, 0.25, 0.75, 0.05)  # of the window in a file, as fractions: the next is tried where no pixel is valid
USUAL_FILLS = (-9999.0, -32768.0)  # often not declared
LARGEST = 1e30  # beyond it are the fill values of float32
NO_TAGS = (1.0, 0.0)  # scale and offset of a file without such tags
Samples = Sequence[npt.NDArray[np.float64]]
Places = Mapping[str, tuple[Header, int]]  # by band: the header of its file, and its number there


@dataclass(frozen=True)
class BandValues:
    """Some valid stored values of bands: their first, middle and 99th percentile.

    `sums_to_one` says whether at each pixel the bands, two or more, add up to 1, as probabilities do.
    """

    low: float
    middle: float
    high: float
    sums_to_one: bool = False

    def scaled(self, scale: float, offset: float) -> "BandValues":
        """The same in another scaling."""
        low, middle, high = (one * scale + offset for one in (self.low, self.middle, self.high))
        return BandValues(min(low, high), middle, max(low, high), self.sums_to_one and (scale, offset) == (1, 0))

    @property
    def span(self) -> str:
        """The range as text."""
        return f"values {self.low:.4g} to {self.high:.4g} (1 % to 99 % of some pixels)"


@dataclass(frozen=True)
class StoredBands:
    """What files say of the bands that are read, by name: tags (scale and offset), stated units, sampled values (C, N).

    `path` is the path of one of the files.
    """

    path: str
    dtype: str
    tags: Mapping[str, tuple[float, float]]
    stated: Mapping[str, str]
    samples: Samples

    @property
    def tagged(self) -> bool:
        """Whether the files state a scale or an offset."""
        return any(tag != NO_TAGS for tag in self.tags.values())

    @property
    def shared_unit(self) -> str:
        """The unit that is stated for all bands; empty if there is none, or more than one."""
        units = set(self.stated.values())
        return units.pop() if len(units) == 1 else ""

    def scaled(self) -> list[npt.NDArray[np.float64]]:
        """The sampled values after the scaling in the tags."""
        scale_C1, offset_C1 = (np.array([[tag[place]] for tag in self.tags.values()]) for place in (0, 1))
        return [one_CN * scale_C1 + offset_C1 for one_CN in self.samples]


def tags_of(info: Header, number: int) -> tuple[float, float]:
    """Scale and offset of a stored band in the tags of a file."""
    return info.scales[number - 1], info.offsets[number - 1]


def stored_bands(path: str, places: Places, samples: Samples) -> StoredBands:
    """What the files say of the bands at `places`. Raises RasterError if one of them cannot be opened."""
    first, _ = next(iter(places.values()))
    tags = {name: tags_of(*place) for name, place in places.items()}
    units_of = {file: _units(file) for file in {info.path for info, _ in places.values()}}
    stated = {name: units_of[info.path][number - 1] or "" for name, (info, number) in places.items()}
    return StoredBands(path, first.dtypes[0], tags, stated, samples)


def sample_values(
    paths: Sequence[str], numbers: Sequence[int], nodata: Sequence[float]
) -> list[npt.NDArray[np.float64]]:
    """Valid values (C, N) of the stored bands `numbers` in each of some of the files that can be read.

    `nodata` are stored values that mean none, beside those that the files declare. A value that is not valid is NaN.
    """
    looked = min(len(paths), LOOKED_AT)
    found = []
    for path in (paths[len(paths) * place // looked] for place in range(looked)):
        with contextlib.suppress(RasterError):
            found.append(_sample(path, numbers, nodata))
    return found


def sample_files(scenes: Sequence[Sequence[str]], nodata: Sequence[float]) -> list[npt.NDArray[np.float64]]:
    """The same of scenes that have a file for each band, of which the first stored band is read.

    Files of a scene may have other sizes: NaN makes up for missing values.
    """
    looked = min(len(scenes), LOOKED_AT)
    found = []
    for files in (scenes[len(scenes) * place // looked] for place in range(looked)):
        with contextlib.suppress(RasterError):
            each = [_sample(path, [1], nodata)[0] for path in files]
            values_CN = np.full((len(each), max(map(len, each))), np.nan)
            for row_N, own_N in zip(values_CN, each, strict=True):
                row_N[: len(own_N)] = own_N
            found.append(values_CN)
    return found


def band_values(samples: Sequence[npt.NDArray[np.float64]]) -> BandValues | None:
    """The values of all bands of the samples together; None if there are none."""
    values_N = np.concatenate([one.ravel() for one in samples]) if samples else np.empty(0)
    values_N = values_N[np.isfinite(values_N)]
    if not len(values_N):
        return None
    low, middle, high = np.percentile(values_N, (1, 50, 99)).tolist()
    sums_N = np.concatenate([one.sum(axis=0) for one in samples])
    sums_N = sums_N[np.isfinite(sums_N)]
    one = len(samples[0]) > 1 and len(sums_N) > 0 and low >= 0 and bool(np.all(np.abs(sums_N - 1) < 0.01))
    return BandValues(low, middle, high, one)


def _units(path: str) -> tuple[str | None, ...]:
    """The unit that a file states for each stored band, which takes GDAL about as long as all of its header."""
    with opened(path, remote=False) as dataset:
        return tuple(dataset.units)


def _sample(path: str, numbers: Sequence[int], nodata: Sequence[float]) -> npt.NDArray[np.float64]:
    info = header(path)
    values_CN = np.empty((len(numbers), 0))
    with opened(path, remote=False) as dataset:
        for span in _spans(info.height, info.width):
            raw_Chw, valid_Chw = read_stored(dataset, info, numbers, span, (*nodata, *USUAL_FILLS))
            values_Chw = np.where(valid_Chw, raw_Chw, np.nan)[:, ::EVERY, ::EVERY].astype(np.float64)
            values_Chw[np.abs(values_Chw) > LARGEST] = np.nan
            if info.dtypes[0].startswith("float"):
                values_Chw[values_Chw == 0] = np.nan  # mostly fill: a measurement in floating point is hardly ever 0
            values_CN = values_Chw.reshape(len(numbers), -1)
            if np.isfinite(values_CN).any():
                break
    return values_CN


def _spans(height: int, width: int) -> Iterator[Span]:
    rows, cols = min(height, LOOKED_PX), min(width, LOOKED_PX)
    for place in PLACES:
        yield Span(int((height - rows) * place), int((width - cols) * place), rows, cols)
