"""What the commands on a catalogue share: its data sets indexed once, and the units of their bands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geomae.catalog import Catalog, Selector, Source, open_catalog, resolve_selectors
from geomae.commands import run as run_folder
from geomae.files import write_json
from geomae.runtime.console import Screen
from geomae.sensors import sensor, sensor_names
from geomae.tiles.index import TileIndex, build_index


@dataclass(frozen=True)
class CatalogOptions:
    """What the command line asked for, resolved; `out` is absolute and holds nothing yet."""

    command: str
    catalog: Catalog
    selectors: tuple[Selector, ...]
    out: Path

    def write_summary(self, metrics: dict[str, float]) -> None:
        """Publish `summary.json`."""
        names = [str(one) for one in self.selectors]
        digest = self.catalog.digest(sorted({one.dataset for one in self.selectors}))
        inputs = {"catalog": self.catalog.path.absolute(), "dataset": names, "digest": digest}
        summary = {"command": self.command, "run_id": None, "out": self.out, "metrics": metrics, "inputs": inputs}
        write_json(self.out / "summary.json", summary)


def resolve(
    command: str,
    catalog: Path | None,
    datasets: Sequence[str],
    out: Path | None,
    *,
    split: str | None = None,
    every: bool = False,
) -> CatalogOptions:
    """Open the catalogue and resolve the selectors; `split` counts where a selector has none.

    With `every`, no selector stands for all data sets. Raises StorageError where `out` already holds something.
    """
    if out is not None:
        run_folder.check_new(out)
    opened = open_catalog(catalog or Path("data_catalog.yaml"))
    texts = tuple(datasets) or (tuple(opened.entries) if every else ())
    selectors = resolve_selectors(opened, texts, split)
    folder = (out or run_folder.default_out(command.replace(" ", "-"))).absolute()
    return CatalogOptions(command, opened, selectors, folder)


def select_all(request: CatalogOptions, screen: Screen) -> list[tuple[Selector, TileIndex]]:
    """The tiles that each selector means. What the audit quarantines is left out, with a warning."""
    indexes: dict[str, TileIndex] = {}
    for name in dict.fromkeys(one.dataset for one in request.selectors):
        index = indexes[name] = build_index(request.catalog, name, progress=screen.step)
        screen.close()
        if index.report.quarantined:
            bad = f"{len(index.report.quarantined)} of {index.report.scenes} scenes"
            screen.warn(f"{name}: {bad} cannot be used; `geomae catalog check --dataset {name}` lists them")
    return [(one, indexes[one.dataset].select(one)) for one in request.selectors]


def band_units(catalog: Catalog, source: Source) -> tuple[str, ...]:
    """The unit of each band of a data set, also where they have different ones."""
    if source.unit != "mixed":
        return (source.unit,) * len(source.bands)
    known = catalog.sensor(source.name) or (sensor(source.sensor) if source.sensor in sensor_names() else None)
    return tuple(known.scaling(band).unit if known else source.unit for band in source.bands)
