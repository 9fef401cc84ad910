"""The embedding store: one Zarr folder, written under a temporary name and renamed when all chunks are complete.

embeddings.zarr            the finished store
embeddings.zarr.partial/   while it is being written:
    store/                 the unfinished store
    committed/             an empty file for each chunk of tiles that is completely on disk

T tiles, D features of an embedding, R x C patches of a tile
"""

import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray
import zarr
from numpy.typing import NDArray

from geomae.errors import StorageError
from geomae.files import digest, file_digest, flush, publish_dir
from geomae.tiles.index import TileIndex

Columns = Mapping[str, NDArray[Any]]

FINISHED, PARTIAL = "embeddings.zarr", "embeddings.zarr.partial"
CHUNK = 256  # tiles; a chunk is written and committed as a whole, and recomputed after a kill
COLUMN_CHUNK = 65_536
PATCH_CHUNK_BYTES = 2**24
_SETTING = threading.Lock()  # held while a setting of zarr is changed, which is that of the process
# Zarr format 2, since text in format 3 is not yet specified: zarr warns, and other readers may refuse it.
FORMAT: Final = 2
DECIDES = (
    "encoder_digest", "catalogue_digest", "data_digest", "layer", "pooling", "precision", "tiles_digest", "features",
    "patch_grid",
)  # fmt: skip
ABOUT = {
    "tile_id": "identity of the tile within its data set",
    "file": "scene that the tile is a window of",
    "row": "first row of the window, in pixels of the scene's grid",
    "col": "first column of the window, in pixels of the scene's grid",
    "size": "side of the window in pixels",
    "x": "centre of the tile in its CRS, NaN without one",
    "y": "centre of the tile in its CRS, NaN without one",
    "crs": "CRS of the scene, empty without one",
    "dataset": "data set of the catalogue",
    "split": "split of the catalogue",
    "domain": "domain",
    "group": "group of tiles that are not independent",
    "fold": "group by which folds are made",
    "label": "label, empty without one",
    "valid_share": "share of valid pixels",
}


def tile_columns(index: TileIndex) -> dict[str, NDArray[Any]]:
    """One array (T) for each name in ABOUT. Text arrays have fixed length; missing text is empty."""
    tiles, scenes = index.tiles, index.source.scenes
    numbers = tiles["scene"].tolist()
    grids = [index.grids[number] for number in numbers]
    texts = {name: tiles[name].tolist() for name in ("tile_id", "split", "domain", "group", "fold", "label")}
    texts |= {
        "file": [scenes[number].id for number in numbers],
        "crs": [grid.crs if grid is not None else None for grid in grids],
        "dataset": [index.name] * len(tiles),
    }
    columns: dict[str, NDArray[Any]] = {name: _text(values) for name, values in texts.items()}
    columns |= {name: tiles[name].to_numpy(dtype=np.int64) for name in ("row", "col", "size")}
    columns |= {name: tiles[name].to_numpy(dtype=np.float64) for name in ("x", "y")}
    columns["valid_share"] = index.survey.valid_share_T.astype(np.float64)
    return {name: columns[name] for name in ABOUT}


def join_columns(parts: Sequence[Columns]) -> dict[str, NDArray[Any]]:
    """Concatenate the columns of several indexes."""
    return {name: np.concatenate([part[name] for part in parts]) for name in ABOUT}


@dataclass(frozen=True)
class StoreSpec:
    """The contents of a store. `patches` is (rows, columns, features) of the patch embeddings, None without them."""

    columns: Columns
    features: int
    patches: tuple[int, int, int] | None
    attributes: Mapping[str, Any]

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.columns["tile_id"])

    def described(self) -> dict[str, Any]:
        """The attributes of the store; two stores are interchangeable only if those in DECIDES are equal."""
        texts = {name: values.tolist() for name, values in self.columns.items()}
        patches = list(self.patches) if self.patches else None
        own = {"tiles_digest": digest(texts), "features": self.features, "patch_grid": patches}
        return {**self.attributes, **own}


