"""`geomae finetune`: train an encoder with labels, and compare it with a probe of the frozen encoder, with the same
architecture trained from random weights, and with a random forest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomae.commands.options import (
    Changes,
    CommonOptions,
    command,
    next_command,
    read_selectors,
)
from geomae.errors import ConfigError

if TYPE_CHECKING:
    from geomae.commands.finetune_report import Progress
    from geomae.commands.run import AnalysisRun
    from geomae.commands.session import Session
    from geomae.encoders import Reference
    from geomae.evaluation.finetune_task import FinetuneTask
    from geomae.evaluation.finetuning import FinetuneResult
    from geomae.runtime.devices import Compute
    from geomae.runtime.signals import Stop
    from geomae.tiles.selection import Selection
    from geomae.training.finetuning_config import FinetuneConfig
    from geomae.training.starts import OwnStart


@dataclass(frozen=True)
class FinetuneOptions:
    """The options of the command; None where the user gave none."""

    common: CommonOptions
    model: Annotated[str, typer.Option(help="ENCODER: a model folder, mlflow:RUN_ID, timm:NAME or torchgeo:NAME.")]
    train: Annotated[str, typer.Option(help="SELECTOR of the labelled tiles to learn from.")]
    tests: Annotated[
        tuple[str, ...], typer.Option("--eval", help="SELECTOR of labelled tiles to test on; repeatable.")
    ] = ()
    task: Annotated[
        str | None, typer.Option(help="classification, regression or segmentation; default: inferred from the labels.")
    ] = None
    method: Annotated[str | None, typer.Option(help="full (default), lora, last-blocks or head.")] = None
    config: Annotated[
        str | None, typer.Option(help="FILE or shipped NAME; default tiny, or published for timm: and torchgeo:.")
    ] = None
    changes: Changes = ()
    shots: Annotated[
        str | None, typer.Option(help="Repeat with few labels per class, as in 1,5,10,50; three draws each.")
    ] = None
    baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Omit the frozen probe, scratch and forest from the table.")
    ] = True
    register: Annotated[str | None, typer.Option(help="Register the model in MLflow under this name.")] = None

    def params(self, config: "FinetuneConfig") -> dict[str, Any]:
        """The settings that the result depends on, as JSON."""
        names = ("model", "train", "task", "shots", "baselines")
        own = {name: getattr(self, name) for name in names} | {"eval": list(self.tests)}
        return own | {"config": config.model_dump(mode="json")}


def run(options: FinetuneOptions) -> int:
    """Fine-tune and evaluate. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    reference = read_encoder(options)
    config, shots = read_config(options, reference)
    selectors = read_selectors(options.common, [options.train], *([options.tests] if options.tests else []))
    from geomae.commands.session import open_session

    session = open_session(options.common, request={"command": "finetune", **options.params(config)})
    selections = session.select([one for group in selectors for one in group])
    # Slow imports (torch takes seconds) follow the selection of tiles, which does not need them.
    from geomae.commands import finetune_report as report
    from geomae.commands.run import first_rank_run, launch_into, stop_early
    from geomae.evaluation.finetune_task import read_finetune_task
    from geomae.runtime.devices import check_shares
    from geomae.runtime.signals import watch
    from geomae.training.finetuning import network_of

    check_shares(config.batch, config.accumulate, session.fabric.world_size)
    config, start = open_encoder(options, config, reference, selections[0])
    task = read_finetune_task(session.catalog, selections, start, options.task, config, options.common.seed)
    if shots and task.task != "classification":
        raise ConfigError(f"--shots {options.shots}: needs classes of tiles, and the task is {task.task}; leave it out")
    _, share = network_of(task.job(config), config)
    if options.common.dry_run:
        report.describe_dry_run(session, task, config, share)
        return 0
    params = options.params(config) | {
        "catalog": str(session.catalog.path.absolute()), "precision": session.precision, "model_digest": start.digest,
        "data_digest": [one.digest() for one in selections],
    }  # fmt: skip
    with first_rank_run(session, "finetune", params, selections, report.model_tags(start)) as analysis:
        for note in (task.how, *task.notes):
            session.screen.say(note)
        out, _ = launch_into(session, analysis)
        progress = report.Progress(analysis, config)
        with watch() as stop:
            learned = train(session.compute, task, config, shots, options.baselines, out, stop, progress)
            if learned is None:
                return stop_early(session, analysis, stop)
            if analysis is not None:  # the first rank evaluates and writes
                result = measure(session, analysis, task, learned, shots, options.baselines, reference, stop)
                if result is None:
                    return stop_early(session, analysis, stop)
                report.save_finetuned(analysis, session.catalog, config, task, result.model, start)
                report.write_results(analysis, session, result, reference, start, options.register)
                named = {"out": out, "dataset": selectors[-1][0]}
                session.screen.say(next_command("finetune", options.common, **named))
    return 0


finetune = command(
    run, "Fine-tune an encoder with labels; compare it with a probe, a forest and training from random weights."
)


