"""Adaptation: pretraining continued on target tiles, until the validation score of held-out tiles stops improving.

T tiles
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geomae.config import LEAST_CONTRASTED, AdaptConfig, Objective, Optimizer, PretrainConfig, parse
from geomae.errors import CatalogError, ConfigError, ModelError
from geomae.models.objective import kept_weights
from geomae.models.trainable import Trainable
from geomae.models.trainable_weights import Share, merged, unfreeze
from geomae.randomness import key
from geomae.runtime.devices import Compute
from geomae.runtime.signals import Stop
from geomae.tiles.index import TileIndex
from geomae.tiles.learned_tiles import record_content
from geomae.tiles.places import Partners
from geomae.tiles.reader import TileReader
from geomae.tiles.schedule import schedule_batches
from geomae.tiles.selection import Selection, check_no_pixel_overlap, index_gsd_m, overlapping
from geomae.tiles.splits import validation_tiles
from geomae.tiles.tile_cache import cache_note, tile_cache
from geomae.training import checkpoints
from geomae.training.data import Dataset, pair_tiles, usable_tiles
from geomae.training.engine import stale
from geomae.training.loop import Event, save, train, validate
from geomae.training.starts import Start
from geomae.training.trainer import prepare
from geomae.training.validation import MODEL

ADAPTED = "adapted"  # key of a model's provenance: the target that it was adapted to
RATES = {"full": 0.004, "last-blocks": 0.008, "lora": 0.008, "norm": 0.03, "heads": 0.008}  # for 256 tiles a step


@dataclass(frozen=True)
class AdaptationDomain:
    """The training tiles and the held-out tiles of a selection; whole groups or blocks are held out where possible."""

    selected: Selection
    training: Dataset
    held: Dataset

    @property
    def name(self) -> str:
        """The text of the selector."""
        return self.selected.name


@dataclass(frozen=True)
class AdaptationDomains:
    """Target, source, and the start model with the sensors of both. `notes` report automatic decisions."""

    model: Start
    target: AdaptationDomain
    source: AdaptationDomain | None
    notes: tuple[str, ...]
    objective: Objective = field(default_factory=Objective)  # without `places` where no tile has a partner
    partners: Partners | None = None  # of the training tiles, the target's first; None: no term compares views

    @property
    def all(self) -> tuple[AdaptationDomain, ...]:
        """The target, then the source if there is one."""
        return (self.target,) if self.source is None else (self.target, self.source)


@dataclass(frozen=True)
class AdaptedModel:
    """The adapted model, with LoRA merged into its weights; the trained share; the step that is kept, and the last."""

    model: Start
    share: Share
    kept_step: int
    steps: int


def read_adaptation_domains(
    model: Start, selections: Sequence[Selection], config: PretrainConfig, seed: int
) -> AdaptationDomains:
    """Return the domains of the selections (target, then source) for a model that will be trained on them.

    Raises CatalogError, ConfigError, BandMismatchError or ModelError where tiles, bands and model do not fit together.
    """
    if config.objective.pixels and model.decoding is None:
        raise ModelError(
            "objective.pixels: the model is an encoder without a decoder, which cannot predict pixels; --set "
            "objective.pixels=0 --set objective.contrast=1 goes on without it, or bring weights with their decoder "
            "through `geomae convert`"
        )
    notes = list(model.untouched)
    for one in reversed(selections):  # the target's sensor last, which becomes the first of the model
        model = model.with_sensor(one.imagery, notes)
    if len(selections) == 2:
        check_no_pixel_overlap(selections[1].index, selections[0].index, f"--source {selections[1].name}")
    memory = config.data.memory_mb * 1024**2 // (2 * len(selections))
    target, *others = [_domain(model, one, config, memory, seed, notes) for one in selections]
    paired = pair_tiles([(one.name, one.training.index) for one in (target, *others)], config.objective, notes)
    return AdaptationDomains(model, target, others[0] if others else None, tuple(dict.fromkeys(notes)), *paired)


def training_config(config: AdaptConfig, start: Start) -> PretrainConfig:
    """Return the training configuration of an adaptation; its objective is by default that of the model's training.

    `places` is added to that, since tiles of source and target may show the same ground where those of the model's
    training did not; without such tiles it is left out again (see `read_adaptation_domains`).

    Raises ConfigError where the objective does not fit the method or the batch.
    """
    rate = RATES[config.method] if config.rate is None else config.rate
    objective = config.objective or _with_places(start.objective, config.batch)
    if config.method == "heads" and objective.pixels:
        raise ConfigError(
            "--method heads: keeps the model as it is, and pixels have no head of their own; --set objective.pixels=0 "
            "--set objective.contrast=1 compares by another term"
        )
    chosen = {
        "masking": config.masking, "optimizer": Optimizer(base_rate=rate), "objective": objective,
        "views": config.views, "data": config.data, "steps": config.steps, "batch": config.batch,
        "eval_every": config.eval_every, "save_every": config.save_every, "keep": 1,
    }  # fmt: skip
    return parse(PretrainConfig, start.training | chosen)


def _with_places(objective: Objective, batch: int) -> Objective:
    """The objective with `places` where it has textures, which learn from partners, too, and steps are large enough."""
    if objective.places or not objective.textures or batch < LEAST_CONTRASTED:
        return objective
    return objective.model_copy(update={"places": 1.0})


def trainable(domains: AdaptationDomains, config: AdaptConfig, seed: int) -> tuple[Trainable, Share]:
    """Return a trainable copy of the model, and which weights the method trains. Low-rank weights depend on `seed`."""
    network = domains.model.network([one.training.record for one in domains.all])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "low rank") % 2**63)
        return network, unfreeze(
            network, config.method, blocks=config.whole_blocks, rank=config.rank, pixels=domains.objective.pixels > 0
        )


def adapt_model(
    compute: Compute,
    config: AdaptConfig,
    domains: AdaptationDomains,
    folder: Path,
    seed: int,
    stop: Stop,
    on_event: Callable[[Event], None] = lambda event: None,
) -> AdaptedModel | None:
    """Train, or resume from the checkpoints in `folder`. Returns None where `stop` ended the training.

    The weights with the best validation score are kept; where no step improves on the start, those of the start.
    `on_event` is called with each event of the training loop.
    """
    network, share = trainable(domains, config, seed)
    training = [one.training for one in domains.all]
    job = training_config(config, domains.model).model_copy(update={"objective": domains.objective})
    trainer = prepare(
        compute.fabric, network, job, seed, compute.precision, training, [domains.target.held],
        folder,
    )  # fmt: skip
    if job.objective.pixels:
        # The score that is reported. The loss is only roughly proportional to it, since it weights bands differently.
        trainer.judged_by = lambda scores: scores.mean(MODEL)
    if trainer.progress.step == 0:
        on_event(Event(0, scores=validate(trainer)))  # the score that training has to improve on
        save(trainer)
    shares = (1 - config.replay, config.replay)[: len(training)]
    order = schedule_batches(
        seed, tuple(len(one.reader) for one in training), config.batch, config.steps, shares, domains.partners,
        job.objective.places > 0, [one.reader.side_T for one in training], [one.reader.groups for one in training],
    )  # fmt: skip
    if not stale(trainer.progress, config):
        for event in train(trainer, order, stop):
            on_event(event)
            if event.scores is not None and stale(trainer.progress, config):
                break
    if trainer.progress.step < config.steps and not stale(trainer.progress, config):
        return None
    kept = trainer.progress.best_step or 0
    weights = checkpoints.weights_of(folder, kept)
    return AdaptedModel(domains.model.with_weights(merged(kept_weights(weights))), share, kept, trainer.progress.step)


def check_not_adapted(model: Start, target_digest: str, name: str) -> None:
    """Raise ConfigError where the model `name`, or one of its predecessors, was adapted to the same tiles already."""
    provenance: Mapping[str, Any] | None = model.provenance
    while provenance is not None:
        adapted = provenance.get(ADAPTED, {})
        if adapted.get("target_digest") == target_digest:
            raise ConfigError(
                f"--model {name}: was adapted to {adapted['target']} already; --again adapts it once more"
            )
        provenance = provenance.get("from")


def adapted_provenance(
    config: AdaptConfig, domains: AdaptationDomains, adapted: AdaptedModel, digest: str
) -> dict[str, Any]:
    """Return the provenance of an adapted model; `digest` is that of the start model's weights."""
    target = domains.target
    return {
        "dataset": [one.name for one in domains.all],
        "content": record_content(one.training.index for one in domains.all),
        "tile": [int(target.selected.index.tiles["size"].iloc[0])] * 2,
        ADAPTED: {
            "model_digest": digest,
            "target": target.name,
            "target_digest": target.selected.digest(),
            "method": config.method,
            "objective": domains.objective.weights(),
            "steps": adapted.kept_step,
            "parameters_trained": adapted.share.trained,
        },
        "from": domains.model.provenance,
    }


