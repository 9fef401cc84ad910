"""`geomae pretrain`: from a catalogue to a trained model, start to end."""

import contextlib
from dataclasses import replace
from pathlib import Path

import torch

from geomae.catalog import Catalog, open_catalog, parse_selector
from geomae.catalog.schema import ALL
from geomae.commands import run as run_folder
from geomae.commands.pretrain_job import PretrainJob, PretrainOptions, resolve
from geomae.commands.pretrain_probe import labelled_tiles
from geomae.commands.pretrain_report import Reporter
from geomae.commands.run import RunFolder
from geomae.config import PretrainConfig, flatten
from geomae.errors import CheckpointError, ConfigError
from geomae.models.architecture import architecture
from geomae.models.folder import Model
from geomae.models.mae import MaskedAutoencoder
from geomae.randomness import key
from geomae.runtime import devices
from geomae.runtime.console import Screen
from geomae.runtime.devices import Fabric
from geomae.runtime.precision import keep_freed_memory
from geomae.runtime.signals import die_with_parent, watch
from geomae.tiles.batches import schedule_batches
from geomae.training.data import TrainingData, assemble
from geomae.training.loop import train
from geomae.training.trainer import prepare


def run(request: PretrainOptions) -> int:
    """Train, or go on with a training. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    if devices.started_by_us():
        die_with_parent()
    rank = devices.early_rank()
    screen = Screen(shown=not request.quiet and rank == 0)
    folder = RunFolder(request.resume.absolute()) if request.resume else None
    job = resolve(request, folder)
    if folder is not None and folder.finished:
        screen.say(f"{folder.path}: this run is finished; its model is in {folder.model}")
        return 0
    if request.out is not None and folder is None and rank == 0:
        run_folder.check_new(request.out)
    fabric = devices.build_fabric(request.device, request.devices, request.nodes, request.strategy)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    _check_shares(job.config, fabric.world_size)
    catalog = open_catalog(job.catalog)
    # Where we start the other ranks, that comes after everything that can be wrong with the request, so that it is said
    # once; where a scheduler has started them, rank 0 goes first and leaves what it measured to the others.
    external = devices.external()
    if external:
        fabric.launch()
    with fabric.rank_zero_first() if external else contextlib.nullcontext():
        data = _assemble(catalog, job, screen)
    mae = _new_model(job, data)
    probed = labelled_tiles(catalog, job, data, Model(mae, data.sensors))
    if request.dry_run:
        _describe(screen, job, data, mae, fabric)
        return 0
    if folder is not None:
        _check_same_data(folder, data)
    if not external:
        fabric.launch()
    folder = _agree_on_folder(fabric, request, job, data, folder)
    with contextlib.ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(run_folder.lock(folder))
        reporter = stack.enter_context(Reporter(folder, request, job, catalog, data, fabric, screen, probed))
        return _train(fabric, job, data, mae, folder, reporter)


def _train(
    fabric: Fabric, job: PretrainJob, data: TrainingData, mae: MaskedAutoencoder, folder: RunFolder, reporter: Reporter
) -> int:
    config = job.config
    with watch() as stop:
        trainer = prepare(
            fabric, mae, config, job.seed, job.precision, data.training, data.validation, folder.checkpoints
        )
        reporter.begin(trainer)
        order = schedule_batches(job.seed, tuple(len(one.reader) for one in data.training), config.batch, config.steps)
        for event in train(trainer, order, stop):
            reporter.report(trainer, event)
        if trainer.progress.step < config.steps:
            reporter.stopped(trainer, stop)
            return stop.exit_code or 143 if fabric.is_global_zero or devices.external() else 0
        reporter.finish(trainer)
    return 0


def _check_shares(config: PretrainConfig, ranks: int) -> None:
    """Every rank and every pass must get the same number of tiles."""
    if config.batch % (ranks * config.accumulate):
        raise ConfigError(
            f"batch: {config.batch} tiles cannot be shared by {ranks} devices in {config.accumulate} passes; "
            f"take a multiple of {ranks * config.accumulate}"
        )


def _assemble(catalog: Catalog, job: PretrainJob, screen: Screen) -> TrainingData:
    selectors, evaluations = (
        [replace(one, split=None) if one.split == ALL else one for one in map(parse_selector, texts)]
        for texts in (job.datasets, job.evaluations)
    )
    data = assemble(catalog, selectors, evaluations, job.config, job.seed, screen.step)
    screen.close()
    for note in data.notes:
        screen.say(note)
    return data


def _check_same_data(folder: RunFolder, data: TrainingData) -> None:
    if folder.request()["data"] != data.digest:
        raise CheckpointError(
            f"--resume {folder.path}: the catalogue or its files are others than when the run began; restore them, "
            "or start a new run"
        )


def _agree_on_folder(
    fabric: Fabric, request: PretrainOptions, job: PretrainJob, data: TrainingData, folder: RunFolder | None
) -> RunFolder:
    """Rank 0 makes the folder of the run, and the others learn its name; a name with a time would differ by rank."""
    if folder is not None:
        return folder
    path = ""
    if fabric.is_global_zero:
        made = run_folder.make(
            (request.out or run_folder.default_out("pretrain")).absolute(), job.to_dict() | {"data": data.digest}
        )
        path = str(made.path)
    return RunFolder(Path(fabric.broadcast(path)))


def _new_model(job: PretrainJob, data: TrainingData) -> MaskedAutoencoder:
    """A model whose initial weights are a function of the seed."""
    config = job.config
    shape = architecture(
        config.preset,
        kind=config.model,
        bands=len(data.training[0].record.bands),
        groups=data.groups,
        patch=config.patch,
        embedding=config.embedding,
        target=config.target,
        decoder=config.decoder,
        positions=config.positions,
        reference_gsd_m=config.reference_gsd_m,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(job.seed, "weights") % 2**63)
        return MaskedAutoencoder(shape)


def _describe(screen: Screen, job: PretrainJob, data: TrainingData, mae: MaskedAutoencoder, fabric: Fabric) -> None:
    """What a dry run prints."""
    millions = sum(value.numel() for value in mae.parameters()) / 1e6
    screen.result(f"catalogue {job.catalog}")
    for what, group in (("train on", data.training), ("validate on", data.validation)):
        for one in group:
            bands = ", ".join(band.name for band in one.record.bands)
            screen.result(
                f"{what} {one.name}: {len(one.reader)} tiles of {one.record.name} in {one.record.unit} ({bands})"
            )
    screen.result(
        f"{job.config.preset}, {millions:.1f} million parameters, {job.config.steps} steps of {job.config.batch} tiles "
        f"on {fabric.world_size} x {fabric.device.type} in {job.precision}, seed {job.seed}"
    )
    for name, value in flatten(job.config.model_dump(mode="json")).items():
        screen.result(f"  {name}: {value}")
