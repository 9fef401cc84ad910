"""`geomae adapt`: a model learns the unlabelled tiles of a domain, and is measured before and after."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomae.commands.options import (
    ONE_DEVICE,
    Changes,
    CommonOptions,
    command,
    next_command,
    output_folder,
)
from geomae.errors import ConfigError, GeomaeError

if TYPE_CHECKING:
    from geomae.commands.adapt_report import Work
    from geomae.commands.session import Session
    from geomae.config import AdaptConfig
    from geomae.encoders import Reference
    from geomae.evaluation.proposal import Answer
    from geomae.runtime.signals import Stop
    from geomae.tiles.radiometry import Radiometry
    from geomae.tiles.selection import Selection
    from geomae.training.starts import Start


@dataclass(frozen=True)
class AdaptOptions:
    """The options of the command; None where the user did not say."""

    common: CommonOptions
    model: Annotated[str, typer.Option(help="Model folder, mlflow:RUN_ID, models:/NAME/V or galileo:FOLDER.")]
    target: Annotated[str, typer.Option(help="SELECTOR of the tiles to adapt to; no label is read.")]
    source: Annotated[
        str | None,
        typer.Option(help="SELECTOR of tiles of where the model comes from; what differs decides what is done."),
    ] = None
    config: Annotated[str | None, typer.Option(help="FILE of further settings.")] = None
    changes: Changes = ()
    method: Annotated[str | None, typer.Option(help="lora (default), full, last-blocks, norm or heads.")] = None
    rank: Annotated[int | None, typer.Option(help="Rank of the corrections of --method lora.")] = None
    blocks: Annotated[
        int | None, typer.Option(help="Last blocks that learn in full, of --method lora and last-blocks.")
    ] = None
    replay: Annotated[
        float | None, typer.Option(help="Share of the steps that take source tiles, against forgetting.")
    ] = None
    steps: Annotated[int | None, typer.Option(help="Most steps; it ends earlier where they no longer help.")] = None
    probe_train: Annotated[
        str | None, typer.Option(help="SELECTOR of labelled source tiles, for a probe before and after.")
    ] = None
    probe_test: Annotated[str | None, typer.Option(help="SELECTOR of labelled target tiles, to score that probe.")] = (
        None
    )
    min_class_rows: Annotated[int, typer.Option(help="Average over classes with at least so many test tiles.")] = 1
    again: Annotated[bool, typer.Option("--again", help="Adapt a model once more to the same target.")] = False
    radiometry: Annotated[
        str | None,
        typer.Option(
            help="Bring pixels of the target to the source first: quantiles, invariant-pixels or band-adjustment."
        ),
    ] = None
    register: Annotated[str | None, typer.Option(help="Put the model into MLflow's registry under this name.")] = None

    @property
    def asks(self) -> bool:
        """Whether what differs decides what is done: there is a source, and nothing was said about the training."""
        said = (self.method, self.rank, self.blocks, self.replay, self.steps, self.config, self.radiometry)
        return self.source is not None and not self.changes and not self.again and all(one is None for one in said)

    @property
    def labelled(self) -> tuple[str, ...]:
        """The selectors of the probe, if there is one: what it learns from and what it is tested on."""
        return tuple(one for one in (self.probe_train, self.probe_test) if one is not None)

    def params(self, config: "AdaptConfig") -> dict[str, Any]:
        """What decides the result, as JSON."""
        names = ("model", "target", "source", "probe_train", "probe_test", "min_class_rows")
        through = {} if self.radiometry is None else {"radiometry": self.radiometry}
        return {name: getattr(self, name) for name in names} | through | {"config": config.model_dump(mode="json")}


def run(options: AdaptOptions) -> int:
    """Adapt and evaluate. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    config, seed = read_config(options), options.common.seed
    from geomae.commands.session import open_session

    session = open_session(options.common, "geomae adapt", {"command": "adapt", **options.params(config)})
    selections, labelled, radiometry = select_domains(options, session)
    # What is slow to import (torch takes seconds) comes after the tiles, which are had without it.
    from geomae.commands import adapt_report as report
    from geomae.commands.run import AnalysisRun, selection_record
    from geomae.evaluation import adaptation_effect as before_after
    from geomae.runtime.signals import watch
    from geomae.training import adaptation

    named, model = open_start(options)
    if not options.again:
        adaptation.check_not_adapted(model, selections[0].digest(), options.model)
    training = adaptation.training_config(config, model)
    domains = adaptation.read_adaptation_domains(model, selections, training, seed)
    _, share = adaptation.trainable(domains, config, seed)
    asks = options.asks and not model.has_head
    plan = before_after.plan_before_after(domains, labelled, options.min_class_rows, seed, asks)
    before_after.check_before_after(plan, named, session.fabric.device)
    if options.common.dry_run:
        report.describe_dry_run(session, domains, config, share, asks)
        return 0
    params = options.params(config) | {
        "catalog": str(session.catalog.path.absolute()), "precision": session.precision, "model_digest": model.digest,
        "data_digest": [one.digest() for one in (*selections, *plan.selections)],
    }  # fmt: skip
    out = output_folder("adapt", options.common.out)
    with AnalysisRun("adapt", options.common, params, session.screen, out) as run_:
        run_.track([selection_record(session.catalog, one) for one in selections], report.model_tags(model))
        for note in domains.notes:
            session.screen.say(note)
        work = report.Work(run_, session, config, domains, plan, model, report.save_begun(run_, model, named, domains))
        with watch() as stop:
            answer = ask_first(work, selections, stop) if asks else None
            if answer is not None and not answer.proposal.trains:
                done = leave_as_it_is(work, answer, options.register, stop)
            else:
                if answer is not None:
                    work = replace(work, config=config.model_copy(update={"method": answer.proposal.method}))
                done = not stop.signal and train_and_measure(work, answer, options, radiometry, stop)
        if not done:
            run_.stopped()
            return stop.exit_code
    return 0


