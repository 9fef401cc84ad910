"""Folders of predictors: saved probes, written and read, and model folders with a head.

probe.safetensors   the linear maps, in float64: `weight` (D, K) and `bias` (K), also for each alignment
probe.json          task, encoder, layer and pooling, the imagery, and the tiles that the probe learned from
radiometry/N        how pixels of the target of map N are brought to what the probe learned from, where fitted
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from geomae.catalog import Selector, parse_selector
from geomae.encoders.own_models import OwnEncoder
from geomae.encoders.selections import load_encoder
from geomae.encoders.specification import absolute, parse_encoder
from geomae.errors import GeomaeError, ModelError
from geomae.evaluation.final_probe import LinearMap
from geomae.files import digest, file_digest, publish_dir, read_json, write_json
from geomae.metrics.calibration import Calibration
from geomae.models.class_colours import colours_of
from geomae.models.finetuned import Finetuned, load_finetuned
from geomae.models.head_record import TASKS
from geomae.models.lineage import Step, lineage
from geomae.prediction.models import FinetunedModel, ProbeModel, WindowModel
from geomae.prediction.record import PROBE, PredictorRecord, check_folder, fit_imagery
from geomae.sensors.record import SensorRecord
from geomae.tiles.radiometry import Radiometry

FORMAT = 1
WEIGHTS = "probe.safetensors"
RADIOMETRY = "radiometry"


class PredictorFolder(Protocol):
    """The content of a predictor's folder, before it is fitted to the imagery of a data set."""

    @property
    def record(self) -> PredictorRecord:
        """The description of the predictor: task, classes, imagery and training tiles."""

    @property
    def digest(self) -> str:
        """Hex digest of the files that decide the predictions."""

    def fit(self, imagery: SensorRecord | None, selector: Selector | None, device: torch.device) -> WindowModel:
        """Return the model for a data set, or for its training imagery where `imagery` is None.

        Raises BandMismatchError or ConfigError where bands or unit do not fit.
        """


@dataclass(frozen=True)
class SavedProbe:
    """A probe as stored. `layer` is a number, "middle" or None; `like` is the model whose patch size a baseline has.

    `aligned` are the linear maps fitted after an alignment, by the selector of its target; `radiometry` are the maps of
    pixels before the encoder, likewise. With `own_bands`, the encoder takes all bands of a data set.
    """

    record: PredictorRecord
    encoder: str
    encoder_digest: str
    layer: Any
    pooling: str
    like: str | None
    own_bands: bool
    plain: LinearMap
    aligned: Mapping[str, LinearMap]
    digest: str = ""
    radiometry: Mapping[str, Radiometry] = field(default_factory=dict)

    def fit(self, imagery: SensorRecord | None, selector: Selector | None, device: torch.device) -> ProbeModel:
        """Return the probe for a data set, with the alignment that was fitted to it, if any.

        Raises ModelError where the encoder is not the one that the probe was fitted with.
        """
        like = load_encoder(self.like) if self.like else None
        model = like.model if isinstance(like, OwnEncoder) else None
        reference = parse_encoder(self.encoder)

        def load(bands: SensorRecord) -> Any:
            return load_encoder(reference, self.layer, self.pooling, imagery=bands, device=device, like=model)

        known = encoder = load(self.record.imagery)
        if known.digest != self.encoder_digest:
            raise ModelError(
                f"{self.encoder}: is not the encoder that the probe was fitted with (digest {known.digest[:12]}, "
                f"{self.encoder_digest[:12]} then); restore it, or run `geomae probe` again"
            )
        target = self._target(selector)
        head, radiometry = self.aligned.get(target, self.plain), self.radiometry.get(target)
        if imagery is not None and radiometry is not None:
            imagery.select(radiometry.taken)  # which it must have
            encoder = load(replace(radiometry.imagery, gsd_m=imagery.gsd_m))
        elif imagery is not None:
            bands = fit_imagery(self.record, imagery, str(selector), all_bands=self.own_bands)
            encoder = load(bands)
        record = self.record if head.share_K is None else replace(self.record, trained_K=head.share_K)
        return ProbeModel(record, encoder, head, device, radiometry)

    def _target(self, selector: Selector | None) -> str:
        """Return the target among `aligned` with the data set and conditions of `selector`, whatever the split."""
        for text in self.aligned:
            target = parse_selector(text)
            if selector is not None and (target.dataset, target.conditions) == (selector.dataset, selector.conditions):
                return text
        return ""


@dataclass(frozen=True)
class FinetunedFolder:
    """A model folder with a head."""

    record: PredictorRecord
    folder: Path
    model: Finetuned

    @property
    def digest(self) -> str:
        """Hex digest of the model's weights and configuration files."""
        return digest([file_digest(self.folder / name) for name in ("model.safetensors", "config.json")])

    def fit(self, imagery: SensorRecord | None, selector: Selector | None, device: torch.device) -> FinetunedModel:
        """See `PredictorFolder`."""
        if imagery is None:
            return FinetunedModel(self.record, self.model)
        all_bands = self.model.model.mae.architecture.any_bands
        bands = fit_imagery(self.record, imagery, str(selector), all_bands=all_bands)
        return FinetunedModel.fit(self.record, self.model, bands, str(self.folder))


