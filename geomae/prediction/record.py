"""What a predictor knows of itself: its task and classes, the imagery and the tiles that it learned from.

K classes
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.metrics.predictions import Floats
from geomae.models.head_record import REGRESSION, SEGMENTATION
from geomae.models.lineage import Step
from geomae.sensors import match_bands
from geomae.sensors.record import SensorRecord
from geomae.tiles.index import TileIndex

PROBE = "probe.json"  # the record of a saved probe, in its folder
GSD_FACTOR = 1.5  # pixels that differ in size by more show other things
LARGEST_CODE = 254  # of a map; 255 is nodata


def check_folder(folder: Path) -> None:
    """Raise ModelError where a folder holds neither a saved probe nor a model; works without torch."""
    if (folder / PROBE).is_file() or (folder / "config.json").is_file():
        return
    probes = sorted(folder.glob("probes/*"), key=lambda one: (one.name.startswith("baseline-"), one.name))
    inside = [one.relative_to(folder) for one in (folder / "model", *probes) if one.is_dir()]
    remedy = (
        f"did you mean {folder / inside[0]}?" if inside else "name a fine-tuned model or `probes/ENCODER` of a probe"
    )
    problem = "holds no model and no probe" if folder.is_dir() else "is no folder"
    raise ModelError(f"--model {folder}: {problem}; {remedy}")


@dataclass(frozen=True)
class PredictorRecord:
    """What a predictor says, and what it rests on.

    `codes` are those of the label raster, None where classes have none. `imagery` are the bands, unit, ground sample
    distance and statistics that it learned from, `tile` the side of those tiles in pixels. `trained_K` are the class
    shares that its probabilities go with, `confusion_KK` counts (truth, predicted) of held-out tiles. `learned` names
    by data set the tiles that it learned from (`learned`) and those that a choice was made on (`held_out`).
    `about` is what a report says of it beside, `steps` how it came about.
    """

    task: str
    classes: tuple[str, ...]
    codes: tuple[int | None, ...]
    colours: tuple[str, ...]
    unit: str
    imagery: SensorRecord
    tile: int
    trained_K: Floats
    confusion_KK: Floats | None
    learned: Mapping[str, Mapping[str, Sequence[str]]]
    about: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    @property
    def run(self) -> str | None:
        """The last run in MLflow behind it, where one is known."""
        return next((step.run for step in reversed(self.steps) if step.run is not None), None)

    @property
    def adapted(self) -> bool:
        """Whether the encoder changed after the last labels had a part in the model."""
        return bool(self.steps) and self.steps[-1].command == "adapt"

    @property
    def of_pixels(self) -> bool:
        """Whether pixels are predicted and not tiles."""
        return self.task == SEGMENTATION

    @property
    def of_numbers(self) -> bool:
        """Whether numbers are predicted and not classes."""
        return self.task == REGRESSION

    @property
    def map_codes(self) -> tuple[int, ...]:
        """The code of each class in a map: that of the label raster where all fit, else 1 to K."""
        own = [code for code in self.codes if code is not None and 0 <= code <= LARGEST_CODE]
        if len(set(own)) == len(self.classes):
            return tuple(own)
        return tuple(range(1, len(self.classes) + 1))

    @property
    def renumbered(self) -> str | None:
        """Says where the codes of the label raster do not stand in the map; None where they do, or there are none."""
        if None in self.codes or not self.classes or self.map_codes == self.codes:
            return None
        pairs = zip(self.classes, self.codes, self.map_codes, strict=True)
        listed = ", ".join(f"{name} {code} as {own}" for name, code, own in pairs)
        return f"codes of the label raster that do not fit 0 to {LARGEST_CODE} are numbered anew: {listed}"


def fit_imagery(record: PredictorRecord, imagery: SensorRecord, where: str, *, all_bands: bool = False) -> SensorRecord:
    """The bands of a data set that the predictor takes, in its order, with the statistics of the data set.

    With `all_bands` those that there are, for an encoder that takes any. Raises BandMismatchError where one is missing
    and ConfigError for another unit.
    """
    learned = record.imagery
    if imagery.unit != learned.unit:
        raise ConfigError(
            f"{where}: is in {imagery.unit}, and the model learned from {learned.unit}; set `unit`, `scale` and "
            "`offset` in the catalogue so that both are the same"
        )
    if all_bands:
        return imagery
    places = match_bands(learned.bands, imagery.bands, learned.name == imagery.name)
    missing = [band.name for band, place in zip(learned.bands, places, strict=True) if place is None]
    if missing:
        raise BandMismatchError(
            f"{where}: has no band like {', '.join(missing)} of {learned.name}, which the model learned from (it has "
            f"{', '.join(band.name for band in imagery.bands)}); add it under `bands:`, or learn from shared bands"
        )
    return imagery.select([imagery.bands[place].name for place in places if place is not None])


def scale_remark(record: PredictorRecord, imagery: SensorRecord, where: str) -> str | None:
    """Says where pixels are of quite another size than those that were learned from."""
    here, there = imagery.gsd_m, record.imagery.gsd_m
    if here is None or there is None or max(here / there, there / here) <= GSD_FACTOR:
        return None
    return (
        f"{where}: its pixels are {here:g} m, and the model learned from {there:g} m; `gsd_m: {there:g}` in the "
        "catalogue resamples them"
    )


def learned_tiles(record: PredictorRecord, index: TileIndex) -> "LearnedTiles":
    """The tiles of the scenes of `index` that the model learned from, or that a choice was made on.

    A scene of another data set that bears the same name counts as the same scene: two entries of a catalogue often
    describe one file, and a tile that is left out of an accuracy flatters nobody.
    """
    scenes = {scene.id for scene in index.source.scenes}
    tile_ids = [one for of_dataset in record.learned.values() for tiles in of_dataset.values() for one in tiles]
    return LearnedTiles.of(tile_ids, record.tile, scenes)


def namesake_remark(record: PredictorRecord, index: TileIndex, where: str) -> str | None:
    """Says which scenes are taken for scenes of another data set, which the model learned from."""
    scenes = {scene.id for scene in index.source.scenes}
    others = {name: ids for name, ids in record.learned.items() if name != index.name}
    shared = {
        name: len(LearnedTiles.of([one for tiles in of.values() for one in tiles], record.tile, scenes).corners)
        for name, of in others.items()
    }
    said = ", ".join(f"{count} of {name}" for name, count in shared.items() if count)
    if not said:
        return None
    return f"{where}: scenes with the names of scenes that the model learned from ({said}) are taken to be the same"


@dataclass(frozen=True)
class LearnedTiles:
    """Squares (row, column) of `size` pixels by scene."""

    corners: Mapping[str, Any]
    size: int

    @classmethod
    def of(cls, tile_ids: Sequence[str], size: int, scenes: Collection[str]) -> "LearnedTiles":
        """Those of `scenes` that tile ids name: `SCENE:ROW:COLUMN`, and a number more where points share a tile."""
        corners: dict[str, list[tuple[int, int]]] = {}
        for one in tile_ids:
            scene, row, col = one.rsplit(":", 2)
            if scene not in scenes:
                scene, row, col, *_ = one.rsplit(":", 3)
            if scene not in scenes:
                continue
            corners.setdefault(scene, []).append((int(row), int(col)))
        return cls({scene: np.array(places) for scene, places in corners.items()}, size)

    def meeting(self, scene: str, row: float, col: float, size: float) -> bool:
        """Whether a square of a scene shares ground with one of them; of `size` 0, whether a point lies in one."""
        if scene not in self.corners:
            return False
        corner_N2 = self.corners[scene]
        reach = np.maximum(size, 1e-9)
        inside_N2 = (corner_N2 < np.array([row, col]) + reach) & (corner_N2 + self.size > np.array([row, col]))
        return bool(inside_N2.all(1).any())