adapt = command(run, "Adapt a model to unlabelled tiles of another domain, and measure before and after.", ONE_DEVICE)


def ask_first(work: "Work", selections: "Sequence[Selection]", stop: "Stop") -> "Answer | None":
    """Measure what differs between target and source (`selections`), and say it; None where `stop` ended it."""
    from geomae.evaluation.adaptation_effect import embed_choice
    from geomae.evaluation.gap import read_gap_domains
    from geomae.evaluation.proposal import (
        Acquaintance,
        Answer,
        count_same_ground,
        learned_selectors,
        measure_differences,
        propose,
    )

    run_, session, seed = work.run_, work.session, work.session.common.seed
    target, source = selections
    embeddings = None
    if work.plan.choice is not None:
        out = run_.out / "embeddings"
        embeddings = embed_choice(
            session.compute, session.catalog, work.plan, work.before, out, stop, run_.step, session.screen.say
        )
        if embeddings is None:
            return None
    known = learned_selectors(work.model, target.index.name)
    try:
        learned = list(zip(session.select(list(known)), known.values(), strict=True)) if known else []
    except GeomaeError:  # the catalogue has changed since
        learned = []
    model = Acquaintance.of(work.model, target, source, learned, pairs=work.domains.objective.places > 0)
    domains = read_gap_domains([source, target], seed)
    same_ground = count_same_ground(source, target)
    differences = measure_differences(domains, work.plan, model, embeddings, same_ground, seed, run_.step)
    run_.screen.close()
    proposal = propose(differences)
    for sentence in (*differences.sentences(), proposal.text, proposal.labels):
        session.screen.say(sentence)
    return Answer(differences, proposal, embeddings)


