"""`geomae probe`: compare encoders by how well a linear probe predicts classes or numbers from their embeddings."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomae.commands.options import (
    ONE_DEVICE,
    CommonOptions,
    Encoders,
    Layer,
    Pooling,
    command,
    next_command,
    output_folder,
    read_selectors,
)
from geomae.errors import ConfigError, nearest

if TYPE_CHECKING:
    from geomae.commands.session import Session
    from geomae.encoders import EncoderSpec
    from geomae.evaluation.probe_task import ProbeSettings, ProbeTask

BASELINES = ("baseline:statistics", "baseline:rcf", "baseline:random")
OF_ANY_BANDS = ("baseline:random",)  # its width does not depend on the bands if that of the model does not


@dataclass(frozen=True)
class ProbeOptions:
    """The options of the command; None where the user gave none."""

    common: CommonOptions
    train: Annotated[str, typer.Option(help="SELECTOR of the labelled tiles to learn from.")]
    tests: Annotated[tuple[str, ...], typer.Option("--test", help="SELECTOR of tiles to test on; repeatable.")]
    encoders: Encoders = ()
    task: Annotated[str, typer.Option(help="classification, regression or segmentation.")] = "classification"
    strength: Annotated[
        float | None,
        typer.Option(help="C of the logistic regression (1 / alpha of the ridge); default: chosen on held-out tiles."),
    ] = None
    cross_fit: Annotated[
        int | None, typer.Option(help="Number of folds; each group is tested by a probe that was not trained on it.")
    ] = None
    baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Omit statistics, rcf and random from the table.")
    ] = True
    layer: Layer = None
    pooling: Pooling = None
    min_class_rows: Annotated[int, typer.Option(help="Least number of test tiles for a class to count.")] = 1
    align: Annotated[
        tuple[str, ...],
        typer.Option(
            help="Alignment of the test embeddings with the training embeddings, or `all`; repeatable. One is "
            "chosen without labels of the test."
        ),
    ] = ()
    own_bands: Annotated[
        bool, typer.Option("--own-bands", help="Embed each data set in all of its bands, not only in the shared ones.")
    ] = False
    forest: Annotated[
        bool, typer.Option("--forest", help="Add a random forest on tile statistics, or on spectra of pixels.")
    ] = False

    def request(self) -> dict[str, Any]:
        """The options that the result depends on, as JSON."""
        names = ("train", "tests", "encoders", "task", "strength", "cross_fit", "baselines", "layer", "pooling")
        return {name: getattr(self, name) for name in names} | {
            "tests": list(self.tests),
            "encoders": list(self.encoders),
            "min_class_rows": self.min_class_rows,
            "align": list(self.align),
            "own_bands": self.own_bands,
            "forest": self.forest,
            "device": self.common.device,
        }


def run(options: ProbeOptions) -> int:
    """Probe the encoders. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    from geomae.commands.session import open_session

    (train,), tests = read_selectors(options.common, [options.train], options.tests)
    check_options(options)
    specs = encoder_specs(options)
    session = open_session(options.common, "geomae probe", {"command": "probe", **options.request()})
    selectors = (train, *tests)  # with cross-fitting, the test tiles may be the training tiles
    distinct = selectors if options.cross_fit is None else tuple(dict.fromkeys(selectors))
    selections = dict(zip(distinct, session.select(distinct), strict=True))
    # Slow imports (torch takes seconds) follow the selection of tiles, which does not need them.
    from geomae.commands.run import AnalysisRun, selection_record
    from geomae.encoders.selections import EmbeddingSpec, encoder_digest
    from geomae.evaluation.probe import probe_encoders, save_alignments
    from geomae.evaluation.probe_embeddings import embed_task, usable_radiometry
    from geomae.evaluation.probe_task import SEGMENTATION, read_probe_task
    from geomae.prediction.saved_probes import save_probes
    from geomae.runtime.signals import watch
    from geomae.tiles.selection import share_bands

    chosen = [selections[selector] for selector in selectors]
    task = read_probe_task(probe_settings(options), chosen if options.own_bands else share_bands(chosen))
    tell_of_tiles(session, task)
    usable = usable_radiometry(task, options.align, session.screen.say)  # {(method, test): whether the user named it}
    patches = options.task == SEGMENTATION
    loader = session.loader(EmbeddingSpec(options.layer, options.pooling, patches=patches), task.selections)
    trained = loader.load_trained(specs)
    if options.common.dry_run:
        from geomae.commands.probe_report import describe_dry_run

        describe_dry_run(task, specs, session.screen)
        return 0
    params = options.request() | {
        "catalog": str(session.catalog.path.absolute()),
        "precision": session.precision,
        "data_digest": [one.digest() for one in task.selections],
        "encoder_digests": {label: encoder_digest(encoders) for label, encoders in trained.items()},
    }
    out = output_folder("probe", options.common.out)
    with AnalysisRun("probe", options.common, params, session.screen, out) as run_:
        run_.track([selection_record(session.catalog, one) for one in task.selections])
        with watch() as stop:
            embeddings = embed_task(
                session.compute, session.catalog, task, specs, trained, loader, usable, out / "embeddings", stop,
                run_.step, session.screen.say,
            )  # fmt: skip
        if stop.signal:
            run_.stopped()
            return stop.exit_code
        result = probe_encoders(task, specs, embeddings, run_.step)
        run_.screen.close()
        from geomae.commands.probe_report import write_results  # imports matplotlib

        save_alignments(result, specs, embeddings, out / "alignments")
        save_probes(result, session.catalog, specs, trained, loader, embeddings, out / "probes", options.own_bands)
        write_results(run_, session, result, embeddings)
        say_what_follows(session, options, task, out / "probes" / specs[0].references[0].label)
    return 0


