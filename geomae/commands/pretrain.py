"""`geomae pretrain`: train a masked autoencoder on the tiles of a catalogue."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomae.commands.options import (
    CatalogFile,
    Changes,
    CommonOptions,
    Datasets,
    Device,
    Devices,
    DryRun,
    Experiment,
    Nodes,
    Out,
    Precision,
    Quiet,
    RunName,
    TrackingUri,
    check_new,
    check_writable,
    command,
    output_folder,
)
from geomae.errors import CheckpointError, ConfigError, StorageError

if TYPE_CHECKING:
    from geomae.catalog import Catalog
    from geomae.commands.pretrain_report import Reporter
    from geomae.commands.run import RunFolder
    from geomae.config import PretrainConfig
    from geomae.evaluation.pretraining_probe import LabelledTiles
    from geomae.models.folder import Model
    from geomae.models.mae import MaskedAutoencoder
    from geomae.runtime.devices import Fabric
    from geomae.tiles.index import TileIndex
    from geomae.training.data import TrainingData
    from geomae.training.pretraining import PretrainJob


@dataclass(frozen=True)
class PretrainOptions:
    """The options of the command; None where the user gave none, so that a resume keeps the settings of the run."""

    catalog: CatalogFile = None
    datasets: Datasets = ()
    evaluations: Annotated[
        tuple[str, ...], typer.Option("--eval", help="SELECTOR of further tiles to validate on; repeatable.")
    ] = ()
    config: Annotated[str | None, typer.Option(help="FILE or shipped NAME; default tiny.")] = None
    changes: Changes = ()
    out: Out = None
    resume: Annotated[Path | None, typer.Option(help="Folder of a run to continue.")] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, tiles and masks; default 0.")] = None
    device: Device = "auto"
    precision: Precision = "auto"
    devices: Devices = 1
    nodes: Nodes = 1
    strategy: Annotated[str, typer.Option(help="auto, ddp or fsdp.")] = "auto"
    tracking_uri: TrackingUri = None
    experiment: Experiment = "geomae"
    run_name: RunName = None
    register: Annotated[str | None, typer.Option(help="Register the model in MLflow under this name.")] = None
    dry_run: DryRun = False
    quiet: Quiet = False
    probe: Annotated[
        str | None, typer.Option(help="SELECTOR of labelled tiles for a kNN probe, every `probe_every` steps.")
    ] = None
    parent_run: str | None = None  # MLflow run of a study, of which this is a part

    @property
    def common(self) -> CommonOptions:
        """The options shared with other commands; the seed is that of a new run."""
        return CommonOptions(
            catalog=self.catalog, out=self.out, seed=self.seed or 0, device=self.device, precision=self.precision,
            devices=self.devices, nodes=self.nodes, tracking_uri=self.tracking_uri, experiment=self.experiment,
            run_name=self.run_name, dry_run=self.dry_run, quiet=self.quiet, parent_run=self.parent_run,
        )  # fmt: skip


def run(options: PretrainOptions) -> int:
    """Train, or resume a run. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    common = options.common
    check_one_folder(options)
    new = read_config_and_selectors(options, common) if options.resume is None else None
    indexes = None if new is None else index_first(options, new[0], new[2])
    # Slow imports (torch takes seconds) follow the checks and the index of tiles, which do not need them.
    from geomae.catalog import open_catalog
    from geomae.catalog.catalog import with_absolute_path
    from geomae.commands.pretrain_report import Reporter, describe_dry_run
    from geomae.commands.run import RunFolder, lock
    from geomae.models.folder import Model
    from geomae.runtime import devices
    from geomae.runtime.console import Screen
    from geomae.training.data import assemble
    from geomae.training.trainer import initial_model

    screen = Screen(shown=not options.quiet and devices.early_rank() == 0)
    folder = RunFolder(options.resume.absolute()) if options.resume else None
    job = resolve_job(options, new, folder)
    if folder is not None and folder.finished:
        screen.say(f"{folder.path}: this run is finished; its model is in {folder.model}")
        return 0
    if options.out is not None and folder is None and devices.early_rank() == 0:
        _check_out(options.out, job)
    fabric = devices.build_fabric(options.device, options.devices, options.nodes, options.strategy)
    devices.check_shares(job.config.batch, job.config.accumulate, fabric.world_size)
    catalog = open_catalog(job.catalog) if new is None else with_absolute_path(common.open_catalog())
    # If this process starts the other ranks, it does so after all checks of the request, so that an error is printed
    # once. If a scheduler has started them, rank 0 measures first and shares the results with the others.
    external = devices.external()
    if external:
        devices.launch(fabric)
    with fabric.rank_zero_first() if external else contextlib.nullcontext():
        data = assemble(catalog, *job.selectors(), job.config, job.seed, screen.step, indexes)
    screen.close()
    for note in data.notes:
        screen.say(note)
    mae = initial_model(job.config, data, job.seed)
    probed = _tiles_to_probe(catalog, job, data, Model(mae, data.sensors))
    if options.dry_run:
        describe_dry_run(screen, job, data, mae, fabric)
        return 0
    if folder is not None:
        _check_same_data(folder, data)
    if not external:
        devices.launch(fabric)
    folder = _agree_on_folder(fabric, options, job, data, folder)
    with contextlib.ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(lock(folder))
        reporter = stack.enter_context(
            Reporter(folder, common, job, catalog, data, fabric, screen, probed, options.register)
        )
        return _train(fabric, job, data, mae, folder, reporter)


