"""Opens rasters: allowed formats and addresses, headers, and handles that stay open.

A header is read once per file and checked before memory is allocated for pixels. GDAL handles must not be shared by
threads or used after a fork: every thread keeps its own, at most `LARGEST_CACHE`.
"""

import contextlib
import functools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from geomae.catalog.foreign_formats import foreign_format
from geomae.catalog.links import SIGNED_HOSTS
from geomae.catalog.paths import is_loopback
from geomae.catalog.schema_cubes import cube_address, is_cube
from geomae.catalog.times import time_of_tags
from geomae.errors import RasterError
from geomae.rasters.cube_reading import CubeStep
from geomae.rasters.cube_stores import store_stamp
from geomae.rasters.environment import environment, settings
from geomae.rasters.headers import Header, Stamp, about_m, check_header, side_m
from geomae.rasters.side_files import side_files
from geomae.rasters.signing import signed, without_signatures
from geomae.rasters.tiff_directory import MAGICS

DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "WEBP")  # COGs are GTiff; none of these can name other files
WRITES = ("GTiff", "COG")
GDAL_VERSION: str = rasterio.__gdal_version__
LARGEST_CACHE = 64  # handles per thread; a process may have 1024 files open on most systems
REMOTE_PREFIXES = (
    *("https://", "s3://", "gs://", "/vsicurl/https://", "/vsis3/", "/vsigs/"),
    *(f"{signer}+https://" for signer in SIGNED_HOSTS),
)
LOCAL_OPENING = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
IDENTITY_GDAL = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]

GdalError = CPLE_BaseError  # some calls raise it, and rasterio has no public name for it
_LOCAL = threading.local()


def is_remote(path: str) -> bool:
    """Whether `path` is a URL or a virtual file name of GDAL instead of a file of this machine."""
    return "://" in path or path.startswith("/vsi")


def stamp(path: str, *, remote: bool) -> Stamp:
    """The state of a file: size and modification time, also of its known side files.

    Raises RasterError when there is no file.
    """
    if is_remote(path):
        _allow(path, remote=remote)
        return None
    if is_cube(path):
        return store_stamp(cube_address(path).store)
    try:
        status = Path(path).stat()
    except OSError as error:
        raise RasterError(f"{path}: cannot be opened ({error.strerror}); check the path and the permissions") from error
    return status.st_size, status.st_mtime_ns, *beside_stamp(path)


def beside_stamp(path: str) -> tuple[int | str, ...]:
    """Names and states of the known side files of a raster."""
    return tuple(value for one in side_files(path) for value in (one.path, one.size, one.mtime_ns))


@contextlib.contextmanager
def opened(path: str, *, remote: bool, crs: CRS | None = None, **options: str) -> Iterator[DatasetReader]:
    """Open `path` for one use. Raises RasterError when opening it, or reading it within the block, fails.

    `crs` is the CRS of the file where it is known: GDAL takes longer to find it than to decode a small file.
    """
    with environment(remote=remote, **options), _raster_errors(path):
        dataset = _open(path, remote=remote, crs=crs)
        try:
            yield dataset
        finally:
            dataset.close()


@contextlib.contextmanager
def borrowed(path: str, current: Stamp, *, remote: bool) -> Iterator[DatasetReader]:
    """The open data set of `path`, which this thread keeps open; use it within an `environment`.

    A file whose stamp is no longer `current` is opened again. Raises RasterError when opening it, or reading it within
    the block, fails.
    """
    handles = _mine()
    with _raster_errors(path):
        try:
            yield handles.get(path, current, remote=remote)
        except (RasterioError, GdalError):
            handles.drop(path)  # GDAL may remember a temporary failure
            raise