def train(
    compute: "Compute", task: "FinetuneTask", config: "FinetuneConfig", shots: tuple[int, ...], baselines: bool,
    out: Path, stop: "Stop", progress: "Progress",
) -> "FinetuneResult | None":  # fmt: skip
    """Train the models on all ranks and predict the tests; None if `stop` ended it."""
    from geomae.commands.finetune_report import FINE_TUNING
    from geomae.commands.run import RunFolder
    from geomae.evaluation import finetuning as measured
    from geomae.evaluation.head_start import with_probe_head
    from geomae.training.finetuning import finetune_model

    folder = RunFolder(out).checkpoints
    job = with_probe_head(compute, task.job(config))
    learned = finetune_model(compute, config, job, folder / "model", stop, progress.of(FINE_TUNING))
    if learned is None:
        return None
    model = measured.calibrated_model(compute, task, config, learned)
    predictions = measured.predict_tests(compute, task, model, config)
    result = measured.FinetuneResult(
        task, config, learned, model, [measured.Contender(config.method, None, [predictions])]
    )
    if baselines:
        hear = progress.of("from scratch")
        found = measured.train_scratch(compute, task, config, folder / measured.SCRATCH, stop, hear)
        if found is None:
            return None
        result.scratch, predictions = found
        result.contenders.append(measured.Contender(measured.SCRATCH, None, [predictions]))
    if shots:
        at = config.at(learned.rate)
        strength = None if job.start is None else job.start.strength
        few = measured.train_few(compute, task, at, shots, strength, folder / "few", stop, progress.of("few labels"))
        if few is None:
            return None
        result.contenders += few
    return result


def measure(
    session: "Session", run_: "AnalysisRun", task: "FinetuneTask", result: "FinetuneResult", shots: tuple[int, ...],
    baselines: bool, reference: "Reference", stop: "Stop",
) -> "FinetuneResult | None":  # fmt: skip
    """Add the probe of the frozen encoder and a forest, and score all methods; None if `stop` ended it."""
    from geomae.encoders import EncoderSpec
    from geomae.encoders.selections import EmbeddingSpec, embed_specs
    from geomae.evaluation import finetuning as measured
    from geomae.evaluation.forest import FOREST, predict_forest
    from geomae.models.head_record import SEGMENTATION

    if baselines:
        probe = task.probe(shots)
        loader = session.loader(EmbeddingSpec(patches=task.task == SEGMENTATION), probe.selections)
        specs = [EncoderSpec(reference.label, (reference,))]
        for embeddings in embed_specs(
            session.compute, session.catalog, specs, loader.load_trained(specs), loader, run_.out / "embeddings", stop,
            run_.step,
        ):  # fmt: skip
            result.others[measured.LINEAR] = probe.predict(embeddings)
        if stop.signal:
            return None
        # A forest needs the same bands everywhere.
        if len({tuple(band.name for band in one.imagery.bands) for one in probe.selections}) == 1:
            result.others[FOREST] = predict_forest(probe)
    if stop.signal:
        return None
    result.scores = measured.score_methods(result)
    return result


def read_config(options: FinetuneOptions, reference: "Reference") -> "tuple[FinetuneConfig, tuple[int, ...]]":
    """The configuration and the numbers of labels. Raises ConfigError for options that cannot be combined."""
    from geomae.config import load_config
    from geomae.encoders.specification import TIMM, TORCHGEO
    from geomae.training.finetuning_config import FinetuneConfig

    said = {} if options.method is None else {"method": options.method}
    shipped = "published" if reference.kind in (TIMM, TORCHGEO) else "tiny"
    config = load_config(FinetuneConfig, "finetune", options.config or shipped, options.changes, said)
    return config, _read_shots(options.shots)


def _read_shots(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--shots {text}: give whole numbers above 0, as in --shots 1,5,10,50")
    return tuple(sorted({int(part) for part in parts}))


def read_encoder(options: FinetuneOptions) -> "Reference":
    """The encoder that `--model` names. Raises ConfigError, with the reason, for one that cannot be trained."""
    from geomae.encoders.specification import BASELINE, GALILEO, parse_encoder

    reference = parse_encoder(options.model)
    if reference.kind == BASELINE:
        raise ConfigError(
            f"--model {options.model}: a baseline has no weights to train; give a model folder (the table also has "
            "`scratch`, trained from random weights)"
        )
    if reference.kind == GALILEO:
        raise ConfigError(
            f"--model {options.model}: a fine-tuned model is saved as a model folder, which cannot hold Galileo's "
            "groups of bands; fit a probe to it (geomae probe), or train it without labels (geomae adapt)"
        )
    return reference


def open_encoder(
    options: FinetuneOptions, config: "FinetuneConfig", reference: "Reference", learned: "Selection"
) -> "tuple[FinetuneConfig, OwnStart]":
    """The initial weights, and the configuration with the block that the head reads.

    Unless the user chose one, a network that was not trained to reconstruct is read after its last block.
    """
    from geomae.encoders.selections import model_folder
    from geomae.encoders.specification import FOLDER, MLFLOW, TIMM
    from geomae.models.folder import load_model
    from geomae.training.starts import OwnStart

    if reference.kind in (FOLDER, MLFLOW):
        return config, OwnStart(load_model(model_folder(reference, options.common.tracking_uri)))
    if reference.kind == TIMM:
        from geomae.encoders.timm_models import timm_model as published_model
    else:
        from geomae.encoders.torchgeo_models import torchgeo_model as published_model
    model = published_model(reference, learned.imagery, int(learned.index.tiles["size"].mode()[0]))
    layer = config.layer or model.mae.architecture.depth
    return config.model_copy(update={"layer": layer}), OwnStart(model)
