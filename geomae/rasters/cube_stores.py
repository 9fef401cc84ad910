"""Stores of cubes: checked before they are read, opened once per process, and reopened after they have changed.

A store must not refer to data outside of it: links in a Zarr store, and external links, virtual data sets and raw files
of HDF5 are refused, and so are codecs that can run code. A store that is still being written is refused, too: one with
files named as unfinished, or with metadata that are truncated or inconsistent. Missing chunks are allowed: by the
specification of Zarr they hold the fill value, and writers omit chunks that consist of it. Values are read as stored
(`mask_and_scale=False`); `reading` scales and masks them as it does for rasters.
"""

import hashlib
import json
import math
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomae.catalog.schema_cubes import FILE_SUFFIXES
from geomae.errors import RasterError
from geomae.rasters.headers import Stamp

if TYPE_CHECKING:
    import xarray as xr

LARGEST_CACHE = 8  # stores that are open at once in a process
HDF5_BEGINNING = b"\x89HDF\r\n\x1a\n"
CLASSIC_BEGINNING = b"CDF"
ROOTS = ("zarr.json", ".zgroup")
DESCRIPTIONS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
# Allowed codecs of numcodecs and Zarr 3. Pickle can run code, json2 and msgpack2 create objects.
CODECS = frozenset(
    (
        *("bytes", "blosc", "zstd", "gzip", "zlib", "lz4", "lzma", "bz2", "crc32", "crc32c", "adler32", "fletcher32"),
        *("jenkins_lookup3", "transpose", "sharding_indexed", "shuffle", "delta", "bitround", "quantize", "packbits"),
        *("fixedscaleoffset", "astype", "pcodec", "zfpy", "vlen-utf8", "vlen-bytes"),
    )
)
_CHECKED: dict[str, str] = {}  # digest of the files of each store, as of the last `check_store`


def check_store(store: str) -> str | None:
    """Check that a local store is safe and complete, and remember its state for `store_stamp`.

    Returns a description of missing chunks, for a warning. Raises RasterError for links, codecs that can run code,
    classic NetCDF, and a store that is being written.
    """
    if Path(store).is_dir():
        return _check_zarr(Path(store))
    _check_hdf5(store)
    return None


def store_stamp(store: str) -> Stamp:
    """The state of a local store: size and modification time of its root, and the digest of the last check.

    Raises RasterError when there is no store.
    """
    places = [Path(store) / name for name in ROOTS] if Path(store).is_dir() else [Path(store)]
    for place in places:
        try:
            status = place.stat()
        except OSError:
            continue
        return status.st_size, status.st_mtime_ns, _CHECKED.get(store, "")
    raise RasterError(f"{store}: is no Zarr store, NetCDF4 or HDF5 file that can be opened; check the path")


def open_store(store: str, current: Stamp) -> "xr.Dataset":
    """The arrays of a store, as stored and read lazily; the store stays open.

    Safe to call from several threads. Raises RasterError when it cannot be opened.
    """
    with _OPEN.lock:
        known = _OPEN.entries.get((store, current))
        if known is None:
            for stale in [key for key in _OPEN.entries if key[0] == store]:
                _OPEN.entries.pop(stale).close()
            while len(_OPEN.entries) >= LARGEST_CACHE:
                _OPEN.entries.popitem(last=False)[1].close()
            known = _OPEN.entries[store, current] = _open(store)
        _OPEN.entries.move_to_end((store, current))
        return known