probe = command(
    run, "Linear probe and kNN on frozen embeddings, encoders side by side, with baselines and intervals.", ONE_DEVICE
)


def tell_of_tiles(session: "Session", task: "ProbeTask") -> None:
    """Say which tiles are left out, and warn of those that share pixels with others that their probe learns from."""
    from geomae.evaluation.probe_sentences import left_out, overlaps

    for sentence in left_out(task):
        session.screen.say(sentence)
    for sentence in overlaps(task):
        session.screen.warn(sentence)


def say_what_follows(session: "Session", options: ProbeOptions, task: "ProbeTask", saved: Path) -> None:
    """Print the command that usually follows, a map by the `saved` probe, after what that map needs, if anything."""
    from geomae.evaluation.probe_task import SEGMENTATION
    from geomae.prediction.scene_maps import finer_map

    test = task.tests[0].selected
    finer = None if options.task == SEGMENTATION else finer_map(session.catalog, test)
    if finer is not None:
        session.screen.say(finer)
    named = {"out": saved.parents[1], "encoder": saved.name, "dataset": test.selector}
    session.screen.say(next_command("probe", options.common, **named))


def check_options(options: ProbeOptions) -> None:
    """Raise ConfigError for impossible options, as far as that can be checked without torch."""
    C = options.strength
    if C is not None and not (math.isfinite(C) and C > 0):
        raise ConfigError(f"--strength {C:g}: give a number above 0, or leave it out: it is then chosen by validation")
    if options.cross_fit is not None and options.cross_fit < 2:
        raise ConfigError(f"--cross-fit {options.cross_fit}: needs at least 2 folds")
    if options.cross_fit is None and options.train in options.tests:
        what = f"--test {options.train}: is also --train"
        raise ConfigError(f"{what}; name another split, or give --cross-fit 3, which tests on groups held out in turn")
    if options.min_class_rows < 1:
        raise ConfigError(f"--min-class-rows {options.min_class_rows}: give at least 1")
    if options.forest and options.own_bands:
        raise ConfigError("--forest: needs the same bands for training and test; leave --own-bands out")


def probe_settings(options: ProbeOptions) -> "ProbeSettings":
    """The settings of the probes. Raises ConfigError for an impossible option."""
    from geomae.evaluation.alignment import NONE
    from geomae.evaluation.methods import METHODS
    from geomae.evaluation.probe_task import CLASSIFICATION, TASKS, ProbeSettings
    from geomae.metrics.predictions import ALL

    if options.task not in TASKS:
        raise ConfigError(f"--task {options.task}: {nearest(options.task, TASKS)}")
    for name in options.align:
        if name not in (ALL, *METHODS):
            raise ConfigError(f"--align {name}: {nearest(name, (ALL, *METHODS))}")
    if options.align and options.task != CLASSIFICATION:
        raise ConfigError(f"--align: needs --task {CLASSIFICATION}; the choice among alignments uses classes of tiles")
    wanted = METHODS if ALL in options.align else options.align
    alignments = (NONE, *(name for name in wanted if name != NONE)) if options.align else ()
    return ProbeSettings(
        options.task, options.strength, options.cross_fit, options.min_class_rows, alignments, options.common.seed,
        forest=options.forest,
    )  # fmt: skip


def encoder_specs(options: ProbeOptions) -> "tuple[EncoderSpec, ...]":
    """The user's encoders in their order, then the baselines that are not among them.

    Raises ConfigError for invalid encoders.
    """
    from geomae.encoders import encoder_specs as specify
    from geomae.encoders import parse_encoders
    from geomae.encoders.specification import BASELINE

    named = {text.rpartition("=")[2] if text.endswith(BASELINES) else text for text in options.encoders}
    usual = OF_ANY_BANDS if options.own_bands else BASELINES
    extra = [text for text in usual if text not in named] if options.baselines else []
    if not options.encoders and not extra:
        raise ConfigError("no encoder is left to probe; name an --encoder")
    references = parse_encoders([*options.encoders, *extra])
    for one in references if options.own_bands else ():
        if one.kind == BASELINE and not one.text.startswith(OF_ANY_BANDS):
            raise ConfigError(f"--own-bands: the features of {one.text} depend on the bands; leave one of the two out")
    return specify(references)