def leave_as_it_is(work: "Work", answer: "Answer", register: str | None, stop: "Stop") -> bool:
    """Publish the model as it began and a probe for maps of the target, behind the alignment that is proposed, if any.

    With labels of the target the probe is scored. Returns False where `stop` ended it.
    """
    from geomae.commands import adapt_report as report
    from geomae.evaluation.adaptation_effect import evaluate_before_after
    from geomae.evaluation.adaptation_probe import ALIGNED, BEFORE

    run_, session, proposal = work.run_, work.session, answer.proposal
    measured = evaluate_before_after(
        session.compute, session.catalog, work.plan, work.before, None, run_.out / "embeddings", session.common.seed,
        stop, run_.step, proposal.align, answer.radiometry,
    )  # fmt: skip
    if measured is None:
        return False
    run_.screen.close()
    if answer.radiometry is not None and work.plan.task is not None and ALIGNED not in measured.target:
        session.screen.say(
            f"{work.plan.task.tests[0].name} lacks bands that {proposal.align} takes: its scores are those without it"
        )
    report.save_model(run_, work.domains.model, work.domains.model.provenance)
    save_probe(work, answer)
    report.write_untrained(work, answer, measured, register)
    named = {"out": run_.out, "encoder": BEFORE, "dataset": work.domains.target.name}
    session.screen.say(next_command("probe", session.common, **named))
    return True


def save_probe(work: "Work", answer: "Answer") -> None:
    """Publish the probe of the source's labels as `probes/before`, with the alignment to the target."""
    from geomae.encoders.selections import EmbeddingSpec
    from geomae.encoders.specification import encoder_specs, parse_encoders
    from geomae.evaluation.adaptation_probe import BEFORE
    from geomae.prediction.saved_probes import save_probes

    result = answer.differences.probe
    assert result is not None  # or it would have been trained
    assert answer.embeddings is not None
    specs = encoder_specs(parse_encoders([f"{BEFORE}={work.before}"]))
    loader = work.session.loader(EmbeddingSpec(), result.task.selections)
    save_probes(
        result, work.session.catalog, specs, loader.load_trained(specs), loader, {BEFORE: answer.embeddings},
        work.run_.out / "probes", own_bands=False,
    )  # fmt: skip


def train_and_measure(
    work: "Work", answer: "Answer | None", options: AdaptOptions, radiometry: "Radiometry | None", stop: "Stop"
) -> bool:
    """Go on with pretraining on the target, and measure the model before and after; False where `stop` ended it."""
    from geomae.commands import adapt_report as report
    from geomae.evaluation import adaptation_effect as before_after
    from geomae.training.adaptation import adapt_model
    from geomae.training.checkpoints import last_step

    run_, session, config, domains, seed = work.run_, work.session, work.config, work.domains, options.common.seed
    run_.folder.forget_after(last_step(run_.folder.checkpoints))
    adapted = adapt_model(
        session.compute, config, domains, run_.folder.checkpoints, seed, stop,
        lambda event: report.log_event(run_, config, event),
    )  # fmt: skip
    run_.screen.close()
    if adapted is None:
        return False
    report.save_adapted(work, adapted, radiometry)
    measured = before_after.evaluate_before_after(
        session.compute, session.catalog, work.plan, work.before, work.model.reference(run_.folder.model),
        run_.out / "embeddings", seed, stop, run_.step,
    )  # fmt: skip
    if measured is None:
        return False
    changes = before_after.error_changes(session.compute, domains, adapted.model, config, seed)
    loss = before_after.held_out_loss(run_.folder.history(), domains, adapted)
    result = before_after.AdaptationResult(
        config, domains, work.plan, adapted, changes, measured, work.model.digest, loss
    )
    report.write_results(run_, result, options.register, answer)
    session.screen.say(next_command("adapt", options.common, out=run_.out, target=options.target, model=options.model))
    return True


def select_domains(
    options: AdaptOptions, session: "Session"
) -> "tuple[list[Selection], list[Selection], Radiometry | None]":
    """Target and source; what a probe learns from and is tested on; and what tiles of the target are read through.

    Raises ConfigError where pixels do not carry the radiometry.
    """
    selections = session.select([options.target, *([options.source] if options.source else [])])
    labelled = session.select(options.labelled) if options.labelled else []
    if options.radiometry is None:
        return selections, labelled, None
    from geomae.tiles.radiometry_fits import fit_radiometry, mapped
    from geomae.tiles.selection import share_bands

    source, target = share_bands([selections[1], selections[0]])
    radiometry = fit_radiometry(options.radiometry, source, target, options.common.seed)
    session.screen.say(f"{radiometry.method} of {target.name}: {radiometry.about}")
    through, *tested = (mapped(one, radiometry) for one in (target, *labelled[1:]))
    return [through, source], [*labelled[:1], *tested], radiometry