class _Handles:
    """The open data sets of one thread, the least recently used first."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.entries: OrderedDict[str, tuple[tuple[Stamp, str], DatasetReader]] = OrderedDict()

    def get(self, path: str, current: Stamp, *, remote: bool) -> DatasetReader:
        """The open data set of a file in its current state, at an address with a valid signature."""
        state = current, signed(path)
        entry = self.entries.get(path)
        if entry is not None and entry[0] == state:
            self.entries.move_to_end(path)
            return entry[1]
        self.drop(path)
        while len(self.entries) >= LARGEST_CACHE:
            self.entries.popitem(last=False)[1][1].close()
        dataset = _open(path, remote=remote)
        self.entries[path] = (state, dataset)
        return dataset

    def drop(self, path: str) -> None:
        """Close a file, if it is open."""
        entry = self.entries.pop(path, None)
        if entry is not None:
            entry[1].close()

    def close(self) -> None:
        """Close all files."""
        while self.entries:
            self.entries.popitem()[1][1].close()


_ALL_HANDLES: set[_Handles] = set()


def header(path: str, *, remote: bool = False) -> Header:
    """Read the header of `path`; a second call costs one `stat`.

    Raises RasterError for a file that cannot be opened, has no bands, complex values, or blocks too large to decode.
    """
    return _header(path, stamp(path, remote=remote), remote)


def describe_bands(path: str, *, remote: bool = False) -> tuple[str | None, ...]:
    """The names of a file's bands in stored order, None for a band without a name (see `Header.names`)."""
    return header(path, remote=remote).names


def describe_dataset(path: str, current: Stamp, dataset: DatasetReader) -> Header:
    """The header of an open data set. Raises as `header` does."""
    if isinstance(dataset, CubeStep):
        info = dataset.header()
        check_header(info)
        return info
    if dataset.count == 0:
        raise RasterError(f"{path}: has no bands; name one of its subdatasets, or leave it out")
    crs = dataset.crs or None
    affine = dataset.transform
    pixel_m = side_m(crs, affine)
    flags = dataset.mask_flag_enums[0]
    interpretation = dataset.colorinterp
    alpha = interpretation.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in interpretation else None
    block_height, block_width = dataset.block_shapes[0]
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    info = Header(
        path=path,
        stamp=current,
        height=dataset.height,
        width=dataset.width,
        dtypes=tuple(dataset.dtypes),
        nodata=tuple(None if value is None else float(value) for value in dataset.nodatavals),
        descriptions=tuple(dataset.descriptions),
        crs=None if crs is None else crs.to_string(),
        transform=tuple(affine)[:6],
        pixel_m=pixel_m,
        roughly_m=pixel_m if pixel_m is not None else about_m(crs, affine, dataset.height, dataset.width),
        block_height=block_height,
        block_width=block_width,
        interleaved=structure.get("INTERLEAVE") == "PIXEL",
        compression=structure.get("COMPRESSION"),
        alpha=alpha,
        masked=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
        scales=tuple(float(one) if math.isfinite(one) else 1.0 for one in dataset.scales),
        offsets=tuple(float(one) if math.isfinite(one) else 0.0 for one in dataset.offsets),
        palette=ColorInterp.palette in interpretation,
        lossy=_is_lossy(structure),
        placed_by=_placed_by(dataset) if crs is None else None,
        pages=max(1, len(dataset.subdatasets)) if dataset.driver == "GTiff" else 1,
        acquired=time_of_tags(dataset.tags()) if dataset.driver == "GTiff" else None,
    )
    check_header(info)
    return info


class _Reader(DatasetReader):  # type: ignore[misc]  # rasterio has no types
    """A data set that never warns about a missing geotransform, even where warnings are errors.

    Its CRS is `crs` where that is given.
    """

    def __init__(self, *words: object, crs: CRS | None = None, **options: object) -> None:
        self.known_crs = crs  # before the data set is opened, which asks for it
        super().__init__(*words, **options)

    def read_crs(self) -> CRS | None:
        """The CRS, known or by GDAL."""
        return super().read_crs() if self.known_crs is None else self.known_crs

    def read_transform(self) -> list[float]:
        """The six coefficients in GDAL's order; the identity when there are none."""
        try:
            return list(super().read_transform())
        except NotGeoreferencedWarning:
            return list(IDENTITY_GDAL)


