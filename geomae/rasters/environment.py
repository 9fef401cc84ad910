"""The settings of GDAL under which rasters are opened, read and written."""

import functools
import warnings

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.session import DummySession

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
SWEEP_CACHE_BYTES = 192 * 1024**2  # of decoded blocks: a few rows of blocks of a whole satellite scene


def ignore_missing_geotransform() -> None:
    """Let rasterio not warn, in calls of this package, of files without a CRS, which are ordinary here.

    A filter for the whole process, since `warnings.catch_warnings` is not safe with threads.
    """
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=r"geomae\.rasters\.")


_ignore_once = functools.cache(ignore_missing_geotransform)


def environment(*, remote: bool, **options: str) -> rasterio.Env:
    """Give the GDAL settings under which rasters are opened and read; they hold for the thread that enters them."""
    _ignore_once()
    defaults = REMOTE_OPTIONS if remote else LOCAL_OPTIONS
    # GDAL finds credentials by itself; a session of rasterio would look for boto3 each time.
    return rasterio.Env(session=DummySession(), **(defaults | options))


def sweeping() -> rasterio.Env:
    """Bound GDAL's cache of decoded blocks while scenes are read once, from one end to the other.

    The cache is one for the process and may take a twentieth of the machine's memory: that pays where tiles are read at
    random, and holds what nobody asks for again in a sweep.
    """
    return rasterio.Env(session=DummySession(), GDAL_CACHEMAX=SWEEP_CACHE_BYTES)