def _domain(
    model: Start, selected: Selection, config: PretrainConfig, memory: int, seed: int, notes: list[str]
) -> AdaptationDomain:
    record, said = model.fit(selected.imagery, sorted(set(selected.index.tiles["size"].tolist())))
    notes += said
    names = tuple(band.name for band in record.bands)
    index = usable_tiles(selected.index, config, names, model.groups, notes)
    held_T = validation_tiles(index.tiles, config.data.validation, seed)
    if not held_T.any():
        raise CatalogError(
            f"{selected.name}: has {len(index)} usable tile{'s' * (len(index) != 1)}, too few to hold some out; "
            "held-out tiles are needed to measure whether an adaptation helps; choose more tiles"
        )

    kept = tile_cache(config.data)
    notes += cache_note(config.data, index)

    def part(name: str, tiles: TileIndex) -> Dataset:
        return Dataset(name, TileReader(tiles, memory, names, kept), replace(record, gsd_m=index_gsd_m(tiles)))

    learned, held = (index.take(np.flatnonzero(chosen_T)) for chosen_T in (~held_T, held_T))
    learned = _without_overlap(selected.name, learned, held, notes)
    return AdaptationDomain(selected, part(selected.name, learned), part(f"{selected.name}-held-out", held))


def _without_overlap(name: str, learned: TileIndex, held: TileIndex, notes: list[str]) -> TileIndex:
    """Drop training tiles that overlap held-out tiles, if at least half are left. Notes report what remains shared."""
    shared_T = overlapping(learned, held)
    many = 2 * shared_T.sum() > len(learned)
    if many:
        notes.append(
            f"{name}: {shared_T.sum()} of the {len(learned)} training tiles overlap held-out tiles, so that errors on "
            "these are too low; cut tiles without overlap, or give the data set blocks or groups"
        )
    elif shared_T.any():
        notes.append(f"{name}: {shared_T.sum()} tiles that overlap held-out tiles are left out of training")
        learned = learned.take(np.flatnonzero(~shared_T))
    known = set(learned.independent_units()) & set(held.independent_units())
    if known:
        notes.append(
            f"{name}: of the groups of held-out tiles ({len(set(held.independent_units()))}), {len(known)} also have "
            "training tiles; the groups are too large to hold whole ones out"
        )
    return learned
