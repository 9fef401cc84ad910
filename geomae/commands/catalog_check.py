"""`geomae catalog check`: is the catalogue valid, are its files sound, and which tiles come of it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geomae.catalog import Catalog, Selector, Source
from geomae.commands.catalog_tiles import band_units, resolve
from geomae.discovery.sensor_guess import FILL_IN
from geomae.errors import CatalogError, GeomaeError
from geomae.files import write_json
from geomae.rasters import AuditReport, audit
from geomae.runtime.console import Screen
from geomae.tiles.index import TileIndex, build_index
from geomae.tiles.sources import open_source

READERS = 2  # threads
SHOWN = 20  # problems, and values of a column, that are printed; audit.json has all


@dataclass
class _Findings:
    """What was found out about one data set before the first error."""

    source: Source | None = None
    report: AuditReport | None = None
    whole: TileIndex | None = None
    tiles: TileIndex | None = None
    error: GeomaeError | None = None
    notes: list[str] = field(default_factory=list)


def run(catalog: Path | None, datasets: tuple[str, ...], out: Path | None, *, quiet: bool) -> int:
    """Check the data sets that are asked for, else all; `audit.json` and `summary.json` are left in `out`.

    Scenes that the audit quarantines are reported and no error. Raises the first error of a data set that cannot be
    used, after the others were checked; nothing is written where none could be looked into.
    """
    screen = Screen(not quiet)
    request = resolve("catalog check", catalog, datasets, out, every=True)
    indexes: dict[str, _Findings] = {}
    checked: dict[str, _Findings] = {}
    for selector in request.selectors:
        whole = indexes.setdefault(selector.dataset, _Findings())
        if whole.source is None and whole.error is None:
            _look_into(request.catalog, selector.dataset, whole, screen)
        checked[str(selector)] = _selected(whole, selector)
    failed = {name: one.error for name, one in checked.items() if one.error is not None}
    if failed and all(one.report is None for one in checked.values()):
        raise next(iter(failed.values()))
    records = {name: _record(request.catalog, one) for name, one in checked.items()}
    write_json(request.out / "audit.json", records)
    metrics = {name: _metrics(one) for name, one in checked.items()}
    request.write_summary({f"{name}/{key}": value for name, own in metrics.items() for key, value in own.items()})
    for name, one in checked.items():
        _tell(screen, request.catalog, name, one)
    screen.result(f"written to {request.out}")
    if failed:
        share = f"{len(failed)} of {len(checked)} data sets cannot be used: {', '.join(failed)}"
        raise CatalogError(f"{next(iter(failed.values()))} ({share}; see {request.out / 'audit.json'})")
    return 0


def _look_into(catalog: Catalog, name: str, found: _Findings, screen: Screen) -> None:
    """Resolve, audit and index a data set, as far as that goes."""
    try:
        found.source = open_source(catalog, name)
        if found.source.sensor == FILL_IN:
            place = catalog.place(name, "sensor")
            remedy = "write a sensor's name, or the wavelength and width of each band"
            found.notes.append(f"{place}: holds placeholders; {remedy}")
        scenes = len(found.source.scenes)
        screen.step(f"auditing {name}", 0, scenes)
        found.report = audit(found.source, workers=READERS)
        screen.step(f"auditing {name}", scenes, scenes)

        def progress(what: str, done: int, total: int) -> None:
            screen.step(f"{what} of {name}", done, total)

        found.whole = build_index(catalog, name, threads=READERS, progress=progress)
    except GeomaeError as error:
        found.error = error
    finally:
        screen.close()


def _selected(whole: _Findings, selector: Selector) -> _Findings:
    """The findings about the tiles that a selector means."""
    found = _Findings(whole.source, whole.report, whole.whole, None, whole.error, whole.notes)
    if whole.whole is not None:
        try:
            found.tiles = whole.whole.select(selector)
        except GeomaeError as error:
            found.error = error
    return found


def _record(catalog: Catalog, found: _Findings) -> dict[str, Any]:
    """Everything about one data set, as JSON."""
    record: dict[str, Any] = found.report.to_dict() if found.report else {}
    if found.source is not None:
        units = band_units(catalog, found.source)
        bands = [band.to_dict() | {"unit": unit} for band, unit in zip(found.source.bands, units, strict=True)]
        record |= {"sensor": found.source.sensor, "unit": found.source.unit, "bands": bands}
    if found.tiles is not None:
        counts = {f"{column}s": _counts(found.tiles, column) for column in ("split", "label", "domain")}
        record |= {"tiles": len(found.tiles), "left_out": found.tiles.left_out, "gsd_m": _gsd_m(found.tiles), **counts}
    return record | {"notes": found.notes, "error": str(found.error) if found.error else None}


def _metrics(found: _Findings) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if found.report is not None:
        metrics |= {"scenes": found.report.scenes, "quarantined": len(found.report.quarantined)}
        metrics |= {"suspicious": found.report.counts.get("suspicious", 0)}
    if found.tiles is not None:
        metrics |= {"tiles": len(found.tiles), "left_out": sum(found.tiles.left_out.values())}
    return metrics


def _tell(screen: Screen, catalog: Catalog, name: str, found: _Findings) -> None:
    """The tables of one data set, and its problems in words."""
    if found.report is not None:
        screen.table(name, ["", "count"], [[text, str(count)] for text, count in _figures(found)])
    if found.source is not None and found.tiles is not None:
        gsd_m = _gsd_m(found.tiles)
        rows = []
        for band, unit in zip(found.source.bands, band_units(catalog, found.source), strict=True):
            figures = (band.wavelength_um, band.fwhm_um, band.gsd_m)
            rows.append([band.name, band.common_name or "", *map(_number, figures), unit])
        grid = f"grid of {_number(gsd_m)} m" if gsd_m else "no ground sample distance known"
        title = f"bands of {name}: sensor {found.source.sensor}, {grid}"
        screen.table(title, ["band", "common name", "wavelength µm", "width µm", "gsd m", "unit"], rows)
    problems = found.report.problems if found.report else ()
    for problem in problems[:SHOWN]:
        screen.result(f"{f'quarantined ({problem.kind})' if problem.quarantines else problem.kind}: {problem.message}")
    if len(problems) > SHOWN:
        screen.result(f"{len(problems) - SHOWN} more problems of {name} are in audit.json")
    for note in found.notes:
        screen.warn(note)
    if found.error is not None:
        screen.result(f"{name} cannot be used: {found.error}")
    screen.result("")


def _figures(found: _Findings) -> Iterable[tuple[str, int]]:
    """Lines of the table of counts."""
    if found.report is not None:
        yield "scenes", found.report.scenes
        yield "scenes quarantined", len(found.report.quarantined)
        yield "scenes suspicious", found.report.counts.get("suspicious", 0)
    if found.tiles is None:
        return
    yield "tiles", len(found.tiles)
    for reason, count in found.tiles.left_out.items():
        yield f"left out: {reason}", count
    for column in ("split", "label", "domain"):
        counts = _counts(found.tiles, column)
        for value, count in list(counts.items())[:SHOWN]:
            yield f"{column} {value}", count
        if len(counts) > SHOWN:
            yield f"{len(counts) - SHOWN} more {column}s", sum(list(counts.values())[SHOWN:])


def _counts(tiles: TileIndex, column: str) -> Mapping[str, int]:
    """Number of tiles for each value, the most frequent first; empty where no tile has one."""
    values = tiles.tiles[column].tolist()
    counts = Counter("(none)" if value is None or value != value else str(value) for value in values)
    return {} if set(counts) == {"(none)"} else dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _gsd_m(tiles: TileIndex) -> float | None:
    """Ground sample distance of the grids, the middle one where they differ."""
    found = [grid.gsd_m for grid in tiles.grids if grid is not None and grid.gsd_m is not None]
    return float(np.median(found)) if found else tiles.source.gsd_m


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
