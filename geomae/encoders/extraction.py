"""Extraction: embed every tile with an encoder, into a store that is published only when complete.

Batches depend only on the list of tiles and on the kind of device. So a store whose extraction was interrupted and
resumed equals one that was not.

B tiles of a batch, T tiles of a chunk, C bands, H W pixels, N = R x C patches, D width
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.embeddings.store import FINISHED, Columns, StoreSpec, StoreWriter, begin, join_columns, tile_columns
from geomae.encoders.interface import Encoder
from geomae.errors import ConfigError, GeomaeError
from geomae.files import digest
from geomae.runtime.devices import Fabric, gather_objects
from geomae.runtime.precision import working_precision
from geomae.runtime.signals import Stop
from geomae.tiles.index import TileIndex
from geomae.tiles.reader import TileReader, ahead, runs_of_one_size

# Pixels per batch: enough to keep the device busy, and few enough for its caches and memory.
BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**22, "mps": 2**20}
# Reading threads: on a CPU, one reads faster than the encoder computes, and more would compete with it.
READERS = {"cpu": 1, "cuda": 8, "mps": 2}
NAMED = 3  # number of tiles that an error message names
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class EncoderTiles:
    """The tiles of one data set, and the encoder that was loaded for it."""

    encoder: Encoder
    index: TileIndex


@dataclass(frozen=True)
class Extracted:
    """A published store, the number of its tiles that this call computed, and the seconds it took."""

    path: Path
    computed: int
    seconds: float


def extract(
    parts: Sequence[EncoderTiles],
    out: Path,
    *,
    attributes: Mapping[str, Any],
    fabric: Fabric,
    precision: str,
    patches: bool = False,
    threads: int | None = None,
    stop: Stop | None = None,
    progress: Progress = lambda what, done, total, figures: None,
) -> Extracted | None:
    """Embed the tiles of all parts, one after the other, and publish the store in `out`; resumes an earlier run.

    `attributes` are stored with it: encoder, model, catalogue, data, layer, pooling. With `patches`, the patch
    embeddings are stored too, in float16. `threads` is the number of reading threads (default READERS). The ranks of
    `fabric` take chunks in turn. Returns None where `stop` ended the work; the finished chunks are kept.

    Raises StorageError where `out` holds the store of another extraction, GeomaeError where an embedding is not
    finite, and ConfigError where the tiles cannot share one store.
    """
    begun = time.perf_counter()
    columns = join_columns([tile_columns(part.index) for part in parts])
    with torch.inference_mode(), working_precision(fabric.device, precision):
        known = {**attributes, "precision": precision, **encoder_attributes(parts)}
        features, shape = shapes(parts, patches)
        store = begin(out, StoreSpec(columns, features, shape, known)) if fabric.is_global_zero else None
        if fabric.broadcast(fabric.is_global_zero and store is None):
            return Extracted(out / FINISHED, 0, 0.0)
        work = _Work(parts, store or StoreWriter(out), fabric, columns, stop or Stop(), progress, threads, shape)
        trouble, stopped = _agree(fabric, work.run(), work.stop)
    if trouble is not None and fabric.is_global_zero:  # one rank reports it
        raise GeomaeError(trouble)
    if trouble is not None or stopped:
        return None
    if fabric.is_global_zero:
        work.store.publish()
    fabric.barrier()
    return Extracted(out / FINISHED, work.computed, time.perf_counter() - begun)


@dataclass(frozen=True)
class TileBatch:
    """Tiles of one size: their `rows` in the store and their `positions` in a part."""

    part: int
    rows: range
    positions: range


def encoder_attributes(parts: Sequence[EncoderTiles]) -> dict[str, Any]:
    """Return the digest that identifies the embeddings, and the notes of the encoders.

    Where the encoders of the data sets differ, the digest covers all of them, and each note names its data set.
    """
    digests = {part.encoder.digest for part in parts}
    names = [part.index.name for part in parts]
    whole = [[name, part.encoder.digest] for name, part in zip(names, parts, strict=True)]
    notes = dict.fromkeys(
        f"{name}: {note}" if len(parts) > 1 else note
        for name, part in zip(names, parts, strict=True)
        for note in part.encoder.notes
    )
    return {"encoder_digest": digests.pop() if len(digests) == 1 else digest(whole), "notes": list(notes)}


def shapes(parts: Sequence[EncoderTiles], patches: bool) -> tuple[int, tuple[int, int, int] | None]:
    """Return the width of a tile embedding, and with `patches` the shape (rows, columns, width) of patch embeddings.

    Both are found by embedding a tile of zeros. Raises ConfigError where they differ between the tiles.
    """
    first_with: dict[tuple[int, tuple[int, int, int] | None], str] = {}
    for part in parts:
        for size in sorted(set(part.index.tiles["size"].tolist())):
            pixels = torch.zeros(1, len(part.encoder.bands), size, size)
            grid = part.encoder.patch_grid(size, size)
            tile_BD, patches_BND = part.encoder.embed(pixels, torch.ones_like(pixels, dtype=torch.bool))
            key = (tile_BD.shape[1], (*grid, patches_BND.shape[2]) if patches else None)
            first_with.setdefault(key, f"{part.index.name}, tiles of {size} pixels")
    if len(first_with) > 1:
        (first, one), (second, other) = list(first_with.items())[:2]
        if first[0] != second[0]:
            raise ConfigError(f"{one}: {first[0]} features; {other}: {second[0]}; embed these data sets one at a time")
        raise ConfigError(
            f"{one}: {first[1]} patches and features; {other}: {second[1]}; --patches needs tiles of one size"
        )
    return next(iter(first_with))


def jobs_of(parts: Sequence[EncoderTiles], rows: range, largest: int) -> Iterator[TileBatch]:
    """Yield the batches of a chunk: consecutive tiles of one part and one size, of at most `largest` pixels."""
    first = 0
    for number, part in enumerate(parts):
        sizes = part.index.tiles["size"].to_numpy()
        here = range(max(rows.start - first, 0), min(rows.stop - first, len(sizes)))
        for run in runs_of_one_size(sizes, here, lambda size: largest // size**2):
            yield TileBatch(number, range(first + run.start, first + run.stop), run)
        first += len(sizes)


class _Work:
    """One rank's share of an extraction."""

    def __init__(
        self,
        parts: Sequence[EncoderTiles],
        store: StoreWriter,
        fabric: Fabric,
        columns: Columns,
        stop: Stop,
        progress: Progress,
        threads: int | None,
        patches: tuple[int, int, int] | None,
    ) -> None:
        self.parts, self.store, self.fabric, self.columns = parts, store, fabric, columns
        self.stop, self.progress, self.patches = stop, progress, patches
        self.threads = READERS[fabric.device.type] if threads is None else threads
        self.computed = 0
        self.readers = [TileReader(one.index, 0, [band.name for band in one.encoder.bands]) for one in parts]

    def run(self) -> str | None:
        """Compute this rank's share of the missing chunks. Returns the message of an error instead of raising it.

        A rank that fails or is stopped marks the store, so that the other ranks end too.
        """
        # The first rank looks for all: one that looks later would miss what others wrote since, and share otherwise.
        missing = self.fabric.broadcast(self.store.missing() if self.fabric.is_global_zero else [])
        self.computed = sum(len(self.store.rows(chunk)) for chunk in missing)
        rate = _Rate(self.progress, self.store.tiles, self.store.tiles - self.computed, self.fabric.world_size)
        mine = missing[self.fabric.global_rank :: self.fabric.world_size]
        jobs = [(chunk, job) for chunk in mine for job in jobs_of(self.parts, self.store.rows(chunk), self._largest())]
        read = ahead(lambda one: (one[0], one[1], *self._read(one[1])), jobs, self.threads)
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="store") as writer:
                self._embed(read, rate, writer)
        except GeomaeError as error:
            self.store.give_up()
            return str(error)
        if self.stop.signal:
            self.store.give_up()
        return None

    def _embed(self, read: Iterator[Any], rate: "_Rate", writer: ThreadPoolExecutor) -> None:
        """Embed chunk by chunk; a thread writes one chunk while the next is computed."""
        written: Future[None] | None = None
        for chunk, batches in itertools.groupby(read, key=lambda one: one[0]):
            tiles, patches = [], []
            for _, job, pixels_BCHW, valid_BCHW in batches:
                if self.stop.signal or self.store.given_up():
                    return
                tile_BD, patches_BND = self.parts[job.part].encoder.embed(*self._to_device(pixels_BCHW, valid_BCHW))
                tiles.append(tile_BD)
                if self.patches is not None:
                    patches.append(patches_BND.half())
                rate.count(len(job.rows))
            if written is not None:
                written.result()
            written = writer.submit(self._write, chunk, tiles, patches)
        if written is not None:
            written.result()

    def _write(self, chunk: int, tiles: list[Tensor], patches: list[Tensor]) -> None:
        """Write a chunk. Runs in a thread, because on a GPU the copy to the host waits for the computation."""
        embedding_TD = torch.cat(tiles).float().cpu().numpy()
        finite_T = np.isfinite(embedding_TD).all(1)
        patches_TRCD = None
        if self.patches is not None:
            patches_TRCD = torch.cat(patches).cpu().numpy().reshape(-1, *self.patches)
            finite_T &= np.isfinite(patches_TRCD).all((1, 2, 3))
        if not finite_T.all():
            self._refuse(np.flatnonzero(~finite_T) + self.store.rows(chunk).start, np.isfinite(embedding_TD).all())
        self.store.write(chunk, embedding_TD, patches_TRCD)

    def _refuse(self, rows: NDArray[np.int64], only_patches: bool) -> None:
        names = [f"{self.columns['dataset'][row]} {self.columns['tile_id'][row]}" for row in rows[:NAMED]]
        more = f" and {len(rows) - NAMED} more of this chunk" if len(rows) > NAMED else ""
        if only_patches:
            problem, remedy = "patch embeddings beyond what float16 holds", "leave --patches out"
        else:
            problem, remedy = "embeddings that are not finite", "look at these tiles, or take --precision 32"
        raise GeomaeError(f"{problem}: tile {', '.join(names)}{more}; {remedy}; nothing was published")

    def _read(self, job: TileBatch) -> tuple[Tensor, Tensor]:
        pixels_BCHW, valid_BCHW = map(torch.from_numpy, self.readers[job.part].many(job.positions))
        if self.fabric.device.type == "cuda":
            return pixels_BCHW.pin_memory(), valid_BCHW.pin_memory()
        return pixels_BCHW, valid_BCHW

    def _to_device(self, *tensors: Tensor) -> list[Tensor]:
        return [one.to(self.fabric.device, non_blocking=True) for one in tensors]

    def _largest(self) -> int:
        return BATCH_PIXELS[self.fabric.device.type]


class _Rate:
    """Reports progress, tiles per second and the remaining time."""

    def __init__(self, progress: Progress, total: int, done: int, ranks: int) -> None:
        self.progress, self.total, self.begun, self.ranks = progress, total, done, ranks
        self.tiles, self.start = 0, time.perf_counter()

    def count(self, tiles: int) -> None:
        """Count `tiles` more tiles of this rank; the other ranks are assumed to be as fast."""
        self.tiles += tiles * self.ranks
        done = min(self.begun + self.tiles, self.total)
        tiles_per_s = self.tiles / max(time.perf_counter() - self.start, 1e-9)
        left_s = round((self.total - done) / tiles_per_s)
        figures = f"{tiles_per_s:.0f} tiles/s" + (f", {left_s // 60}:{left_s % 60:02d} left" if left_s else "")
        self.progress("embedding", done, self.total, figures)


def _agree(fabric: Fabric, trouble: str | None, stop: Stop) -> tuple[str | None, bool]:
    """Return, equal on all ranks, the first error message of any rank and whether any rank was stopped."""
    every = gather_objects(fabric, (trouble, bool(stop.signal)))
    return next((text for text, _ in every if text is not None), None), any(stopped for _, stopped in every)
