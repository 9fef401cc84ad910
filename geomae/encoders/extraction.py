"""Extraction: every tile through an encoder, into a store that is whole or absent.

Batches are fixed: they depend on the list of tiles and on the kind of device, never on what was done before, so that
a store that was interrupted is equal to one that was not.

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

# Pixels of a batch: enough to keep the device busy, and few enough for its caches and its memory.
BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**22, "mps": 2**20}
# Threads that read: on a CPU one keeps up by far, and more would take turns with the computation for nothing.
READERS = {"cpu": 1, "cuda": 8, "mps": 2}
NAMED = 3  # tiles that an error names
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class EncoderTiles:
    """The tiles of one data set, and the encoder that is ready for it."""

    encoder: Encoder
    index: TileIndex


@dataclass(frozen=True)
class Extracted:
    """A published store, how many of its tiles were computed for it just now, and in how many seconds."""

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
    """Embed the tiles of all parts, one after the other, and publish the store in `out`; go on where a run ended.

    `attributes` names what the caller knows: encoder, model, catalogue, data, layer, pooling. `patches` keeps the patch
    embeddings too, in float16. `threads` read ahead (default READERS). Every rank of `fabric` takes chunks in turn.
    Gives None where `stop` ended the work: what was done is kept.

    Raises StorageError where the store of another extraction is in the way, GeomaeError where an embedding is not
    finite, ConfigError where the tiles cannot share a store.
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
    if trouble is not None and fabric.is_global_zero:  # said once
        raise GeomaeError(trouble)
    if trouble is not None or stopped:
        return None
    if fabric.is_global_zero:
        work.store.publish()
    fabric.barrier()
    return Extracted(out / FINISHED, work.computed, time.perf_counter() - begun)


@dataclass(frozen=True)
class TileBatch:
    """Tiles `rows` of the store, which are `positions` of a part; all of one size."""

    part: int
    rows: range
    positions: range


def encoder_attributes(parts: Sequence[EncoderTiles]) -> dict[str, Any]:
    """What decides the embeddings, and how the encoders say they work; both of each data set where they differ."""
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
    """Features of a tile, and rows, columns and features of its patches where they are kept; by a tile of zeros."""
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
    """The batches of a chunk: tiles that follow each other, of one part and one size."""
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
        """Compute the missing chunks that fall to this rank; gives what went wrong instead of raising it.

        A rank that cannot go on, or that was stopped, lets the others end too.
        """
        missing = self.store.missing()
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
        """Chunk by chunk; one is written while the next is computed."""
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
        """Runs in a thread: on a GPU it is here that the computation is waited for."""
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
    """Says how far the work is, how fast it goes and how long it will still take."""

    def __init__(self, progress: Progress, total: int, done: int, ranks: int) -> None:
        self.progress, self.total, self.begun, self.ranks = progress, total, done, ranks
        self.tiles, self.start = 0, time.perf_counter()

    def count(self, tiles: int) -> None:
        """Note that this rank has gone through `tiles` more tiles; the others are taken to be as fast."""
        self.tiles += tiles * self.ranks
        done = min(self.begun + self.tiles, self.total)
        tiles_per_s = self.tiles / max(time.perf_counter() - self.start, 1e-9)
        left_s = round((self.total - done) / tiles_per_s)
        figures = f"{tiles_per_s:.0f} tiles/s" + (f", {left_s // 60}:{left_s % 60:02d} left" if left_s else "")
        self.progress("embedding", done, self.total, figures)


def _agree(fabric: Fabric, trouble: str | None, stop: Stop) -> tuple[str | None, bool]:
    """The first trouble of any rank, and whether any was stopped: all ranks learn the same."""
    every = gather_objects(fabric, (trouble, bool(stop.signal)))
    return next((text for text, _ in every if text is not None), None), any(stopped for _, stopped in every)