class _Owner:
    """Closes the handles of a thread when the thread ends."""

    def __init__(self) -> None:
        self.handles = _Handles()
        _ALL_HANDLES.add(self.handles)

    def __del__(
        self, getpid: Callable[[], int] = os.getpid, known: set[_Handles] = _ALL_HANDLES
    ) -> None:  # default arguments, because globals may be gone at exit
        # In a forked child the threads of the parent end at once; closing their handles could wait for a lock of GDAL
        # that one of them held. There `_ALL_HANDLES` keeps the handles open.
        if self.handles.pid == getpid():
            known.discard(self.handles)
            self.handles.close()


def _mine() -> _Handles:
    owner: _Owner | None = getattr(_LOCAL, "owner", None)
    if owner is None or owner.handles.pid != os.getpid():
        owner = _LOCAL.owner = _Owner()
    return owner.handles


def _open(path: str, *, remote: bool, crs: CRS | None = None) -> DatasetReader:
    if is_cube(path):
        return CubeStep(path, stamp(path, remote=remote))
    if is_remote(path):
        _allow(path, remote=remote)
        with settings(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):  # each side file would cost a request
            return _Reader(signed(path), driver=list(DRIVERS))
    _check_sidecar_mask(path)
    # Side files (.aux.xml, .msk, world files) are read, without listing the folder at each opening.
    with settings(**LOCAL_OPENING):
        return _Reader(Path(path), driver=list(DRIVERS), crs=crs)  # a string could be taken for a URL


def missing_drivers() -> tuple[str, ...]:
    """The drivers for reading and writing rasters that this GDAL does not have."""
    with rasterio.Env() as env:
        known = env.drivers()
    return tuple(name for name in dict.fromkeys((*DRIVERS, *WRITES)) if name not in known)


def _allow(path: str, *, remote: bool) -> None:
    if not remote:
        raise RasterError(f"{path}: is not a file of this machine; add `remote: true` to the data set to allow it")
    if not path.startswith(REMOTE_PREFIXES) and not is_loopback(path):
        raise RasterError(f"{path}: this kind of address is not read; use one of https://, s3://, gs://")


def _check_sidecar_mask(path: str) -> None:
    """Refuse a .msk file that is no TIFF: GDAL opens it with any driver, so that it could name other files."""
    for mask in (path + ".msk", path + ".MSK"):
        if not os.access(mask, os.F_OK):
            continue
        try:
            with Path(mask).open("rb") as file:
                magic = file.read(4)
        except OSError:
            continue
        if magic not in MAGICS:
            raise RasterError(
                f"{mask}: is read as the mask of the raster beside it, but is no TIFF; remove or rename it"
            )


@contextlib.contextmanager
def _raster_errors(path: str) -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise RasterError(f"{path}: has a name that is not UTF-8, which GDAL needs; rename the file") from error
    except (RasterioError, GdalError, CRSError) as error:
        reason = _reason(error, path)
        foreign = foreign_format(path) if "not recognized" in reason else None
        what = foreign or f"cannot be read ({reason}); restore the file or leave it out"
        raise RasterError(f"{path}: {what}") from error


def _reason(error: BaseException, path: str) -> str:
    """GDAL's message, which is the first cause, without the name of the file."""
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    lines = str(cause).splitlines() or [type(cause).__name__]
    text = without_signatures(lines[0]).replace(f"'{path}' ", "").replace(f"{path}: ", "").rstrip(". ;")
    return f"{text}; read are {', '.join(DRIVERS)}" if "not recognized" in text else text


@functools.lru_cache(maxsize=16384)  # about 2 kB each
def _header(path: str, current: Stamp, remote: bool) -> Header:
    with environment(remote=remote), borrowed(path, current, remote=remote) as dataset:
        return describe_dataset(path, current, dataset)


def _placed_by(dataset: DatasetReader) -> str | None:
    """The georeference of a file without a CRS, which is not applied; None without any."""
    if dataset.gcps[0]:
        return "ground control points"
    return "RPCs" if dataset.tags(ns="RPC") else None


def _is_lossy(structure: dict[str, str]) -> bool:
    """Whether the compression is lossy: JPEG, and WebP, JPEG 2000 and LERC with lossy settings."""
    jpeg = structure.get("COMPRESSION", "").endswith("JPEG")
    return jpeg or structure.get("COMPRESSION_REVERSIBILITY") == "LOSSY" or "MAX_Z_ERROR" in structure
