"""A check of a data set: its source, the report of the audit, its tiles, and the first error."""

from dataclasses import dataclass, replace
from functools import cached_property

from geomae.catalog import Catalog, Selector, Source
from geomae.errors import GeomaeError
from geomae.rasters import AuditReport
from geomae.rasters.work_share import ALONE, WorkShare, reading_threads
from geomae.tiles.census import Census, take_census
from geomae.tiles.index import Progress, Reading, TileIndex, build_from_report
from geomae.tiles.sources import prepare


@dataclass(frozen=True)
class DatasetCheck:
    """The result of a check: what was found up to the first `error`; `tiles` are the selected ones."""

    source: Source | None = None
    report: AuditReport | None = None
    tiles: TileIndex | None = None
    error: GeomaeError | None = None

    @cached_property
    def census(self) -> Census | None:
        """The counts of the tiles, where there are any."""
        return None if self.tiles is None else take_census(self.tiles)

    def select(self, selector: Selector) -> "DatasetCheck":
        """The same for the tiles that a selector chooses."""
        if self.tiles is None:
            return self
        try:
            return replace(self, tiles=self.tiles.select(selector))
        except GeomaeError as error:
            return replace(self, tiles=None, error=error)


def check_dataset(
    catalog: Catalog,
    name: str,
    *,
    threads: int | None = None,
    share: WorkShare = ALONE,
    progress: Progress = lambda what, done, total: None,
) -> DatasetCheck:
    """Resolve, audit and index a data set, up to the first error; `progress` is called with (what, done, total).

    Every process of `share` reads its part of the files and tiles.
    """
    result = DatasetCheck()
    threads = threads or reading_threads()
    try:
        catalog, source = prepare(catalog, name)
        result = DatasetCheck(source)
        reading = Reading.of(catalog, name, threads, progress, share)
        report = reading.audit(source)
        result = replace(result, report=report)
        tiles = build_from_report(catalog, name, source, report, reading, 1.0)
    except GeomaeError as error:
        return replace(result, error=error)
    return replace(result, report=tiles.report, tiles=tiles)
