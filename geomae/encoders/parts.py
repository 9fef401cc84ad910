"""What is extracted: the tiles of one or several data sets, each with the encoder that is ready for it.

B tiles of a batch, N patches, D width
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from geomae.encoders.interface import Encoder
from geomae.errors import ConfigError
from geomae.files import digest
from geomae.tiles.index import TileIndex


@dataclass(frozen=True)
class Part:
    """The tiles of one data set, and the encoder that is ready for it."""

    encoder: Encoder
    index: TileIndex


@dataclass(frozen=True)
class Job:
    """Tiles `rows` of the store, which are `positions` of a part; all of one size."""

    part: int
    rows: range
    positions: range


def of_encoders(parts: Sequence[Part]) -> dict[str, Any]:
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


def shapes(parts: Sequence[Part], patches: bool) -> tuple[int, tuple[int, int, int] | None]:
    """Features of a tile, and rows, columns and features of its patches where they are kept; by a tile of zeros."""
    found: dict[tuple[int, tuple[int, int, int] | None], str] = {}
    for part in parts:
        for size in sorted(set(part.index.tiles["size"].tolist())):
            pixels = torch.zeros(1, len(part.encoder.bands), size, size)
            grid = part.encoder.patch_grid(size, size)
            tile_BD, patches_BND = part.encoder.embed(pixels, torch.ones_like(pixels, dtype=torch.bool))
            key = (tile_BD.shape[1], (*grid, patches_BND.shape[2]) if patches else None)
            found.setdefault(key, f"{part.index.name}, tiles of {size} pixels")
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        if first[0] != second[0]:
            raise ConfigError(f"{one}: {first[0]} features; {other}: {second[0]}; embed these data sets one at a time")
        raise ConfigError(
            f"{one}: {first[1]} patches and features; {other}: {second[1]}; --patches needs tiles of one size"
        )
    return next(iter(found))


def jobs_of(parts: Sequence[Part], rows: range, largest: int) -> Iterator[Job]:
    """The batches of a chunk: tiles that follow each other, of one part and one size."""
    first = 0
    for number, part in enumerate(parts):
        sizes = part.index.tiles["size"].to_numpy()
        start, end = max(rows.start, first), min(rows.stop, first + len(sizes))
        while start < end:
            size = int(sizes[start - first])
            most = max(largest // size**2, 1)
            stop = start + 1
            while stop < min(end, start + most) and sizes[stop - first] == size:
                stop += 1
            yield Job(number, range(start, stop), range(start - first, stop - first))
            start = stop
        first += len(sizes)
