"""What `geomae catalog check` writes and shows of each data set."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from geomae.catalog import Catalog, band_units
from geomae.discovery.sensor_guess import FILL_IN
from geomae.metrics.predictions import FEWEST_GROUPS, MOST_FOLDS
from geomae.runtime.console import Screen
from geomae.tiles.census import BySplit, Census, Count, label_range, warnings
from geomae.tiles.dataset_check import DatasetCheck
from geomae.tiles.index import TileIndex
from geomae.tiles.labels import PURITY
from geomae.tiles.pixel_census import ALL, PixelCensus, PixelsBySplit
from geomae.tiles.selection import grids_gsd_m
from geomae.tiles.splits import seeds_with_all_classes

SHOWN = 20  # problems, and values of a column, that are printed; audit.json has all
NO_VALUE = "(none)"
COUNTED = ("split", "label", "domain")  # columns of the index
SHOWN_ROWS = 12  # classes, and months, of the table by split
SHOWN_SPLITS = 4
WIDEST_NAME = 24  # characters


def audit_record(catalog: Catalog, check: DatasetCheck) -> dict[str, Any]:
    """Everything about one data set, as JSON."""
    record: dict[str, Any] = check.report.to_dict() if check.report else {}
    source, tiles = check.source, check.tiles
    if source is not None:
        units = band_units(catalog, source)
        bands = [band.to_dict() | {"unit": unit} for band, unit in zip(source.bands, units, strict=True)]
        record |= {"sensor": source.sensor, "unit": source.unit, "bands": bands}
    if tiles is not None:
        counts = {f"{column}s": _counts(tiles, column) for column in COUNTED}
        record |= {"tiles": len(tiles), "left_out": tiles.left_out, "gsd_m": _gsd_m(tiles), **counts}
        record |= {"census": check.census.to_dict() if check.census else None}
    return record | {"notes": _notes(catalog, check), "error": str(check.error) if check.error else None}


def summary_metrics(check: DatasetCheck) -> dict[str, float]:
    """The figures of one data set for `summary.json`."""
    metrics: dict[str, float] = {}
    if check.report is not None:
        metrics |= {"scenes": check.report.scenes, "quarantined": len(check.report.quarantined)}
        metrics |= {"suspicious": check.report.counts.get("suspicious", 0)}
    if check.tiles is not None:
        metrics |= {"tiles": len(check.tiles), "left_out": sum(check.tiles.left_out.values())}
    return metrics


def show_check(screen: Screen, catalog: Catalog, name: str, check: DatasetCheck) -> None:
    """Print the tables of one data set, and its problems as sentences."""
    if check.report is not None:
        screen.table(name, ["", "count"], [[text, str(count)] for text, count in _figures(catalog, name, check)])
    if check.source is not None and check.tiles is not None:
        _show_bands(screen, catalog, name, check.tiles)
        assert check.census is not None
        census = check.census
        _show_census(screen, name, census)
        if census.pixels is not None:
            _show_pixels(screen, name, census, census.pixels)
    problems = check.report.problems if check.report else ()
    for problem in problems[:SHOWN]:
        screen.result(f"{f'quarantined ({problem.kind})' if problem.quarantines else problem.kind}: {problem.message}")
    if len(problems) > SHOWN:
        screen.result(f"{len(problems) - SHOWN} more problems of {name} are in audit.json")
    for note in _notes(catalog, check):
        screen.warn(note)
    if check.error is not None:
        screen.result(f"{name} cannot be used: {check.error}")
    screen.result("")


def _show_bands(screen: Screen, catalog: Catalog, name: str, tiles: TileIndex) -> None:
    source = tiles.source
    rows = []
    for band, unit in zip(source.bands, band_units(catalog, source), strict=True):
        figures = (band.wavelength_um, band.fwhm_um, band.gsd_m)
        rows.append([band.name, band.common_name or "", *map(_number, figures), unit])
    title = f"bands of {name}: sensor {source.sensor}, {_grid_text(tiles)}, {_size_text(tiles)}"
    screen.table(title, ["band", "common name", "wavelength µm", "width µm", "gsd m", "unit"], rows)


def _show_census(screen: Screen, name: str, census: Census) -> None:
    """Labels and months by split, if there are any: numbers of tiles, and of the groups or blocks that hold them."""
    if not (census.labels or census.months or census.numbers):
        return
    columns = _splits_shown(census)

    def row(title: str, counts: BySplit) -> list[str]:
        return [_cut(title), str(counts[ALL].scenes), *(_cell(counts.get(split), census.unit) for split in columns)]

    rows = []
    for what, table in (("classes", census.labels), ("months", census.months)):
        rows += [row(title, counts) for title, counts in list(table.items())[:SHOWN_ROWS]]
        if len(table) > SHOWN_ROWS:
            rest = list(table.values())[SHOWN_ROWS:]
            tiles = [sum(one[split].tiles for one in rest if split in one) for split in columns]
            rows.append([f"{len(rest)} more {what}", "", *map(str, tiles)])
    if census.numbers:
        rows.append(row("{:g} to {:g}".format(*census.numbers), census.labelled))
    rows.append(row("tiles", census.total))
    dates = f", {census.first} to {census.last}" if census.first else ""
    unit = "" if census.unit == "tiles" else f" in {census.unit}"
    what = " and ".join(
        word for word, there in (("labels", census.labels or census.numbers), ("dates", census.months)) if there
    )
    screen.table(f"{what} of {name}: tiles{unit}{dates}", ["", "scenes", *columns], rows)


def _show_pixels(screen: Screen, name: str, census: Census, found: PixelCensus) -> None:
    """Labelled pixels by class and split: each class's share of the split's labelled pixels, and its groups."""
    columns = [split for split in _splits_shown(census) if split in found.total]

    def cell(counts: PixelsBySplit, split: str) -> str:
        count = counts.get(split)
        return f"{count.pixels / found.total[split].pixels:.1%} in {count.groups}" if count else "-"

    rows = [
        [_cut(title), *(cell(counts, split) for split in columns)]
        for title, counts in list(found.classes.items())[:SHOWN_ROWS]
    ]
    if len(found.classes) > SHOWN_ROWS:
        rows.append([f"{len(found.classes) - SHOWN_ROWS} more classes", *("" for _ in columns)])
    rows.append(["pixels", *(f"{found.total[split].pixels} in {found.total[split].groups}" for split in columns)])
    share = found.total[ALL].pixels / found.all_pixels
    screen.table(f"labelled pixels of {name}: {share:.1%} of all, classes in {census.unit}", ["", *columns], rows)


def _splits_shown(census: Census) -> list[str]:
    """The column of all tiles and, if there are several splits, the splits with most tiles."""
    if len(census.splits) == 1:
        return [ALL]
    splits = sorted(census.splits, key=lambda split: -census.total[split].tiles)[:SHOWN_SPLITS]
    return [ALL, *(split for split in census.splits if split in splits)]


def _cut(title: str) -> str:
    return title if len(title) <= WIDEST_NAME else f"{title[: WIDEST_NAME - 3]}..."


def _cell(count: Count | None, unit: str) -> str:
    """Number of tiles, followed by the number of groups where tiles have groups: `400 in 33`."""
    if count is None:
        return "-"
    return str(count.tiles) if unit == "tiles" else f"{count.tiles} in {count.groups}"


def _notes(catalog: Catalog, check: DatasetCheck) -> list[str]:
    """Remarks on a data set that can be used, but should be looked at or corrected."""
    if check.source is None:
        return []
    place = catalog.place(check.source.name)
    notes = [f"{place}: {remark}" for remark in (check.report.remarks if check.report else ())]
    if check.tiles is not None and check.census is not None:
        seeds = seeds_with_all_classes(catalog.entry(check.source.name).split, check.tiles.tiles)
        remarks = (*check.tiles.remarks, *warnings(check.census, FEWEST_GROUPS, MOST_FOLDS, seeds))
        notes += [f"{place}: {remark}" for remark in remarks]
    if check.source.sensor == FILL_IN:
        place = catalog.place(check.source.name, "sensor")
        notes.append(f"{place}: holds placeholders; write a sensor's name, or the wavelength and width of each band")
    return notes


def _figures(catalog: Catalog, name: str, check: DatasetCheck) -> Iterable[tuple[str, int]]:
    """The rows of the table of counts."""
    label = catalog.entries[name].label
    purity = PURITY if label is None or label.min_purity is None else label.min_purity
    without = f", no class covers {100 * purity:.3g}% of the tile (`label.min_purity`)"
    sensor = check.source.sensor if check.source is not None else "the sensor"
    if check.report is not None:
        yield "scenes", check.report.scenes
        yield "scenes quarantined", len(check.report.quarantined)
        yield "scenes suspicious", check.report.counts.get("suspicious", 0)
        if check.report.numbers:
            yield "files whose bands are read by name", len(check.report.numbers)
        if check.report.unnamed:
            stored = check.source.order if check.source is not None else None
            order = "`bands`" if stored is not None and stored.stated else "the sensor"
            what = f"files that name no band of {sensor}: read in the order of {order}; compare with the preview"
            yield what, check.report.unnamed
    if check.tiles is None:
        return
    yield "tiles", len(check.tiles)
    for reason, count in check.tiles.left_out.items():
        yield f"left out: {reason}", count
    for column in COUNTED:
        counts = _counts(check.tiles, column)
        if column == "label" and label_range(counts) is not None:
            continue  # the table of labels gives the range of numbers
        for value, count in list(counts.items())[:SHOWN]:
            unclear = column == "label" and value == NO_VALUE and check.tiles.labels is not None
            yield f"{column} {value}{without if unclear else ''}", count
        if len(counts) > SHOWN:
            yield f"{len(counts) - SHOWN} more {column}s", sum(list(counts.values())[SHOWN:])


def _counts(tiles: TileIndex, column: str) -> Mapping[str, int]:
    """Number of tiles for each value, the most frequent first; empty if no tile has a value."""
    values = tiles.tiles[column].tolist()
    counts = Counter(NO_VALUE if value is None or value != value else str(value) for value in values)
    return {} if set(counts) == {NO_VALUE} else dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _gsd_m(tiles: TileIndex) -> float | None:
    """Median ground sample distance of the grids in m; without grids, that of the catalogue."""
    measured = grids_gsd_m(tiles)
    return tiles.source.gsd_m if measured is None else measured


def _grid_text(tiles: TileIndex) -> str:
    """The pixel sizes of the grids as text: `grid of 20 x 10 m`, `grids of 10 m to 20 m`."""
    sizes: dict[float, str] = {}
    for grid in tiles.grids:
        if grid is not None and grid.gsd_m is not None:
            a, b, _, d, e, _ = grid.transform
            ratio = math.sqrt(math.hypot(a, d) / math.hypot(b, e))
            width, height = f"{grid.gsd_m * ratio:.6g}", f"{grid.gsd_m / ratio:.6g}"
            sizes[grid.gsd_m] = f"{width} m" if width == height else f"{width} x {height} m"
    texts = list(dict.fromkeys(sizes[size] for size in sorted(sizes)))
    if not texts:
        gsd_m = tiles.source.gsd_m
        return f"grid of {gsd_m:g} m" if gsd_m else "no ground sample distance known"
    return f"grid of {texts[0]}" if len(texts) == 1 else f"grids of {texts[0]} to {texts[-1]}"


def _size_text(tiles: TileIndex) -> str:
    """The sides of the tiles as text: `tiles of 16 pixels (480 m)`, from the least to the largest where they differ."""
    side_T = tiles.tiles["size"].to_numpy()
    gsd_S = [grid.gsd_m if grid and grid.gsd_m else tiles.source.gsd_m or np.nan for grid in tiles.grids]
    metres_T = side_T * np.array(gsd_S)[tiles.tiles["scene"].to_numpy()]
    pixels, metres = (
        " to ".join(dict.fromkeys(f"{end:.6g}" for end in (one.min(), one.max()))) for one in (side_T, metres_T)
    )
    return f"tiles of {pixels} pixels{f' ({metres} m)' if np.isfinite(metres_T).all() else ''}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