class _Open:
    """The open stores of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: OrderedDict[tuple[str, Stamp], xr.Dataset] = OrderedDict()


_OPEN = _Open()
_OF_PARENTS: list[_Open] = []  # never closed here, because the parent still uses them


def _after_fork() -> None:
    global _OPEN
    _OF_PARENTS.append(_OPEN)
    _OPEN = _Open()


os.register_at_fork(after_in_child=_after_fork)


def _open(store: str) -> "xr.Dataset":
    import xarray as xr

    raw: dict[str, Any] = {"mask_and_scale": False, "decode_times": False, "decode_coords": False}
    engine: dict[str, Any]
    remote = "://" in store
    try:
        if remote or Path(store).is_dir():
            engine = {"engine": "zarr", "consolidated": True if remote else _consolidated(Path(store)) is not None}
            _check_codecs(store, consolidated=engine["consolidated"])
        else:
            # One lock per file: another thread could hold a shared one at a fork.
            engine = {"engine": "h5netcdf", "phony_dims": "access", "lock": threading.Lock()}
        made: xr.Dataset = xr.open_dataset(store, **engine, **raw, cache=False, create_default_indexes=False)
        return made
    except RasterError:
        raise
    except Exception as error:  # backends raise various errors
        remedy = "restore it or leave it out"
        if remote and Path(store).suffix.lower() in FILE_SUFFIXES:
            remedy = "of remote cubes only Zarr stores are read: download this file"
        elif remote:
            remedy = "check the address; a remote Zarr store needs consolidated metadata (zarr.consolidate_metadata)"
        raise RasterError(f"{store}: cannot be opened as a cube ({reason(error)}); {remedy}") from error


def reason(error: Exception) -> str:
    """The first line of an error message."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")[:200] or type(error).__name__


def _check_zarr(root: Path) -> str | None:
    if not any((root / name).is_file() for name in ROOTS):
        if (root / ".zarray").is_file():
            raise RasterError(f"{root}: is a single array without dimensions; name the group that holds it")
        raise RasterError(f"{root}: is no Zarr store, or one that is being written: it has no zarr.json or .zgroup")
    state = hashlib.sha256()
    parts: Counter[str] = Counter()  # files of chunks below each folder
    described: dict[str, dict[str, Any]] = {}
    for path, status in _files(root):
        state.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        folder, _, name = path.rpartition("/")
        if name in DESCRIPTIONS:
            if name in ("zarr.json", ".zarray"):
                described[path] = _json(root / path)
        else:
            parts[folder] += 1
    arrays = {path.rpartition("/")[0]: one for path, one in described.items() if "shape" in one}
    consolidated = _consolidated(root)
    for name, one in (*arrays.items(), *(consolidated or {}).items()):
        _check_array(str(root), name, one)
    _CHECKED[str(root)] = state.hexdigest()
    if consolidated is None:
        return _absent_chunks(root, arrays, parts)
    _check_consolidated(root, arrays, consolidated)
    return None


def _files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Paths below a store, in order, with their state. Raises RasterError for links and for unfinished files."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        for entry in sorted(os.scandir(root / folder), key=lambda one: one.name):
            path = f"{folder}/{entry.name}".lstrip("/")
            if entry.is_symlink():
                raise RasterError(f"{root}: {path} in it is a link, which is not followed; copy its target")
            if entry.name.endswith(".partial"):
                raise RasterError(f"{root}: is being written or incomplete ({path}); wait until it is whole")
            if entry.is_dir():
                waiting.append(path)
            else:
                yield path, entry.stat()


