"""Opening rasters: which formats and places are allowed, and handles that stay open per thread and process.

GDAL handles must not be shared by threads nor cross a fork. Every thread keeps its own, at most `LARGEST_CACHE`.
"""

import contextlib
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession

from geomae.errors import RasterError

DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "WEBP")  # COGs are GTiff; none of these can name other files
LARGEST_CACHE = 64  # handles per thread; a process may have 1024 files open on most systems
REMOTE_PREFIXES = ("https://", "s3://", "gs://", "/vsicurl/https://", "/vsis3/", "/vsigs/")
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
IDENTITY_GDAL = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]

LOCAL_OPTIONS = {"GDAL_NUM_THREADS": "1"}  # readers are threads already
REMOTE_OPTIONS = LOCAL_OPTIONS | {
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE",
}

Stamp = tuple[int, int] | None  # bytes and time of change of a local file, None for a remote one

# Files without a CRS are ordinary here. The filter is set once: catch_warnings is not safe with threads.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=r"geomae\.rasters\.")


class _Reader(DatasetReader):  # type: ignore[misc]  # rasterio has no types
    """A data set that does not warn about a missing geotransform, also where warnings are errors."""

    def read_transform(self) -> list[float]:
        """Give the six coefficients in GDAL's order, those of the identity when there are none."""
        try:
            return list(super().read_transform())
        except NotGeoreferencedWarning:
            return list(IDENTITY_GDAL)


def is_remote(path: str) -> bool:
    """Whether `path` is a URL or a virtual file name of GDAL instead of a file of this machine."""
    return "://" in path or path.startswith("/vsi")


def stamp(path: str, *, remote: bool) -> Stamp:
    """Give size and time of change, by which a changed file is noticed. Raises RasterError when there is no file."""
    if is_remote(path):
        _allow(path, remote=remote)
        return None
    try:
        status = Path(path).stat()
    except OSError as error:
        raise RasterError(f"{path}: cannot be opened ({error.strerror}); check the path and the permissions") from error
    return status.st_size, status.st_mtime_ns


def environment(*, remote: bool, **options: str) -> rasterio.Env:
    """Give the GDAL settings under which rasters are opened and read; they hold for the thread that enters them."""
    defaults = REMOTE_OPTIONS if remote else LOCAL_OPTIONS
    # GDAL finds credentials by itself; a session of rasterio would look for boto3 each time.
    return rasterio.Env(session=DummySession(), **(defaults | options))


@contextlib.contextmanager
def opened(path: str, *, remote: bool, **options: str) -> Iterator[DatasetReader]:
    """Open `path` for one use. Raises RasterError when it cannot be opened, or not be read within the block."""
    with environment(remote=remote, **options), _raster_errors(path):
        dataset = _open(path, remote=remote)
        try:
            yield dataset
        finally:
            dataset.close()


@contextlib.contextmanager
def borrowed(path: str, current: Stamp, *, remote: bool) -> Iterator[DatasetReader]:
    """Give the open data set of `path`, which this thread keeps for the next time; within an `environment`.

    A file whose stamp is not `current` any more is opened anew.
    Raises RasterError when it cannot be opened, or not be read within the block.
    """
    handles = _mine()
    with _raster_errors(path):
        try:
            yield handles.get(path, current, remote=remote)
        except (RasterioError, CPLE_BaseError):
            handles.drop(path)  # GDAL may remember a failure that was of the moment
            raise


class _Handles:
    """The open data sets of one thread, the least recently used first."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.entries: OrderedDict[str, tuple[Stamp, DatasetReader]] = OrderedDict()

    def get(self, path: str, current: Stamp, *, remote: bool) -> DatasetReader:
        """Give the open data set of a file in its current state."""
        entry = self.entries.get(path)
        if entry is not None and entry[0] == current:
            self.entries.move_to_end(path)
            return entry[1]
        self.drop(path)
        while len(self.entries) >= LARGEST_CACHE:
            self.entries.popitem(last=False)[1][1].close()
        dataset = _open(path, remote=remote)
        self.entries[path] = (current, dataset)
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


class _Owner:
    """Lives as long as its thread, and then closes the thread's handles."""

    def __init__(self) -> None:
        self.handles = _Handles()
        _ALL_HANDLES.add(self.handles)

    def __del__(
        self, getpid: Callable[[], int] = os.getpid, known: set[_Handles] = _ALL_HANDLES
    ) -> None:  # bound early: globals may be gone at exit
        # In a forked child the threads of the parent end at once; closing what is theirs could wait for a lock of GDAL
        # that one of them held. There `_ALL_HANDLES` keeps the handles as they are.
        if self.handles.pid == getpid():
            known.discard(self.handles)
            self.handles.close()


_LOCAL = threading.local()


def _mine() -> _Handles:
    owner: _Owner | None = getattr(_LOCAL, "owner", None)
    if owner is None or owner.handles.pid != os.getpid():
        owner = _LOCAL.owner = _Owner()
    return owner.handles


def _open(path: str, *, remote: bool) -> DatasetReader:
    if is_remote(path):
        _allow(path, remote=remote)
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):  # each side file would cost a request
            return _Reader(path, driver=list(DRIVERS))
    _check_side_mask(Path(path + ".msk"))
    # Side files (.aux.xml, .msk, world files) count, but a folder of a million files is not listed at each opening.
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):
        return _Reader(Path(path), driver=list(DRIVERS))  # a string could be taken for a URL


def _allow(path: str, *, remote: bool) -> None:
    if not remote:
        raise RasterError(f"{path}: is not a file of this machine; add `remote: true` to the data set to allow it")
    if not path.startswith(REMOTE_PREFIXES):
        raise RasterError(f"{path}: this kind of address is not read; use one of https://, s3://, gs://")


def _check_side_mask(path: Path) -> None:
    """GDAL opens a mask file beside a raster with any driver, so one that is no TIFF could name other files."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError:
        return
    if magic not in TIFF_MAGICS:
        raise RasterError(f"{path}: is taken for the mask of the raster beside it, but is no TIFF; remove or rename it")


@contextlib.contextmanager
def _raster_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (RasterioError, CPLE_BaseError, CRSError) as error:
        reason = _reason(error, path)
        raise RasterError(f"{path}: cannot be read ({reason}); restore the file or leave it out") from error


def _reason(error: BaseException, path: str) -> str:
    """GDAL's own words, which are the first cause, without the name of the file."""
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    lines = str(cause).splitlines() or [type(cause).__name__]
    text = lines[0].replace(f"'{path}' ", "").replace(f"{path}: ", "").rstrip(". ;")
    return f"{text}; read are {', '.join(DRIVERS)}" if "not recognized" in text else text
