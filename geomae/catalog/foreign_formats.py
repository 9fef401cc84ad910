"""Formats that geomae does not read as rasters, recognised by first bytes or name, with a remedy for each."""

from pathlib import Path, PurePosixPath

UNPACK = "unpack it, and name the rasters that were in it"
CONVERT = "write it as GeoTIFF: gdal_translate -of COG {name} {stem}.tif"
CUBE = "it is a cube: name it by `cube: {path: ...}` in place of `path`"
NETCDF = ("NetCDF", CUBE)
CLASSIC = ("classic NetCDF", "rewrite it as NetCDF 4, nccopy -k nc4 {name} {stem}-4.nc, and name that by `cube`")
HDF5 = ("HDF5", CUBE)
HDF = ("HDF", "write its sub-datasets, which `gdalinfo {name}` lists, as GeoTIFF with gdal_translate -of COG")
ZARR = ("a Zarr store", CUBE)
ERDAS = ("Erdas Imagine", CONVERT)
ENVI = ("ENVI", CONVERT)
GRIB = ("GRIB", CONVERT)
VRT = ("a VRT, which names other files", "name those files, or " + CONVERT)
ARCHIVE = ("an archive", UNPACK)
PAGE = ("a web page, as a failed download leaves it", "fetch the file again")
POINTER = ("a Git LFS pointer", "fetch its content with `git lfs pull`")
BEGINNINGS = (
    (b"CDF", CLASSIC),
    (b"\x0e\x03\x13\x01", HDF),
    (b"EHFA_HEADER_TAG", ERDAS),
    (b"GRIB", GRIB),
    (b"<VRTDataset", VRT),
    (b"PK\x03\x04", ARCHIVE),
    (b"\x1f\x8b", ARCHIVE),
    (b"7z\xbc\xaf", ARCHIVE),
    (b"<!DOCTYPE", PAGE),
    (b"<html", PAGE),
    (b"version https://git-lfs", POINTER),
)
HDF5_BEGINNING = b"\x89HDF\r\n\x1a\n"  # also of NetCDF 4, which is recognised by its suffix
SUFFIXES = (
    {".nc": NETCDF, ".nc4": NETCDF, ".cdf": NETCDF, ".zarr": ZARR, ".hdf": HDF, ".img": ERDAS, ".vrt": VRT}
    | dict.fromkeys((".h5", ".hdf5", ".he5"), HDF5)
    | dict.fromkeys((".bil", ".bip", ".bsq", ".dat"), ENVI)
    | dict.fromkeys((".grib", ".grb", ".grib2", ".grb2"), GRIB)
    | dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z"), ARCHIVE)
)


def foreign_format(path: str) -> str | None:
    """The format of a file that cannot be opened, and the remedy, for a message; None for an unknown format.

    The first bytes of a local file are read.
    """
    known = SUFFIXES.get(PurePosixPath(path).suffix.lower())
    beginning = _beginning(path)
    if not beginning.startswith(HDF5_BEGINNING):
        known = next((form for begin, form in BEGINNINGS if beginning.lstrip().startswith(begin)), known)
    elif known is not NETCDF:
        known = HDF5
    return None if known is None else _message(*known, PurePosixPath(path))


def foreign_by_name(name: str) -> str | None:
    """As `foreign_format`, from the name alone of a file or, for Zarr, of a folder."""
    known = SUFFIXES.get(PurePosixPath(name).suffix.lower())
    return None if known is None else _message(*known, PurePosixPath(name))


def _message(what: str, remedy: str, path: PurePosixPath) -> str:
    stem = f"{path.stem}-converted" if path.suffix == ".tif" else path.stem  # must not overwrite the file itself
    return f"is {what}, and is not read as a raster; {remedy.replace('{name}', path.name).replace('{stem}', stem)}"


def _beginning(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(64)
    except OSError:  # a folder, or a file on a network
        return b""
