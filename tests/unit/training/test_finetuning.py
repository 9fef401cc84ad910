"""Fine-tuning: what learns and how fast, labels learned by heart, and what invalid pixels and noise do.

T tiles, H W pixels
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import write_catalog, write_scenes

from geomae.catalog import open_catalog
from geomae.config import parse
from geomae.models.architecture import Architecture
from geomae.models.criterion import Criterion
from geomae.models.folder import Model
from geomae.models.head_record import HeadRecord
from geomae.models.learning_parts import rate_scales
from geomae.models.mae import MaskedAutoencoder
from geomae.runtime.devices import open_compute
from geomae.runtime.signals import Stop
from geomae.tiles.index import build_index
from geomae.tiles.labelled_batches import LabelledTiles
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import own_record
from geomae.training.finetuning import FinetuneJob, finetune_model, network_of
from geomae.training.finetuning_config import FinetuneConfig
from geomae.training.supervised import LabelledPart

PLAIN = {"crops": 1.0, "flips": False, "turns": False, "gain": 0.0, "offset": 0.0}
QUICK = {"drop_path": 0.0, "smoothing": 0.0, "layer_decay": 1.0, "weight_decay": 0.0, "augment": PLAIN, "readers": 0}
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """64 tiles of 16 x 16 pixels in four bands."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "scenes").mkdir()
    write_scenes(folder / "scenes")
    return build_index(open_catalog(write_catalog(folder)), "tiny")


@pytest.fixture(scope="module")
def compute():
    return open_compute("cpu", "32", 1, 1)


def model_of(index, width=48, depth=2):
    """An encoder without a decoder, of weights that are the same each time, that knows the sensor of the tiles."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = Architecture(bands=4, patch=8, width=width, depth=depth, heads=2, decoder=None)
        return Model(MaskedAutoencoder(shape).eval(), (own_record(index),))


def job_of(index, label_T, task="classification", kind="linear", *, judged=False, tiles=None):
    model = model_of(index)
    record = model.record
    names = tuple(band.name for band in record.bands)
    chosen = index if tiles is None else index.take(np.arange(tiles))
    part = LabelledPart("tiny", LabelledTiles(TileReader(chosen, 2**30, names), label_T), record)
    head = HeadRecord(
        kind=kind, task=task, classes=() if task == "regression" else CLASSES, bands=names, sensor=record.name,
        tile=16, width=16,
    )  # fmt: skip
    return FinetuneJob(model, head, Criterion(task), part, part if judged else None, 0)


def run(compute, job, folder, steps, batch, rate=0.05, **settings):
    config = parse(FinetuneConfig, QUICK | {"steps": steps, "batch": batch, "rates": [rate]} | settings)
    learned = finetune_model(compute, config, job, folder, Stop())
    assert learned is not None
    return learned


def told(learned, job):
    """What the model says of the tiles that it learned from."""
    from geomae.models.finetuned import Finetuned

    tuned = Finetuned(learned.model, job.record)
    pixels, valid = job.learned.tiles.reader.many(range(len(job.learned)))
    return tuned.logits(torch.from_numpy(pixels), torch.from_numpy(valid)).numpy()


def random_classes(index):
    return np.random.default_rng(0).integers(0, 3, len(index))


@pytest.mark.parametrize(("method", "rate"), [("full", 0.03), ("lora", 0.1)])
def test_classes_are_learned_by_heart(index, compute, tmp_path, method, rate):
    label_T = random_classes(index)
    job = job_of(index, label_T)
    import time

    t = time.time()
    learned = run(compute, job, tmp_path, 80, 64, rate, method=method)
    print(time.time() - t)
    assert (told(learned, job).argmax(1) == label_T).mean() == 1.0
