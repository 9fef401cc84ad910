"""`geomae catalog preview`: a contact sheet of every data set."""

from pathlib import Path

from geomae.commands.catalog_tiles import resolve, select_all
from geomae.files import publish_file
from geomae.reports.figures import contact_sheet
from geomae.runtime.console import Screen
from geomae.tiles.batches import TileReader
from geomae.tiles.index import TileIndex
from geomae.tiles.selection import evenly_spread

TILES = 24  # of a sheet


def run(catalog: Path | None, datasets: tuple[str, ...], out: Path | None, *, quiet: bool) -> int:
    """Draw tiles spread over each data set; the same ones each time.

    `out` gets `preview.png`; where several selectors are asked for, a sheet `preview_<selector>.png` of each, and
    `preview.png` is the first of them. Returns the exit code.
    """
    screen = Screen(not quiet)
    request = resolve("catalog preview", catalog, datasets, out)
    chosen = select_all(request, screen)
    first = request.out / "preview.png"
    paths: list[Path] = []
    for selector, index in chosen:
        path = first if len(chosen) == 1 else _free(request.out / f"preview_{_file_name(str(selector))}.png", paths)
        positions = evenly_spread(len(index), TILES)
        _draw(path, str(selector), index, positions)
        paths.append(path)
        screen.result(f"{path}: {len(positions)} of {len(index)} tiles")
    if first not in paths:
        with publish_file(first) as temporary:
            temporary.write_bytes(paths[0].read_bytes())
    request.write_summary({f"{selector}/tiles": len(index) for selector, index in chosen})
    return 0


def _draw(path: Path, name: str, index: TileIndex, positions: list[int]) -> None:
    reader = TileReader(index)
    labels = index.tiles["label"].tolist()
    tiles = []
    for position in positions:
        pixels_CHW, valid_CHW = reader.read(position)
        tile_id, label = reader.tile_ids[position], labels[position]
        title = tile_id if label is None or str(label) in tile_id else f"{label} {tile_id}"
        tiles.append((title, pixels_CHW, valid_CHW))
    source = index.source
    title = f"{name}: {len(positions)} of {len(index)} tiles of {source.sensor}"
    contact_sheet(path, tiles, source.bands, source.unit, title)


def _file_name(name: str) -> str:
    """A selector as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name).strip("_")


def _free(path: Path, taken: list[Path]) -> Path:
    """`path`, with a number where another selector has the same name as a file."""
    number, free = 1, path
    while free in taken:
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