def read_config(options: AdaptOptions) -> "AdaptConfig":
    """The configuration. Raises ConfigError or CatalogError for options and selectors that do not fit together."""
    from geomae.config import AdaptConfig, load_config

    named = {key: getattr(options, key) for key in ("method", "rank", "blocks", "replay", "steps")}
    said = {key: value for key, value in named.items() if value is not None}
    config = load_config(AdaptConfig, "adapt", options.config, options.changes, said)
    check_model(options)
    for option, methods in (("rank", ("lora",)), ("blocks", ("lora", "last-blocks"))):
        if named[option] is not None and config.method not in methods:
            raise ConfigError(f"--{option}: belongs to --method {' or '.join(methods)}; leave it out")
    if config.method == "last-blocks" and not config.whole_blocks:
        raise ConfigError("--blocks 0: leaves --method last-blocks none; give 1 or more, or choose --method norm")
    if config.replay and options.replay is not None and options.source is None:
        raise ConfigError(f"--replay {options.replay:g}: takes tiles of the source; name them with --source SELECTOR")
    if (options.probe_train is None) != (options.probe_test is None):
        raise ConfigError(
            "--probe-train and --probe-test: a probe takes both, labelled tiles of the source to learn from and of the "
            "target to be asked"
        )
    if options.radiometry is not None and options.source is None:
        raise ConfigError(
            f"--radiometry {options.radiometry}: brings pixels of the target to those of a source; name its tiles with "
            "--source SELECTOR"
        )
    if options.min_class_rows < 1:
        raise ConfigError(f"--min-class-rows {options.min_class_rows}: takes at least 1")
    for pair in ((options.target, options.source), (options.probe_train, options.probe_test)):
        check_pair(options.common, *pair)
    return config if options.source is not None else config.model_copy(update={"replay": 0.0})


def check_pair(common: CommonOptions, target: str | None, source: str | None) -> None:
    """Two selectors must exist and differ."""
    from geomae.catalog import resolve_selectors

    chosen = [resolve_selectors(common.open_catalog(), [one], None) for one in (target, source) if one is not None]
    if len(chosen) == 2 and chosen[0] == chosen[1]:
        raise ConfigError(f"{chosen[0][0]}: is named as source and as target; name tiles of two domains")


def check_model(options: AdaptOptions) -> "Reference":
    """What `--model` names, told without torch. Raises ConfigError for what cannot be adapted."""
    from geomae.encoders.specification import FOLDER, GALILEO, MLFLOW, parse_encoder

    reference = parse_encoder(options.model)
    if reference.kind not in (FOLDER, GALILEO, MLFLOW):
        raise ConfigError(
            f"--model {options.model}: give a model folder, an MLflow reference or galileo:FOLDER; weights of others "
            "become a model folder by `geomae convert`"
        )
    return reference


def open_start(options: AdaptOptions) -> "tuple[str, Start]":
    """What `--model` names: the text of the encoder, a folder for one in MLflow, which is downloaded; and the model."""
    from geomae.encoders.galileo_training import galileo_start
    from geomae.encoders.specification import GALILEO, MLFLOW
    from geomae.models.folder import load_model
    from geomae.tracking import download, resolve_uri
    from geomae.training.starts import OwnStart

    reference = check_model(options)
    if reference.kind == GALILEO:
        return options.model, galileo_start(reference)
    folder = reference.name
    if reference.kind == MLFLOW:
        folder = str(download(reference.name, resolve_uri(options.common.tracking_uri)))
    return folder, OwnStart(load_model(folder))