pretrain = command(run, "Train a masked autoencoder on the tiles of a catalogue.")


def _train(
    fabric: "Fabric", job: "PretrainJob", data: "TrainingData", mae: "MaskedAutoencoder", folder: "RunFolder",
    reporter: "Reporter",
) -> int:  # fmt: skip
    """Train from the newest checkpoint to the last step, or until a signal."""
    from geomae.runtime import devices
    from geomae.runtime.signals import watch
    from geomae.tiles.schedule import schedule_batches
    from geomae.training.loop import train
    from geomae.training.trainer import prepare

    config = job.config.model_copy(update={"objective": data.objective})
    with watch() as stop:
        trainer = prepare(
            fabric, mae, config, job.seed, job.precision, data.training, data.validation, folder.checkpoints
        )
        reporter.begin(trainer)
        sizes = tuple(len(one.reader) for one in data.training)
        order = schedule_batches(
            job.seed, sizes, config.batch, config.steps, partners=data.partners, places=config.objective.places > 0,
            sides=[one.reader.side_T for one in data.training], groups=[one.reader.groups for one in data.training],
        )  # fmt: skip
        for event in train(trainer, order, stop):
            reporter.report(trainer, event)
        if trainer.progress.step < config.steps:
            reporter.stopped(trainer, stop)
            return stop.exit_code or 143 if fabric.is_global_zero or devices.external() else 0
        reporter.finish(trainer)
    return 0


def check_one_folder(options: PretrainOptions) -> None:
    """Raise ConfigError if a run is to be resumed in a folder other than its own."""
    if options.resume and options.out and options.resume.resolve() != options.out.resolve():
        raise ConfigError(
            f"--out {options.out}: a run is resumed in its own folder, which is --resume {options.resume}; leave "
            "--out out"
        )


def read_config_and_selectors(
    options: PretrainOptions, common: CommonOptions
) -> "tuple[PretrainConfig, Path, tuple[str, ...]]":
    """Configuration, catalogue and selectors of a new run; works without torch, whose import takes seconds."""
    from geomae.catalog import parse_selector, resolve_selectors
    from geomae.config import PretrainConfig, load_config
    from geomae.training.pretraining import write_selectors

    config = load_config(PretrainConfig, "pretrain", options.config or "tiny", options.changes)
    if options.probe is not None and not config.probe_every:
        raise ConfigError(f"--probe {options.probe}: give the interval with --set probe_every=STEPS")
    catalog = common.open_catalog()
    datasets = resolve_selectors(catalog, options.datasets, "train")
    for text in (*options.evaluations, *([options.probe] if options.probe is not None else [])):
        catalog.entry(parse_selector(text).dataset)
    path = options.catalog or Path("data_catalog.yaml")
    return config, path, write_selectors(datasets)


def index_first(
    options: PretrainOptions, config: "PretrainConfig", datasets: tuple[str, ...]
) -> "dict[str, TileIndex] | None":
    """The tile indexes of a new run, built before torch is imported.

    None if something has to be checked before work that takes long: other ranks, requested devices, a run in `--out`.
    """
    from geomae.runtime.ranks import alone

    chosen = (options.device, options.precision, options.devices, options.nodes, options.strategy)
    begun = options.out is not None and (options.out / "run.json").is_file()
    if begun or not alone() or chosen != ("auto", "auto", 1, 1, "auto"):
        return None
    from geomae.catalog import parse_selector
    from geomae.catalog.catalog import with_absolute_path
    from geomae.runtime.console import Screen
    from geomae.tiles.selection import index_training

    if options.out is not None:
        check_new(options.out)
    if not options.dry_run:
        check_writable(output_folder("pretrain", options.out))
    screen = Screen(shown=not options.quiet)
    selectors = [parse_selector(text) for text in (*datasets, *options.evaluations)]
    indexes = index_training(with_absolute_path(options.common.open_catalog()), selectors, config.data, screen.step)
    screen.close()
    for name, index in indexes.items():
        screen.say(f"{name}: {len(index)} tiles")
    return indexes


