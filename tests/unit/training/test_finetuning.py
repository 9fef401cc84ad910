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
from geomae.encoders.own_models import OwnEncoder
from geomae.errors import ConfigError
from geomae.evaluation.head_start import with_probe_head
from geomae.evaluation.linear_probe import C_VALUES, fit_path, one_hot
from geomae.models.architecture import Architecture
from geomae.models.criterion import Criterion
from geomae.models.finetuned import Finetuned
from geomae.models.folder import Model
from geomae.models.head_record import HeadRecord
from geomae.models.learning_parts import rate_scales
from geomae.models.mae import MaskedAutoencoder
from geomae.runtime.devices import open_compute
from geomae.runtime.signals import Stop
from geomae.tiles.index import build_index
from geomae.tiles.labelled_batches import Changes, LabelledTiles, labelled_batch
from geomae.tiles.reader import TileReader
from geomae.tiles.schedule import schedule_batches
from geomae.tiles.selection import own_record
from geomae.training.finetuning import FinetuneJob, Learned, class_weights, finetune_model, network_of, with_weights
from geomae.training.finetuning_config import FinetuneConfig
from geomae.training.optimizer import guarded_step
from geomae.training.supervised import LabelledPart, prepare

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
        tile=16, width=16, layer=model.mae.architecture.depth,
    )  # fmt: skip
    return FinetuneJob(model, head, Criterion(task), part, part if judged else None, 0)


def run(compute, job, folder, steps, batch, rate=0.05, **settings):
    config = parse(FinetuneConfig, QUICK | {"steps": steps, "batch": batch, "rates": [rate]} | settings)
    learned = finetune_model(compute, config, with_probe_head(compute, job), folder, Stop())
    assert learned is not None
    return learned


def told(learned, job):
    """What the model says of the tiles that it learned from."""
    tuned = Finetuned(learned.model, job.record)
    pixels, valid = job.learned.tiles.reader.many(range(len(job.learned)))
    return tuned.logits(torch.from_numpy(pixels), torch.from_numpy(valid)).numpy()


def random_classes(index):
    return np.random.default_rng(0).integers(0, 3, len(index))


@pytest.mark.parametrize(("method", "rate"), [("full", 0.02), ("lora", 0.06)])
def test_classes_are_learned_by_heart(index, compute, tmp_path, method, rate):
    label_T = random_classes(index)
    job = job_of(index, label_T)
    learned = run(compute, job, tmp_path, 120, 64, rate, method=method)
    assert (told(learned, job).argmax(1) == label_T).mean() == 1.0


def test_numbers_are_learned_by_heart(index, compute, tmp_path):
    value_T = np.random.default_rng(0).normal(size=len(index)).astype(np.float32)
    job = job_of(index, value_T, "regression")
    error_T = told(run(compute, job, tmp_path, 100, 64, 0.02), job)[:, 0] - value_T
    assert 1 - (error_T**2).sum() / ((value_T - value_T.mean()) ** 2).sum() >= 0.99


def test_classes_of_pixels_are_learned_by_heart(index, compute, tmp_path):
    """By a conv head: borders that no patch has, which are told by the values of one band."""
    job = job_of(index, np.zeros((8, 16, 16), np.int16), "segmentation", "conv", tiles=8)
    pixels, _ = job.learned.tiles.reader.many(range(8))
    label_THW = (pixels[:, 0] > np.median(pixels[:, 0])).astype(np.int16)
    job = job_of(index, label_THW, "segmentation", "conv", tiles=8)
    learned = run(compute, job, tmp_path, 60, 8, 0.5)
    assert (told(learned, job).argmax(1) == label_THW).mean() >= 0.98


def test_labels_that_end_with_patches_are_learned_by_a_linear_head(index, compute, tmp_path):
    label_TRC = np.random.default_rng(0).integers(0, 3, (8, 2, 2))
    label_THW = label_TRC.repeat(8, 1).repeat(8, 2).astype(np.int16)
    job = job_of(index, label_THW, "segmentation", tiles=8)
    learned = run(compute, job, tmp_path, 150, 8, 0.1)
    assert (told(learned, job).argmax(1) == label_THW).mean() == 1.0


METHODS = [
    ("full", lambda name: not name.startswith("encoder.norm")),
    ("lora", lambda name: name.startswith("head.") or (".attn." in name and name.endswith(("down_RI", "up_OR")))),
    ("last-blocks", lambda name: name.startswith(("head.", "encoder.blocks.1."))),
    ("head", lambda name: name.startswith("head.")),
]


