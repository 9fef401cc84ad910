"""A threshold of one band of a real scene, learned by a conv head, as `geomae predict` maps it."""

import shutil

import numpy as np
import rasterio
import torch
from helpers import write_catalog

from geomae.catalog import open_catalog
from geomae.commands.options import CommonOptions
from geomae.commands.predict import PredictOptions, run
from geomae.config import parse
from geomae.models.architecture import Architecture
from geomae.models.criterion import Criterion
from geomae.models.folder import Model, save_model
from geomae.models.head_record import HeadRecord
from geomae.models.mae import MaskedAutoencoder
from geomae.runtime.devices import open_compute
from geomae.runtime.signals import Stop
from geomae.tiles.index import build_index
from geomae.tiles.labelled_batches import LabelledTiles
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import own_record
from geomae.training.finetuning import FinetuneJob, finetune_model
from geomae.training.finetuning_config import FinetuneConfig
from geomae.training.supervised import LabelledPart

# As the shared catalogue has it, in smaller tiles, so that the test takes seconds.
CATALOG = """\
version: 1
datasets:
  landsat7-olinda:
    path: L7_ETMs.tif
    sensor: landsat-7-etm
    bands: [blue, green, red, nir08, swir16, swir22]
    unit: digital_number
    scale: 1
    offset: 0
    tile: {size: 32}
"""
NIR = 3
PLAIN = {"crops": 1.0, "flips": True, "turns": True, "gain": 0.0, "offset": 0.0}
SETTINGS = {
    "steps": 150, "batch": 8, "rates": [0.3], "drop_path": 0.0, "smoothing": 0.0, "weight_decay": 0.0,
    "augment": PLAIN, "readers": 0, "head": "conv",
}  # fmt: skip


def test_a_threshold_of_one_band_is_mapped(shared_data, tracking_uri, tmp_path):
    """Half of the pixels lie above it: at least 97 % of all pixels of the scene are mapped right."""
    shutil.copyfile(shared_data / "scenes/landsat7_olinda/L7_ETMs.tif", tmp_path / "L7_ETMs.tif")
    catalog = write_catalog(tmp_path, CATALOG)
    with rasterio.open(tmp_path / "L7_ETMs.tif") as scene:
        nir_HW = scene.read(NIR + 1)
    threshold = np.median(nir_HW)
    learn_threshold(catalog, float(threshold), tmp_path / "model")
    common = CommonOptions(
        catalog, tmp_path / "out", device="cpu", precision="32", quiet=True, tracking_uri=tracking_uri
    )
    assert run(PredictOptions(common, tmp_path / "model", ("landsat7-olinda",))) == 0
    with rasterio.open(tmp_path / "out/map_L7_ETMs.tif") as made:
        right = float((made.read(1) == np.where(nir_HW > threshold, 2, 1)).mean())
    assert right >= 0.97, right


def learn_threshold(catalog, threshold, folder):
    """Fine-tune an untrained encoder with a conv head on which pixels lie above a threshold of the near infrared."""
    index = build_index(open_catalog(catalog), "landsat7-olinda")
    imagery = own_record(index)
    names = tuple(band.name for band in imagery.bands)
    reader = TileReader(index, 2**30, names)
    label_THW = (reader.many(range(len(index)))[0][:, NIR] > threshold).astype(np.int16)
    shape = Architecture(bands=len(names), patch=8, width=24, depth=2, heads=2, decoder=None)
    head = HeadRecord(
        kind="conv", task="segmentation", classes=("below", "above"), codes=(1, 2), bands=names, sensor=imagery.name,
        tile=32, width=16, layer=2, gsd_m=imagery.gsd_m, class_shares=(0.5, 0.5),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(MaskedAutoencoder(shape).eval(), (imagery,))
    part = LabelledPart(index.name, LabelledTiles(reader, label_THW), imagery)
    compute = open_compute("cpu", "32", 1, 1)
    job = FinetuneJob(model, head, Criterion("segmentation"), part, None, 0)
    learned = finetune_model(compute, parse(FinetuneConfig, SETTINGS), job, folder.parent / "training", Stop())
    assert learned is not None
    save_model(learned.model, folder)