def resolve_job(
    options: PretrainOptions, new: "tuple[PretrainConfig, Path, tuple[str, ...]] | None", folder: "RunFolder | None"
) -> "PretrainJob":
    """The job of a new run, or the stored one. Raises an error that names the options in which a resume differs."""
    from geomae.runtime import devices
    from geomae.runtime.precision import precision_for
    from geomae.training.pretraining import PretrainJob, job_differences, stored_job

    device = devices.device_for(options.device)
    if new is not None:
        config, path, texts = new
        precision = precision_for(device, options.precision)
        return PretrainJob(
            path.absolute(), texts, options.evaluations, config, options.seed or 0, precision, options.probe
        )
    assert folder is not None  # a run that is not new is resumed
    stored = stored_job(folder.recorded("pretrain"), options.catalog)
    differences = job_differences(stored, _requested_job(options, stored))
    if differences:
        raise CheckpointError(
            f"--resume {folder.path}: its configuration differs in {'; '.join(differences)}; leave these out to "
            "resume, or start a new run"
        )
    return stored


def _requested_job(options: PretrainOptions, stored: "PretrainJob") -> "PretrainJob":
    """The requested job; options that were not given are taken from `stored`."""
    from dataclasses import replace

    from geomae.config import PretrainConfig, change_config, load_config
    from geomae.training.pretraining import parse_selectors, write_selectors

    if options.config:
        config = load_config(PretrainConfig, "pretrain", options.config, options.changes)
    else:
        config = change_config(PretrainConfig, stored.config.model_dump(mode="json"), options.changes)
    return replace(
        stored,
        datasets=write_selectors(parse_selectors(options.datasets, "train")) or stored.datasets,
        evaluations=options.evaluations or stored.evaluations,
        config=config,
        seed=stored.seed if options.seed is None else options.seed,
        precision=stored.precision if options.precision == "auto" else options.precision,
        probe=options.probe or stored.probe,
    )


def _check_out(out: Path, job: "PretrainJob") -> None:
    """Raise StorageError for a folder that is not empty; for a run, say whether `--resume` can continue it."""
    from geomae.commands.run import RunFolder
    from geomae.training.pretraining import job_differences, stored_job

    folder = RunFolder(out)
    if not folder.begun:
        check_new(out)
        return
    stored = stored_job(folder.recorded("pretrain", "--out"))
    differences = job_differences(stored, job)
    if stored.catalog.resolve() != job.catalog.resolve():
        differences.insert(0, f"catalog ({stored.catalog} there, {job.catalog} here)")
    remedy = "choose another folder"
    if differences:
        what = f"already holds a run of another request, which differs in {'; '.join(differences[:5])}"
    elif folder.finished:
        what = f"already holds this run, finished, with its model in {folder.model}"
    else:
        what, remedy = "already holds this run, unfinished", f"go on with --resume {out}, or {remedy}"
    raise StorageError(f"--out {out}: {what}; {remedy}")


def _tiles_to_probe(
    catalog: "Catalog", job: "PretrainJob", data: "TrainingData", model: "Model"
) -> "LabelledTiles | None":
    """The tiles of `--probe`, else of the first data set in use that has labels; None without a probe."""
    from geomae.evaluation.pretraining_probe import labelled_tiles

    if not job.config.probe_every:
        return None
    selectors = (job.probe,) if job.probe is not None else (*job.datasets, *job.evaluations)
    memory_bytes = job.config.data.memory_mb * 1024**2 // 4
    return labelled_tiles(catalog, selectors, model, job.seed, indexes=data.indexes, memory_bytes=memory_bytes)


def _check_same_data(folder: "RunFolder", data: "TrainingData") -> None:
    if folder.recorded("pretrain")["data"] != data.digest:
        raise CheckpointError(
            f"--resume {folder.path}: the catalogue or its files have changed since the run began; restore them, or "
            "start a new run"
        )


def _agree_on_folder(
    fabric: "Fabric", options: PretrainOptions, job: "PretrainJob", data: "TrainingData", folder: "RunFolder | None"
) -> "RunFolder":
    """Rank 0 makes the folder of the run and sends its name to the others; names with a time would differ by rank."""
    from geomae.commands.run import RunFolder, make

    if folder is not None:
        return folder
    path = ""
    if fabric.is_global_zero:
        path = str(make(output_folder("pretrain", options.out), job.params() | {"data": data.digest}).path)
    return RunFolder(Path(fabric.broadcast(path)))
