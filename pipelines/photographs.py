"""A masked autoencoder of photographs as a model folder, and its conversion to the bands and statistics of tiles."""

from pathlib import Path
from typing import Any

import torch

from geomae.commands import catalog_stats, convert
from geomae.commands.convert import ConvertOptions
from geomae.commands.options import CommonOptions
from geomae.config import Decoder
from geomae.files import read_json
from geomae.models.architecture import architecture
from geomae.models.convert.mae import PICTURES
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord


def photographs(weights: Path | None, folder: Path, seed: int, **options: Any) -> Path:
    """The model folder for red, green and blue; without weights, an untrained transformer of the size of `tiny`."""
    if folder.exists():
        return folder
    if weights is not None:
        convert.run(ConvertOptions(weights, folder, **options))
        return folder
    print("no --weights: an untrained transformer is used, so this only tests the chain of commands", flush=True)
    bands = tuple(sensor("naip").band(name) for name in ("red", "green", "blue"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mae = MaskedAutoencoder(architecture("tiny", bands=3, patch=8, embedding="stacked", decoder=Decoder()))
    record = SensorRecord(PICTURES, "digital_number", None, bands, (0.0,) * 3, (1.0,) * 3)
    save_model(Model(mae.eval(), (record,), {"untrained": True}), folder)
    return folder


def in_bands(model: Path, catalog: Path, dataset: str, measured: Path, folder: Path) -> Path:
    """The model folder for the bands of `dataset`, with their statistics, which are written to `measured`."""
    if folder.exists():
        return folder
    file = measured / "stats.json"
    if not file.exists():
        catalog_stats.run(CommonOptions(catalog=catalog, out=measured, quiet=True), (dataset,))
    ((record,),) = (splits.values() for splits in read_json(file).values())
    bands = f"{record['sensor']}:{','.join(record['bands'])}"
    convert.run(ConvertOptions(model, folder, bands=bands, statistics=file))
    return folder
