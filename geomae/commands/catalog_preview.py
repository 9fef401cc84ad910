"""`geomae catalog preview`: a contact sheet of every data set."""

from collections.abc import Sequence
from pathlib import Path

from geomae.commands.options import (
    CatalogFile,
    CommonOptions,
    DatasetList,
    Out,
    Quiet,
    exit_with,
    new_output_folder,
    next_command,
    write_catalog_summary,
)

TILES = 24  # per sheet


def preview(catalog: CatalogFile = None, dataset: DatasetList = None, out: Out = None, quiet: Quiet = False) -> None:
    """Draw preview.png: tiles spread over a data set, in true and false colour, with the points or polygons of labels.

    Several data sets give one preview_NAME.png each; preview.png is the first. With polygons, only tiles that touch
    one are drawn.
    """
    exit_with(lambda: run(CommonOptions(catalog=catalog, out=out, quiet=quiet), dataset or ()))


def run(common: CommonOptions, datasets: Sequence[str]) -> int:
    """Draw tiles spread over each data set; every call draws the same tiles.

    Writes `preview.png` to `out`. Several selectors give one sheet `preview_<selector>.png` each, and `preview.png` is
    a copy of the first. Returns the exit code.
    """
    from geomae.catalog import resolve_selectors

    folder = new_output_folder("catalog-preview", common.out)
    catalog = common.open_catalog()
    selectors = resolve_selectors(catalog, datasets, None)

    from geomae.files import file_names, publish_file
    from geomae.rasters import Window, read
    from geomae.reports.figures import contact_sheet
    from geomae.runtime.console import Screen
    from geomae.tiles.marks import tile_marks, with_marks
    from geomae.tiles.selection import build_indexes, evenly_spread

    screen = Screen(not common.quiet)
    indexes = build_indexes(catalog, selectors, screen.step, screen.warn)
    screen.close()
    chosen = {str(one): indexes[one.dataset].select(one) for one in selectors}

    first = folder / "preview.png"
    sheets: list[Path] = []
    for (name, index), stem in zip(chosen.items(), file_names(chosen), strict=True):
        tiles, source = [], index.source
        candidates = with_marks(index)
        positions = candidates[evenly_spread(len(candidates), TILES)]
        drawn = index.tiles[["tile_id", "label", "scene", "row", "col", "size"]].iloc[positions]
        for tile_id, label, scene, row, col, size in drawn.itertuples(index=False):
            pixels_CHW, valid_CHW = read(source, source.scenes[scene], Window(row, col, size, size))
            tiles.append((_tile_title(tile_id, label), pixels_CHW, valid_CHW))
        sheet = first if len(chosen) == 1 else folder / f"preview_{stem}.png"
        what = f"{name}: {len(tiles)} of {len(index)} tiles of {source.sensor}"
        marks = [tile_marks(index, int(position)) for position in positions]
        contact_sheet(sheet, tiles, source.bands, source.unit, what, marks)
        sheets.append(sheet)
        screen.result(f"{sheet}: {len(tiles)} of {len(index)} tiles")
    if first not in sheets:
        with publish_file(first) as temporary:
            temporary.write_bytes(sheets[0].read_bytes())
    metrics = {f"{name}/tiles": len(index) for name, index in chosen.items()}
    write_catalog_summary(folder, "catalog preview", catalog, selectors, metrics)
    screen.say(next_command("catalog preview", common, dataset=selectors[0]))
    return 0


def _tile_title(tile_id: str, label: object) -> str:
    return tile_id if label is None or str(label) in tile_id else f"{label} {tile_id}"
