"""The tiles that a command of analysis works on, each selection with what describes its data set."""

from collections.abc import Sequence
from dataclasses import dataclass

from geomae.catalog import Catalog, resolve_selectors
from geomae.files import digest
from geomae.models.standardise import SensorRecord
from geomae.tiles.index import TileIndex, build_index
from geomae.tracking import DatasetRecord
from geomae.training.records import own_record
from geomae.workflows.console import Screen


@dataclass(frozen=True)
class Selected:
    """Tiles of the data set `whole` that a selector chose, and the bands and statistics of its train split."""

    name: str
    index: TileIndex
    imagery: SensorRecord
    whole: TileIndex

    def digest(self) -> str:
        """Names the files behind the tiles and the choice of tiles."""
        return digest([self.index.content(), self.index.tiles["tile_id"].tolist()])

    def record(self, catalog: Catalog) -> DatasetRecord:
        """The tiles as an input of a run."""
        entry = catalog.entry(self.index.name).model_dump(mode="json", exclude_unset=True, by_alias=True)
        profile = {"tiles": len(self.index), "sensor": self.imagery.name, "unit": self.imagery.unit}
        return DatasetRecord(
            name=self.name,
            digest=self.digest(),
            source=str(catalog.path),
            entry={self.index.name: entry},
            bands=[band.name for band in self.imagery.bands],
            profile=profile,
            context="validation",
        )


def select(catalog: Catalog, texts: Sequence[str], screen: Screen) -> list[Selected]:
    """The tiles of each selector (see `resolve_selectors`; without a split all); every data set is indexed once."""
    selectors = resolve_selectors(catalog, texts, None)
    found: dict[str, tuple[TileIndex, SensorRecord]] = {}
    for name in dict.fromkeys(one.dataset for one in selectors):
        index = build_index(catalog, name, progress=screen.step)
        screen.close()
        if index.report.quarantined:
            bad = f"{len(index.report.quarantined)} of {index.report.scenes} scenes"
            screen.warn(f"{name}: {bad} cannot be used; `geomae catalog check --dataset {name}` lists them")
        found[name] = (index, own_record(index))
    chosen = []
    for one in selectors:
        whole, imagery = found[one.dataset]
        chosen.append(Selected(str(one), whole.select(one), imagery, whole))
    return chosen