class StoreWriter:
    """Writes a store from one or several processes. Each chunk of tiles is written once, as a whole."""

    def __init__(self, out: Path) -> None:
        self._final, self._folder = out / FINISHED, out / PARTIAL
        # So that a chunk of zeros is a file too. Two threads that enter and leave would keep each other's setting.
        with _SETTING, zarr.config.set({"array.write_empty_chunks": True}):
            group = zarr.open_group(self._folder / "store", mode="r+", zarr_format=FORMAT)
            self._embedding = _array(group, "embedding")
            self._patches = _array(group, "patch_embedding") if "patch_embedding" in group else None
        self.tiles = int(self._embedding.shape[0])

    @property
    def chunks(self) -> int:
        """Number of chunks of the store."""
        return -(-self.tiles // CHUNK)

    def rows(self, chunk: int) -> range:
        """Numbers of the tiles of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.tiles))

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not committed yet."""
        done = {path.name for path in (self._folder / "committed").iterdir()}
        return [chunk for chunk in range(self.chunks) if _name(chunk) not in done]

    def write(
        self, chunk: int, embedding_TD: NDArray[np.float32], patches_TRCD: NDArray[np.float16] | None = None
    ) -> None:
        """Write and commit the tiles of a chunk. Raises StorageError where the disk is full or not writable."""
        rows = slice(self.rows(chunk).start, self.rows(chunk).stop)
        try:
            self._embedding[rows] = embedding_TD
            flush(self._folder / "store" / "embedding" / f"{chunk}.0")
            if self._patches is not None and patches_TRCD is not None:
                self._patches[rows] = patches_TRCD
                step = self._patches.chunks[0]
                for number in range(rows.start // step, -(-rows.stop // step)):
                    flush(self._folder / "store" / "patch_embedding" / f"{number}.0.0.0")
            for array in (self._folder / "store").iterdir():
                if array.is_dir():
                    flush(array)
            (self._folder / "committed" / _name(chunk)).touch()
            flush(self._folder / "committed")
        except OSError as error:
            raise StorageError(
                f"{self._folder}: cannot be written ({error.strerror or error}); free some space, then run the same "
                "command again to go on"
            ) from error

    def give_up(self) -> None:
        """Tell the other processes that write the store to stop."""
        (self._folder / "given_up").touch()

    def given_up(self) -> bool:
        """Whether one of the processes has given up."""
        return (self._folder / "given_up").exists()

    def publish(self) -> Path:
        """Rename the complete store to its final name. Raises StorageError where chunks are missing."""
        absent = len(self.missing())
        if absent:
            raise StorageError(f"{self._folder}: {absent} of {self.chunks} chunks are missing; extract them first")
        (self._folder / "store").rename(self._final)
        flush(self._final.parent)
        shutil.rmtree(self._folder)
        return self._final


def begin(out: Path, spec: StoreSpec) -> StoreWriter | None:
    """Create a store in `out`, or resume an unfinished one; None where it is already finished.

    Raises StorageError where `out` holds a store of another encoder, other tiles or options; the message says what
    differs.
    """
    partial = out / PARTIAL
    described = spec.described()
    if (out / FINISHED).exists():
        _check_same(out / FINISHED, open_embeddings(out).attrs, described)
        shutil.rmtree(partial, ignore_errors=True)  # left by a kill between the last two steps of `publish`
        return None
    if partial.exists():
        _check_same(partial, zarr.open_group(partial / "store", mode="r").attrs.asdict(), described)
        (partial / "given_up").unlink(missing_ok=True)
    else:
        with publish_dir(partial) as folder:
            (folder / "committed").mkdir()
            _create(folder / "store", spec, described)
    return StoreWriter(out)


def open_embeddings(folder: str | Path) -> xarray.Dataset:
    """Open the embeddings in the folder of a command, or a store itself; values are read lazily.

    The data set has `embedding` (tile, feature) in float32 and, where it was requested, `patch_embedding` (tile, y, x,
    feature) in float16; its last dimension is `patch_feature` where its length differs. Coordinates are those in
    `ABOUT`, one value per tile; attributes name the encoder, the model and the data. Raises StorageError where there is
    no store, where it is unfinished, and where chunks are missing.
    """
    folder = Path(folder)
    store = folder if (folder / ".zgroup").is_file() else folder / FINISHED
    inside = PARTIAL in (folder.name, folder.parent.name)
    if inside or not (store / ".zgroup").is_file():
        if inside or (folder / PARTIAL).exists():
            raise StorageError(
                f"{folder}: the embeddings are unfinished; run the command that began them again, with the same --out"
            )
        raise StorageError(f"{folder}: holds no embeddings ({FINISHED}); `geomae embed --out {folder}` makes them")
    dataset: xarray.Dataset = xarray.open_zarr(store, chunks=None, consolidated=True, zarr_format=FORMAT)
    for name in ("embedding", "patch_embedding"):
        if name in dataset:
            wanted = -(-dataset.sizes["tile"] // dataset[name].encoding["chunks"][0])
            there = sum(not entry.name.startswith(".") for entry in os.scandir(store / name))
            if there < wanted:
                raise StorageError(
                    f"{store}: {wanted - there} of {wanted} chunks of {name} are missing; extract the embeddings again"
                )
    return dataset


def store_digest(store: Path) -> str:
    """Hex digest (32 characters) of the files of a finished store."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return digest([[path.relative_to(store).as_posix(), file_digest(path)] for path in files])


def batches(
    dataset: xarray.Dataset, rows: int = CHUNK, variable: str = "embedding"
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Iterate over a store in steps of about `rows` tiles, in whole chunks: the slice of tiles, and their values."""
    step = max(rows // CHUNK, 1) * CHUNK
    for start in range(0, dataset.sizes["tile"], step):
        part = slice(start, min(start + step, dataset.sizes["tile"]))
        yield part, dataset[variable].isel(tile=part).to_numpy()


def _create(path: Path, spec: StoreSpec, described: Mapping[str, Any]) -> None:
    """Create the store with its columns; the embeddings are written later, chunk by chunk."""
    group = zarr.create_group(path, zarr_format=FORMAT, attributes={**described, "coordinates": " ".join(spec.columns)})
    for name, values in spec.columns.items():
        chunks = (min(len(values), COLUMN_CHUNK),)
        attributes: dict[str, Any] = {"_ARRAY_DIMENSIONS": ["tile"], "long_name": ABOUT[name]}
        column = group.create_array(
            name, shape=values.shape, chunks=chunks, dtype=values.dtype, fill_value=None, attributes=attributes
        )
        column[:] = values
    _create_vectors(group, "embedding", (spec.tiles, spec.features), CHUNK, "float32", ["tile", "feature"])
    if spec.patches is not None:
        step = CHUNK
        while step > 1 and step * 2 * int(np.prod(spec.patches)) > PATCH_CHUNK_BYTES:
            step //= 2
        # Pooling may make tile embeddings longer than patch embeddings: `mean-std` doubles the length.
        feature = "feature" if spec.patches[-1] == spec.features else "patch_feature"
        dimensions = ["tile", "y", "x", feature]
        _create_vectors(group, "patch_embedding", (spec.tiles, *spec.patches), step, "float16", dimensions)
    zarr.consolidate_metadata(path, zarr_format=FORMAT)
    listing = path / ".zmetadata"
    metadata = json.loads(listing.read_text(encoding="utf-8"))  # sorted below, since Zarr's order varies
    listing.write_text(json.dumps(metadata, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _create_vectors(
    group: zarr.Group, name: str, shape: tuple[int, ...], step: int, dtype: str, dimensions: list[str]
) -> None:
    """Create an array without compression, since floating-point embeddings hardly compress."""
    group.create_array(
        name,
        shape=shape,
        chunks=(step, *shape[1:]),
        dtype=dtype,
        fill_value=None,
        compressors=None,
        attributes={"_ARRAY_DIMENSIONS": dimensions},
    )


def _check_same(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [name for name in DECIDES if stored.get(name) != wanted.get(name)]
    if different:
        shown = "; ".join(f"{name} ({stored.get(name)} there, {wanted.get(name)} here)" for name in different)
        raise StorageError(f"{path}: is from another extraction: {shown}; choose another --out, or remove it")


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _name(chunk: int) -> str:
    return f"{chunk:08d}"


def _text(values: Sequence[Any]) -> NDArray[np.str_]:
    return np.array(["" if value is None or value != value else str(value) for value in values], dtype=np.str_)
