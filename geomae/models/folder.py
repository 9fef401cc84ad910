"""The model folder holds all that is needed to use a model.

model.safetensors   weights in float32; those of a head are named `head.*`
config.json         architecture, sensors with bands and statistics, provenance, and the record of a head, if any
learned_tiles.json  the tiles that a fine-tuned model was trained on, and those held out

B tiles, C bands, H W pixels, N patches, F features of a band's code
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from geomae.config import explain
from geomae.errors import GeomaeError, ModelError, nearest
from geomae.files import file_digest, publish_dir, read_json, write_json
from geomae.models.architecture import Architecture
from geomae.models.band_embedding import band_codes
from geomae.models.head_record import LEARNED_TILES, HeadRecord
from geomae.models.heads import Head, build_head
from geomae.models.mae import MaskedAutoencoder
from geomae.models.masking import mask_from_patches, visible_first
from geomae.models.patches import grid, patchify, restore_from_context, take, unpatchify
from geomae.sensors.record import SensorRecord

FORMAT = 1
HEAD = "head."  # prefix of the names of a head's weights


class SensorTensors(NamedTuple):
    """Statistics and codes of a sensor's bands on one device, kept there so that batches need not copy them."""

    mean_C11: Tensor
    std_C11: Tensor
    codes_CF: Tensor
    gsd_m: float | None

    def standardise(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """Standardise pixels in physical units: (B, C, H, W) in float32; invalid ones become 0."""
        return (pixels_BCHW.float().where(valid_BCHW, self.mean_C11) - self.mean_C11) / self.std_C11


def sensor_tensors(record: SensorRecord, device: torch.device) -> SensorTensors:
    """Put statistics and codes of the bands of `record` on `device`."""
    return SensorTensors(*_columns(record, device), band_codes(record.bands).to(device), record.gsd_m)


def standardise(pixels_BCHW: Tensor, valid_BCHW: Tensor, record: SensorRecord) -> Tensor:
    """Standardise pixels in physical units by `record`: (B, C, H, W) in float32; invalid ones become 0."""
    mean_C11, std_C11 = _columns(record, pixels_BCHW.device)
    return (pixels_BCHW.float().where(valid_BCHW, mean_C11) - mean_C11) / std_C11


def to_physical(pixels_BCHW: Tensor, record: SensorRecord) -> Tensor:
    """The inverse of `standardise` for valid pixels."""
    mean_C11, std_C11 = _columns(record, pixels_BCHW.device)
    return pixels_BCHW.float() * std_C11 + mean_C11


def _columns(record: SensorRecord, device: torch.device) -> tuple[Tensor, Tensor]:
    mean_C, std_C = (torch.tensor(values, dtype=torch.float32) for values in (record.mean_C, record.std_C))
    return mean_C.to(device)[:, None, None], std_C.to(device)[:, None, None]


@dataclass(frozen=True)
class TrainedHead:
    """The head of a fine-tuned model. `learned` has the tiles that it was trained on and chosen by, by data set."""

    record: HeadRecord
    module: Head
    learned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class Model:
    """A masked autoencoder with the records of the sensors it was trained on. Pixels are in physical units.

    `record` is the sensor in use; `for_sensor` returns the same model for another one, or for a subset of the bands.
    """

    mae: MaskedAutoencoder
    sensors: tuple[SensorRecord, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    chosen: SensorRecord | None = None
    head: TrainedHead | None = None  # of a fine-tuned model (finetuned.py)

    @property
    def record(self) -> SensorRecord:
        """Bands, unit and statistics in use."""
        return self.chosen or self.sensors[0]

    def for_sensor(self, name: str, bands: tuple[str, ...] | None = None) -> "Model":
        """This model for the sensor `name` and the given bands of it, in order (None: all). Weights are shared.

        Raises ModelError for an unknown sensor, and where the embedding does not accept these bands.
        """
        known = next((one for one in self.sensors if one.name == name), None)
        if known is None:
            remedy = nearest(name, [one.name for one in self.sensors])
            raise ModelError(f"the model has no statistics for sensor {name!r}; {remedy}")
        record = known if bands is None else known.select(bands)
        if not self.mae.architecture.any_bands and record.bands != known.bands:
            raise ModelError(
                f"a {self.mae.architecture.embedding} embedding needs its {len(known.bands)} bands in the order it was "
                "trained with; only `spectral` takes any"
            )
        return self.using(record)

    def using(self, record: SensorRecord) -> "Model":
        """This model with the bands and statistics of `record`. Weights are shared."""
        return replace(self, chosen=record)

    @torch.no_grad()
    def reconstruct(
        self,
        pixels_BCHW: Tensor,
        valid_BCHW: Tensor | None = None,
        visible_BN: Tensor | None = None,
        *,
        restore_with: Literal["context", "none"] = "context",
    ) -> tuple[Tensor, Tensor]:
        """Reconstruct tiles from the patches in `visible_BN` (boolean, row-major; default: a regular quarter).

        All tiles of a batch must show the same number of patches. Returns predicted pixels (B, C, H, W) in physical
        units, also for visible patches, and the loss on hidden valid pixels in the units of the target. Where the
        target is normalised per patch, `restore_with="context"` estimates the statistics of hidden patches from the
        visible ones; `"none"` leaves the prediction in the units of the target.
        """
        mae, device = self.mae, next(self.mae.parameters()).device
        rows, cols = shape = grid(pixels_BCHW, mae.architecture.patch)
        pixels_BCHW = pixels_BCHW.to(device)
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW.to(device)
        visible_BN = regular_quarter(len(pixels_BCHW), rows, cols) if visible_BN is None else visible_BN.bool()
        visible_BN = visible_BN.to(device)
        hidden_BM = visible_first(visible_BN)[:, int(visible_BN[0].sum()) :]
        mask = mask_from_patches(visible_BN, mae.architecture.groups)
        sensor = sensor_tensors(self.record, device)
        patches_BNCP = patchify(sensor.standardise(pixels_BCHW, valid_BCHW), mae.architecture.patch)
        valid_BNCP = patchify(valid_BCHW, mae.architecture.patch)
        every_BN = torch.arange(rows * cols, device=device).expand(len(pixels_BCHW), -1)
        predicted = mae.predict(patches_BNCP, valid_BNCP, sensor.codes_CF, mask, every_BN, shape, sensor.gsd_m).float()
        loss = mae.score(*(take(values, hidden_BM) for values in (predicted, patches_BNCP, valid_BNCP))).mean()
        if restore_with == "context":
            seen_BNCP = valid_BNCP & visible_BN[:, :, None, None]
            predicted = restore_from_context(
                predicted, every_BN, patches_BNCP, seen_BNCP, mae.architecture.target, cols
            )
            return to_physical(unpatchify(predicted, rows, cols), self.record), loss
        return unpatchify(predicted, rows, cols), loss


def regular_quarter(tiles: int, rows: int, cols: int) -> Tensor:
    """Boolean (B, N) that shows every second patch of every second row."""
    visible = torch.zeros(rows, cols, dtype=torch.bool)
    visible[::2, ::2] = True
    return visible.flatten().expand(tiles, -1)


def save_model(model: Model, folder: Path) -> None:
    """Publish a model folder as `folder`, which must not exist yet."""
    with publish_dir(folder) as temporary:
        write_model(model, temporary)


def write_model(model: Model, folder: Path) -> None:
    """Write the files of a model folder into an existing `folder`."""
    weights = dict(model.mae.state_dict())
    config = {
        "format": FORMAT,
        "architecture": model.mae.architecture,
        "sensors": [record.to_dict() for record in model.sensors],
        "provenance": model.provenance,
    }
    if model.head is not None:
        weights |= {f"{HEAD}{name}": value for name, value in model.head.module.state_dict().items()}
        write_json(folder / LEARNED_TILES, model.head.learned)
        learned = file_digest(folder / LEARNED_TILES)
        config["head"] = model.head.record.model_copy(update={"learned_tiles": learned})
    save_tensors(
        {name: value.detach().float().cpu().contiguous() for name, value in weights.items()},
        folder / "model.safetensors",
    )
    write_json(folder / "config.json", config)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors with reproducible bytes. Raises OSError where the disk is full."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})  # one key only: the order of several varies
    except SafetensorError as error:  # it reports disk errors only in its text
        raise OSError(str(error).rpartition("I/O error: ")[2]) from error


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """Read a model folder. Raises ModelError with the file and the remedy where it is incomplete or damaged."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: is not a model folder (no config.json); give the `model` folder of a training")
    try:
        config = read_json(folder / "config.json")
        architecture = Architecture.model_validate(config["architecture"])
        sensors = tuple(SensorRecord.from_dict(record) for record in config["sensors"])
        head = HeadRecord.model_validate(config["head"]) if "head" in config else None
    except ValidationError as error:
        kind = HeadRecord if error.title == HeadRecord.__name__ else Architecture
        raise ModelError(f"{folder / 'config.json'}: {explain(error, kind=kind)}") from error
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'}: {error} is missing; train or convert the model again") from error
    except GeomaeError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    if not sensors:
        raise ModelError(f"{folder / 'config.json'}: names no sensor; a model must know its bands and statistics")
    mae = MaskedAutoencoder(architecture)
    trained = None
    try:
        weights = load_file(folder / "model.safetensors")
        if head is not None:
            own = {name.removeprefix(HEAD): weights.pop(name) for name in list(weights) if name.startswith(HEAD)}
            trained = TrainedHead(head, build_head(architecture, head), _learned_tiles(folder, head))
            trained.module.load_state_dict(own)
            trained.module.eval().to(device)
        mae.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:300]
        file = folder / "model.safetensors"
        raise ModelError(f"{file}: does not fit config.json or is damaged ({detail}); copy it again") from error
    return Model(mae.eval().to(device), sensors, config.get("provenance", {}), head=trained)


def _learned_tiles(folder: Path, head: HeadRecord) -> dict[str, dict[str, Any]]:
    """Read the tiles that a head was trained on. Raises ModelError where the file is missing or was altered."""
    path = folder / LEARNED_TILES
    if not path.is_file() or file_digest(path) != head.learned_tiles:
        raise ModelError(
            f"{path}: is missing or was altered, so the tiles of its training are unknown; copy the folder again"
        )
    return dict(read_json(path))