@pytest.mark.parametrize(("method", "learns"), METHODS, ids=[name for name, _ in METHODS])
def test_methods_train_what_they_say(index, compute, tmp_path, method, learns):
    """What is frozen has no gradient and stays as it was; what learns changes."""
    job = job_of(index, random_classes(index))
    config = parse(FinetuneConfig, QUICK | {"method": method, "blocks": 1, "rank": 2})
    network, share = network_of(job, config)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in network.named_parameters() if learns(name)}
    assert share.trained == sum(value.numel() for name, value in network.named_parameters() if learns(name))
    learned = run(compute, job, tmp_path, 2, 16, 0.1, method=method, blocks=1, rank=2)
    before = {f"encoder.{name}": value for name, value in job.model.mae.encoder.state_dict().items()}
    after = {f"encoder.{name}": value for name, value in learned.model.mae.encoder.state_dict().items()}
    assert before.keys() == after.keys()  # corrections are merged
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    attention = {name for name in before if ".attn." in name and name.endswith("weight")}
    free = attention if method == "lora" else {name for name in before if learns(name)}
    assert changed <= free
    assert bool(changed) == (method != "head")


def test_rates_of_layers_follow_the_formula(index, compute, tmp_path):
    """decay^(depth + 1 - layer): of the embedding 0, of blocks from 1, of the head depth + 1."""
    scale = rate_scales(2, 0.5)
    assert [scale(f"encoder.{name}") for name in ("cls_token", "embedding.x", "blocks.0.mlp.fc1.weight")] == [
        0.125, 0.125, 0.25,
    ]  # fmt: skip
    assert (scale("encoder.blocks.1.norm1.bias"), scale("head.linear.weight")) == (0.5, 1.0)
    job = job_of(index, random_classes(index))
    config = parse(FinetuneConfig, QUICK | {"layer_decay": 0.5})
    training = prepare(
        compute.fabric, network_of(job, config)[0], config, 0, "32", job.criterion, job.learned, None, CLASSES, tmp_path
    )
    guarded_step(training.optimizer, 0.8, torch.tensor(False))
    assert {group["lr"] for group in training.optimizer.param_groups} == {0.1, 0.2, 0.4, 0.8}


def test_what_is_not_labelled_or_not_valid_changes_no_loss_and_no_gradient():
    criterion = Criterion("segmentation", (1.0, 2.0, 3.0), 0.1)
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    label = torch.arange(32).reshape(2, 4, 4) % 3
    label[0, 0] = -1
    valid = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    valid[1, :, :, 0] = False
    criterion.losses(logits, label, valid).sum().backward()
    known = (label != -1) & valid[:, 0]
    assert (logits.grad[(~known)[:, None].expand_as(logits)] == 0).all()
    assert (logits.grad[known[:, None].expand_as(logits)] != 0).all()
    spoilt = logits.detach().where(known[:, None], torch.nan).requires_grad_()
    loss_B = criterion.losses(spoilt, label.where(known, 2), valid & known[:, None])
    torch.testing.assert_close(loss_B, criterion.losses(logits, label, valid))
    loss_B.sum().backward()
    torch.testing.assert_close(spoilt.grad, logits.grad)
    weight = torch.tensor([1.0, 2.0, 3.0])[label[known]].sum()
    assert criterion.count(label, valid) == pytest.approx(float(weight))


def test_balanced_classes_count_alike():
    label_T = np.array([0, 0, 0, 1, 2, 2, -1])
    weight_K = class_weights(label_T, 3)
    assert [weight_K[code] * (label_T == code).sum() for code in range(3)] == pytest.approx([2.0, 2.0, 2.0])


