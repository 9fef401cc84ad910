"""The description of a predictor: its task and classes, and the imagery and tiles that it learned from.

K classes
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.metrics.predictions import Floats
from geomae.models.head_record import REGRESSION, SEGMENTATION
from geomae.models.lineage import Step
from geomae.sensors import match_bands
from geomae.sensors.record import SensorRecord
from geomae.tiles.index import TileIndex
from geomae.tiles.learned_tiles import UNPLACED, UNRECORDED, LearnedTiles

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
    `learned` maps each data set to the tiles used for training and for model selection (see `record_tiles`).
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
    learned: Mapping[str, Mapping[str, Any]]
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


def learned_tiles(record: PredictorRecord, index: TileIndex) -> LearnedTiles:
    """Return the tiles in scenes of `index` that were used for training or model selection."""
    return LearnedTiles.of(record.learned, record.tile, index)


def learned_remarks(record: PredictorRecord, index: TileIndex, where: str) -> Iterator[str]:
    """Yield remarks on what is not known for certain of scenes with selected tiles that the model learned from."""
    selected = {index.source.scenes[scene].id for scene in index.tiles["scene"].unique()}
    found = [one for one in learned_tiles(record, index).scenes if one.scene in selected]
    namesakes: dict[str, list[str]] = {}
    for one in found:
        if one.dataset != index.name:
            namesakes.setdefault(one.dataset, []).append(one.scene)
    if namesakes:
        said = "; ".join(f"{_listed(scenes)} of {dataset}" for dataset, scenes in namesakes.items())
        yield f"{where}: scenes with the names of scenes that the model learned from ({said}) are taken to be the same"
    if unplaced := [one.scene for one in found if one.doubt == UNPLACED]:
        yield (
            f"{where}: scenes have another size than when the model learned from them, and no CRS in both "
            f"({_listed(unplaced)}), so that their ground that it learned from is unknown; all of it counts as learned"
        )
    if unrecorded := [one.scene for one in found if one.doubt == UNRECORDED]:
        yield (
            f"{where}: the model's folder is of a version that did not record the grids of scenes "
            f"({_listed(unrecorded)}); tiles that it learned from are looked for at the same rows and columns, which "
            "is wrong if these scenes were resampled or cut since"
        )


def _listed(scenes: Sequence[str]) -> str:
    names = sorted(set(scenes))
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
