"""The description of a predictor: its task and classes, and the imagery and tiles that it learned from.

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
GSD_FACTOR = 1.5  # largest ratio of pixel sizes without a remark
LARGEST_CODE = 254  # of a map; 255 is nodata
SHOWN = 3  # scenes that a remark names


def check_folder(folder: Path) -> None:
    """Raise ModelError where a folder holds neither a saved probe nor a model; does not import torch."""
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
    """The description of a predictor.

    `codes` are the classes' codes in the label raster, or None. `imagery` holds the bands, unit, ground sample
    distance and statistics of the training imagery; `tile` is the side of its tiles in pixels. `trained_K` are the
    class shares (priors) of the calibrated probabilities. `confusion_KK` counts (truth, predicted) on held-out tiles.
    `learned` maps each data set to the tiles used for training (`learned`) and for model selection (`held_out`).
    `about` holds further rows for a report, and `steps` is the lineage of the model.
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
        """The id of the last MLflow run in the lineage, where one is known."""
        return next((step.run for step in reversed(self.steps) if step.run is not None), None)

    @property
    def adapted(self) -> bool:
        """Whether the encoder was adapted after the last training with labels."""
        return bool(self.steps) and self.steps[-1].command == "adapt"

    @property
    def of_pixels(self) -> bool:
        """Whether it predicts pixels; otherwise it predicts tiles."""
        return self.task == SEGMENTATION

    @property
    def of_numbers(self) -> bool:
        """Whether it predicts numbers; otherwise it predicts classes."""
        return self.task == REGRESSION

    @property
    def map_codes(self) -> tuple[int, ...]:
        """The code of each class in a map: that of the label raster where all codes fit, else 1 to K."""
        own = [code for code in self.codes if code is not None and 0 <= code <= LARGEST_CODE]
        if len(set(own)) == len(self.classes):
            return tuple(own)
        return tuple(range(1, len(self.classes) + 1))

    @property
    def renumbered(self) -> str | None:
        """A remark where the map's codes differ from those of the label raster; otherwise None."""
        if None in self.codes or not self.classes or self.map_codes == self.codes:
            return None
        pairs = zip(self.classes, self.codes, self.map_codes, strict=True)
        listed = ", ".join(f"{name} {code} as {own}" for name, code, own in pairs)
        return f"codes of the label raster that do not fit 0 to {LARGEST_CODE} are renumbered: {listed}"


def fit_imagery(record: PredictorRecord, imagery: SensorRecord, where: str, *, all_bands: bool = False) -> SensorRecord:
    """Return the record of the data set's bands that the predictor takes, in its order.

    With `all_bands` all bands are returned, for an encoder that takes any. Raises BandMismatchError where a band is
    missing and ConfigError where the unit differs.
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
    """Return a remark where the pixel size differs from that of training by more than GSD_FACTOR, else None."""
    here, there = imagery.gsd_m, record.imagery.gsd_m
    if here is None or there is None or max(here / there, there / here) <= GSD_FACTOR:
        return None
    return (
        f"{where}: its pixels are {here:g} m, and the model learned from {there:g} m; `gsd_m: {there:g}` in the "
        "catalogue resamples them"
    )


def learned_tiles(record: PredictorRecord, index: TileIndex) -> "LearnedTiles":
    """Return the tiles in scenes of `index` that were used for training or model selection.

    A scene of another data set with the same name counts as the same scene: two entries of a catalogue often describe
    one file, and leaving out a tile too many does not make the accuracy optimistic.
    """
    scenes = {scene.id for scene in index.source.scenes}
    tile_ids = [one for of_dataset in record.learned.values() for tiles in of_dataset.values() for one in tiles]
    return LearnedTiles.of(tile_ids, record.tile, scenes)


def namesake_remark(record: PredictorRecord, index: TileIndex, where: str) -> str | None:
    """Return a remark on scenes with selected tiles that `learned_tiles` matches with scenes of other data sets.

    None where there are none.
    """
    scenes = {index.source.scenes[scene].id for scene in index.tiles["scene"].unique().tolist()}
    shared: dict[str, list[str]] = {}
    for name, of in record.learned.items():
        tile_ids = [one for tiles in of.values() for one in tiles]
        if name != index.name and (same := sorted(LearnedTiles.of(tile_ids, record.tile, scenes).corners)):
            shared[name] = same
    if not shared:
        return None
    said = "; ".join(
        f"{', '.join(same[:SHOWN])}{f' and {len(same) - SHOWN} more' if len(same) > SHOWN else ''} of {name}"
        for name, same in shared.items()
    )
    return f"{where}: scenes with the names of scenes that the model learned from ({said}) are taken to be the same"


@dataclass(frozen=True)
class LearnedTiles:
    """Upper left corners (row, column) of squares of `size` pixels, by scene."""

    corners: Mapping[str, Any]
    size: int

    @classmethod
    def of(cls, tile_ids: Sequence[str], size: int, scenes: Collection[str]) -> "LearnedTiles":
        """Parse the tile ids of `scenes`: `SCENE:ROW:COLUMN`, followed by `:NUMBER` where points share a tile."""
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
        """Whether a square of a scene overlaps one of these tiles; with `size` 0, whether a point lies in one."""
        if scene not in self.corners:
            return False
        corner_N2 = self.corners[scene]
        reach = np.maximum(size, 1e-9)
        inside_N2 = (corner_N2 < np.array([row, col]) + reach) & (corner_N2 + self.size > np.array([row, col]))
        return bool(inside_N2.all(1).any())