def save_probe(probe: SavedProbe, folder: Path) -> None:
    """Publish a probe as `folder`; an existing folder is kept, since the same request gives the same probe."""
    if folder.exists():
        return
    maps = [("", probe.plain), *probe.aligned.items()]
    with publish_dir(folder) as temporary:
        arrays = {}
        for number, (_, one) in enumerate(maps):
            arrays[f"{number}.weight"] = np.ascontiguousarray(one.weight_DK)
            arrays[f"{number}.bias"] = np.ascontiguousarray(one.bias_K)
        save_file(arrays, temporary / WEIGHTS)
        record = probe.record
        values = {
            "format": FORMAT, "task": record.task, "classes": record.classes, "codes": record.codes,
            "colours": record.colours, "unit": record.unit, "imagery": record.imagery.to_dict(), "tile": record.tile,
            "class_shares": record.trained_K, "learned_tiles": record.learned, "about": record.about,
            "steps": [step._asdict() for step in record.steps],
            "encoder": absolute(probe.encoder), "encoder_digest": probe.encoder_digest,
            "layer": probe.layer, "pooling": probe.pooling, "like": absolute(probe.like) if probe.like else None,
            "own_bands": probe.own_bands, "maps": [{"target": target} | _described(one) for target, one in maps],
            "weights": file_digest(temporary / WEIGHTS),
        }  # fmt: skip
        write_json(temporary / PROBE, values)
        for number, (target, _) in enumerate(maps):
            if target in probe.radiometry:
                probe.radiometry[target].save(temporary / RADIOMETRY / str(number))


def open_predictor(folder: str | Path, device: torch.device) -> PredictorFolder:
    """Open the predictor in a folder. Raises ModelError for a model without a head, or a folder without a predictor."""
    folder = Path(folder)
    check_folder(folder)
    return load_probe(folder) if (folder / PROBE).is_file() else _finetuned(folder, device)


def load_probe(folder: Path) -> SavedProbe:
    """Read a probe that `save_probe` wrote. Raises ModelError for a folder that is incomplete or was altered."""
    try:
        stored = read_json(folder / PROBE)
        if stored["weights"] != file_digest(folder / WEIGHTS):
            raise ModelError(f"{folder}: {WEIGHTS} does not match the digest in {PROBE}; copy the folder again")
        arrays = load_file(folder / WEIGHTS)
        if stored["task"] not in TASKS:
            raise ValueError(f"task {stored['task']!r}")
        maps = [_linear_map(one, arrays, number) for number, one in enumerate(stored["maps"])]
        classes = tuple(str(name) for name in stored["classes"])
        record = PredictorRecord(
            str(stored["task"]), classes, tuple(stored["codes"]), tuple(stored["colours"]), str(stored["unit"]),
            SensorRecord.from_dict(stored["imagery"]), int(stored["tile"]), np.array(stored["class_shares"], float),
            maps[0].confusion_KK, stored["learned_tiles"], stored["about"],
            tuple(Step(**one) for one in stored["steps"]),
        )  # fmt: skip
        targets = [str(one["target"]) for one in stored["maps"]]
        aligned = dict(zip(targets[1:], maps[1:], strict=True))
        folders = {target: folder / RADIOMETRY / str(number) for number, target in enumerate(targets)}
        radiometry = {target: Radiometry.load(one) for target, one in folders.items() if one.is_dir()}
        return SavedProbe(
            record, str(stored["encoder"]), str(stored["encoder_digest"]), stored["layer"], str(stored["pooling"]),
            stored["like"], bool(stored["own_bands"]), maps[0], aligned,
            digest([file_digest(folder / PROBE), stored["weights"], *(one.digest for one in radiometry.values())]),
            radiometry,
        )  # fmt: skip
    except ModelError:
        raise
    except (GeomaeError, OSError, KeyError, TypeError, ValueError, IndexError, SafetensorError) as error:
        raise ModelError(f"{folder}: the probe is incomplete or damaged ({error}); run `geomae probe` again") from error


def _described(one: LinearMap) -> dict[str, Any]:
    calibration = None if one.calibration is None else one.calibration.record()
    return {"calibration": calibration, "confusion": one.confusion_KK, "align": one.align, "why": one.why,
            "class_shares": one.share_K}  # fmt: skip


def _linear_map(stored: Mapping[str, Any], arrays: Mapping[str, Any], number: int) -> LinearMap:
    calibration = None if stored["calibration"] is None else Calibration.of_record(stored["calibration"])
    confusion = None if stored["confusion"] is None else np.array(stored["confusion"], dtype=np.float64)
    weight_DK, bias_K = arrays[f"{number}.weight"], arrays[f"{number}.bias"]
    if weight_DK.ndim != 2 or bias_K.shape != weight_DK.shape[1:]:
        raise ValueError(f"weights of {weight_DK.shape} and biases of {bias_K.shape} do not fit together")
    known = stored.get("class_shares")
    share_K = None if known is None else np.array(known, dtype=np.float64)
    return LinearMap(weight_DK, bias_K, calibration, confusion, str(stored["align"]), str(stored["why"]), share_K)


def _finetuned(folder: Path, device: torch.device) -> FinetunedFolder:
    model = load_finetuned(folder, device)
    head = model.record
    classes, counts = head.classes, head.confusion
    record = PredictorRecord(
        head.task, classes, head.codes or (None,) * len(classes), head.colours or colours_of(classes), head.unit,
        replace(model.model.record, gsd_m=head.gsd_m), head.tile, np.array(head.class_shares, dtype=np.float64),
        np.array(counts, dtype=np.float64) if counts else None,
        model.model.head.learned if model.model.head else {}, steps=lineage(model.model.provenance),
    )  # fmt: skip
    return FinetunedFolder(record, folder, model)