def test_labels_of_pixels_are_cropped_and_turned_with_them(index):
    """A label that says where a pixel lies; only the nearest is taken, so that no class appears that was not there."""
    names = tuple(band.name for band in index.source.bands)
    reader = TileReader(index, 2**30, names)
    pixels, _ = reader.many(range(len(index)))
    label_THW = (pixels[:, 0] > np.median(pixels[:, 0])).astype(np.int16)
    tiles = LabelledTiles(reader, label_THW)
    order = schedule_batches(3, (len(index),), 16, 4)
    turned = labelled_batch(tiles, order, Changes(flips=True, turns=True), 1, 0, 1)
    again = (turned.pixels_BCHW[:, 0] > float(np.median(pixels[:, 0]))).to(turned.labels.dtype)
    assert torch.equal(turned.labels, again)
    plain = labelled_batch(tiles, order, Changes(), 1, 0, 1)
    assert not torch.equal(turned.labels, plain.labels)
    cropped = labelled_batch(tiles, order, Changes(crops=0.5), 1, 0, 1)
    assert cropped.pixels_BCHW.shape == plain.pixels_BCHW.shape
    assert cropped.zoom_B.min() >= 0.5
    halves = [labelled_batch(tiles, order, Changes(crops=0.5), 1, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([one.pixels_BCHW for one in halves]), cropped.pixels_BCHW)
    assert [name for one in halves for name in one.tile_ids] == list(cropped.tile_ids)


def test_patience_and_the_best_step(index, compute, tmp_path):
    """Held-out labels that cannot be learned stop the training early, and the best step is kept."""
    job = job_of(index, random_classes(index), judged=True)
    noise = replace(job.held, tiles=replace(job.held.tiles, label_T=np.roll(job.held.tiles.label_T, 1)))
    learned = run(compute, replace(job, held=noise), tmp_path, 60, 64, 0.02, eval_every=5, patience=2)
    assert learned.steps == learned.kept_step + 10 < 60


def test_a_linear_head_begins_as_the_probe_of_the_frozen_encoder(index, compute, tmp_path):
    """Kept where no step is better; its strength is the one with the least loss on what is held out."""
    label_T = random_classes(index)
    job = job_of(index, label_T, judged=True)
    job = replace(job, held=replace(job.held, tiles=replace(job.held.tiles, label_T=label_T[::-1].copy())))
    begins = with_probe_head(compute, job)
    learned = run(compute, job, tmp_path, 8, 64, 0.5, eval_every=4)
    assert learned.kept_step == 0
    encoder = OwnEncoder(job.model, job.model.mae.architecture.depth - 1, "mean-std")
    layered = replace(job, record=job.record.model_copy(update={"layer": job.model.mae.architecture.depth - 1}))
    layered = with_probe_head(compute, layered)
    pixels, valid = (torch.from_numpy(values) for values in job.learned.tiles.reader.many(range(len(index))))
    embedding_TD = encoder.embed(pixels, valid)[0].numpy()
    probe = fit_path(embedding_TD, one_hot(label_T, 3), [layered.start.strength], balanced=False)[0]
    model = with_weights(layered, dict(network_of(layered, parse(FinetuneConfig, QUICK))[0].state_dict()))
    logits_TK = Finetuned(model, layered.record).logits(pixels, valid).numpy()
    np.testing.assert_allclose(logits_TK, probe.scores(embedding_TD), atol=1e-3)
    assert begins.start.strength == min(C_VALUES)  # labels of others: the most careful probe is the best
    own = with_probe_head(compute, job_of(index, label_T, judged=True))
    assert own.start.strength == max(C_VALUES)  # its own labels: the boldest


def test_blocks_behind_the_head_stay_as_they_are(index, compute, tmp_path):
    job = job_of(index, random_classes(index))
    job = replace(job, record=job.record.model_copy(update={"layer": 1}))
    network, _ = network_of(job, parse(FinetuneConfig, QUICK))
    assert not any(value.requires_grad for value in network.encoder.blocks[1].parameters())
    with pytest.raises(ConfigError, match="blocks: 2 are to be trained, but the head reads only 1"):
        network_of(job, parse(FinetuneConfig, QUICK | {"method": "last-blocks"}))
    learned = run(compute, job, tmp_path, 2, 16, 0.1)
    before, after = (one.mae.encoder.blocks for one in (job.model, learned.model))
    assert all(map(torch.equal, before[1].parameters(), after[1].parameters()))
    assert not torch.equal(before[0].mlp.fc1.weight, after[0].mlp.fc1.weight)


def test_how_sure_a_network_is_does_not_decide_which_step_is_kept(index, compute, tmp_path):
    """Logits twice as large tell the same after calibration, and have the same loss on held-out tiles."""
    label_T = random_classes(index)
    mostly_T = np.where(
        np.arange(len(label_T)) % 3 == 0, np.roll(label_T, 1), label_T
    )  # so that being sure can be wrong
    job = job_of(index, label_T, judged=True)
    held = replace(job.held, tiles=replace(job.held.tiles, label_T=mostly_T))
    job = with_probe_head(compute, replace(job, held=held))
    config = parse(FinetuneConfig, QUICK)
    network, _ = network_of(job, config)
    training = prepare(
        compute.fabric, network, config, 0, "32", job.criterion, job.learned, job.held, CLASSES, tmp_path
    )
    (before,) = training.scores(baselines=False).values()
    with torch.no_grad():
        network.head.linear.weight *= 0.5
        network.head.linear.bias *= 0.5
    (after,) = training.scores(baselines=False).values()
    assert after.loss == pytest.approx(before.loss, rel=1e-4)
    assert after.value == before.value
    logits_TK = torch.from_numpy(told(Learned(with_weights(job, network.state_dict()), None, 0, {}, 0, 0), job))
    plain = torch.nn.functional.cross_entropy(logits_TK, torch.from_numpy(mostly_T))
    assert after.loss < float(plain)