def _check_consolidated(
    root: Path, arrays: Mapping[str, Mapping[str, Any]], consolidated: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise RasterError where consolidated metadata, which writers write last, differ from the arrays."""
    known = {name: one["shape"] for name, one in consolidated.items() if "shape" in one}
    actual = {name: one["shape"] for name, one in arrays.items()}
    if known != actual:
        name = next(name for name in sorted({*known, *actual}) if known.get(name) != actual.get(name))
        raise RasterError(
            f"{root}: its consolidated metadata do not match its array {name!r}; it is being written, or writing was "
            "interrupted: wait, or run zarr.consolidate_metadata on it when it is complete"
        )


def _absent_chunks(root: Path, arrays: Mapping[str, Mapping[str, Any]], parts: Mapping[str, int]) -> str | None:
    """A description of chunks (or shards) without a file, for a store without consolidated metadata."""
    sparse = []
    for name, one in sorted(arrays.items()):
        stored = one.get("chunks") or one.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")
        if not stored or len(one["shape"]) < 2:
            continue
        expected = math.prod(-(-side // part) for side, part in zip(one["shape"], stored, strict=True))
        there = sum(count for folder, count in parts.items() if folder == name or folder.startswith(f"{name}/"))
        if there < expected:
            value = one.get("fill_value")
            sparse.append(
                f"{expected - there} of {expected} chunks of {name!r} (read as {0 if value is None else value})"
            )
    if not sparse:
        return None
    more = f", and some of {len(sparse) - 1} more arrays" if sparse[1:] else ""
    return f"{root}: {sparse[0]}{more}"


def _consolidated(root: Path) -> dict[str, dict[str, Any]] | None:
    """The consolidated metadata of a store, by the name of the array or group; None without them."""
    if (root / "zarr.json").is_file():
        inline = _json(root / "zarr.json").get("consolidated_metadata") or {}
        found = inline.get("metadata")
        return found if isinstance(found, dict) else None
    if not (root / ".zmetadata").is_file():
        return None
    known = _json(root / ".zmetadata").get("metadata", {})
    return {path.removesuffix("/.zarray"): one for path, one in known.items() if path.endswith("/.zarray")}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RasterError(f"{path}: cannot be read ({reason(error)}); the store is damaged or being written") from error
    if not isinstance(value, dict):
        raise RasterError(f"{path}: does not describe an array or group; restore the store")
    return value


def _check_codecs(store: str, *, consolidated: bool) -> None:
    """Raise RasterError for arrays with a codec that is not on the list of allowed ones."""
    import zarr

    group = zarr.open_group(store, mode="r", use_consolidated=consolidated)
    for name, array in group.arrays():
        _check_array(store, name, array.metadata.to_dict())


def _check_array(store: str, name: str, described: Any) -> None:
    for codec in _codec_names(described):
        if codec.removeprefix("numcodecs.") not in CODECS:
            raise RasterError(
                f"{store}: array {name!r} is stored with the codec {codec!r}, which is refused (it could run code); "
                "write it with another"
            )


def _codec_names(described: Any) -> Iterator[str]:
    """Names of the codecs in the metadata of an array, including nested ones."""
    for key in ("filters", "compressor", "codecs", "index_codecs"):
        found = described.get(key) or ()
        for codec in [found] if isinstance(found, dict) else found:
            values = codec if isinstance(codec, dict) else codec.get_config()
            yield str(values.get("name") or values.get("id"))
            yield from _codec_names(values.get("configuration") or {})


def _check_hdf5(store: str) -> None:
    try:
        with Path(store).open("rb") as file:
            beginning = file.read(len(HDF5_BEGINNING))
    except OSError as error:
        raise RasterError(f"{store}: cannot be opened ({error.strerror}); check the path and permissions") from error
    if beginning.startswith(CLASSIC_BEGINNING):
        name = Path(store).name
        raise RasterError(f"{store}: is classic NetCDF; rewrite it as NetCDF 4: nccopy -k nc4 {name} new.nc")
    if beginning != HDF5_BEGINNING:
        raise RasterError(f"{store}: is neither a Zarr store nor NetCDF4 or HDF5; name such a cube, or use `path`")
    import h5py  # type: ignore[import-untyped]

    outside: list[str] = []
    opened: Any = None

    def look(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            outside.append(f"{name} is an external link")
        elif isinstance(link, h5py.HardLink):
            found = opened[name]
            if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
                outside.append(f"{name} is stored in other files")

    try:
        with h5py.File(store, "r") as opened:
            opened.visititems_links(look)
    except OSError as error:
        remedy = "it is damaged, or being written: wait or restore it"
        raise RasterError(f"{store}: cannot be opened as HDF5 ({reason(error)}); {remedy}") from error
    if outside:
        raise RasterError(f"{store}: {outside[0]}, which is not followed; write the data into the file itself")
