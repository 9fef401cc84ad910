"""The settings of GDAL under which rasters are opened, read and written."""

import contextlib
import functools
import warnings

import rasterio
from rasterio.env import getenv, hasenv
from rasterio.errors import NotGeoreferencedWarning
from rasterio.session import DummySession

LOCAL_OPTIONS = {"GDAL_NUM_THREADS": "1"}  # several threads read anyway
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
SWEEP_CACHE_BYTES = 192 * 1024**2  # decoded blocks: a few rows of blocks of a whole satellite scene


def ignore_missing_geotransform() -> None:
    """Suppress rasterio's warnings on files without georeference, which are common here, in this package.

    The filter is for the whole process, because `warnings.catch_warnings` is not thread-safe.
    """
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=r"geomae\.rasters\.")


_ignore_once = functools.cache(ignore_missing_geotransform)


def environment(*, remote: bool, **options: str) -> contextlib.AbstractContextManager[object]:
    """The GDAL settings for opening and reading rasters; they hold for the thread that enters them."""
    _ignore_once()
    return settings(**((REMOTE_OPTIONS if remote else LOCAL_OPTIONS) | options))


def settings(**options: str) -> contextlib.AbstractContextManager[object]:
    """These GDAL options, within what the thread has entered already; where it has them all, nothing is entered.

    Entering and leaving takes as long as decoding a small file.
    """
    if hasenv() and options.items() <= getenv().items():
        return contextlib.nullcontext()
    # GDAL finds credentials itself; a session of rasterio would try to import boto3 each time.
    entered: contextlib.AbstractContextManager[object] = rasterio.Env(session=DummySession(), **options)
    return entered


def sweeping() -> rasterio.Env:
    """Limit GDAL's cache of decoded blocks while scenes are read once, from one end to the other.

    The cache is shared by the process and may take a twentieth of the machine's memory. This helps where tiles are read
    in random order, but not in a sweep, which needs no block twice.
    """
    return rasterio.Env(session=DummySession(), GDAL_CACHEMAX=SWEEP_CACHE_BYTES)
