"""`geomae predict`: maps of whole scenes from a fine-tuned model or a saved probe, their accuracy, and areas."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomae.commands.options import (
    CommonOptions,
    Datasets,
    command,
    next_command,
    read_selectors,
)
from geomae.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from geomae.commands.run import AnalysisRun
    from geomae.commands.session import Session
    from geomae.encoders.extraction import Progress
    from geomae.metrics.predictions import Floats
    from geomae.prediction.folders import PredictorFolder
    from geomae.prediction.models import WindowModel
    from geomae.prediction.shares import TargetShares
    from geomae.tiles.selection import Selection


@dataclass(frozen=True)
class PredictOptions:
    """The options of the command; None where the user gave none."""

    common: CommonOptions
    model: Annotated[
        Path, typer.Option(help="Folder of a fine-tuned model, or of a probe (`probes/ENCODER` of its run).")
    ]
    datasets: Datasets = ()
    priors: Annotated[
        str,
        typer.Option(help="Class shares of the target: none, estimate, or a table with the columns class and share."),
    ] = "none"
    sample: Annotated[
        Path | None,
        typer.Option(help="Points with a column reference (and stratum), for design-based accuracy and areas."),
    ] = None
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write probability maps of every class.")
    ] = False
    radiometry: Annotated[
        Path | None, typer.Option(help="FOLDER of a fitted radiometric correction, to apply before a fine-tuned model.")
    ] = None

    def request(self) -> dict[str, Any]:
        """The settings beside the tiles that the result depends on, as JSON."""
        through = {} if self.radiometry is None else {"radiometry": str(self.radiometry.absolute())}
        return through | {
            "model": str(self.model.absolute()),
            "priors": self.priors,
            "sample": None if self.sample is None else str(self.sample.absolute()),
            "probabilities": self.probabilities,
        }


def run(options: PredictOptions) -> int:
    """Map the scenes, predict the tiles, and assess the accuracy of both. Returns the exit code."""
    (selectors,) = read_selectors(options.common, options.datasets)
    from geomae.commands.session import open_session
    from geomae.prediction.record import check_folder

    check_folder(options.model)
    request = {"command": "predict", "dataset": [str(one) for one in selectors], **options.request()}
    session = open_session(options.common, request=request)
    selections = session.select(selectors)
    # Slow imports (torch takes seconds) follow the selection of tiles, which does not need them.
    from geomae.commands.predict_checks import describe_plan
    from geomae.commands.predict_report import publish
    from geomae.commands.run import launch_into, stop_early
    from geomae.prediction.folders import open_predictor
    from geomae.prediction.reference_points import check_places, read_reference
    from geomae.prediction.scene_maps import (
        MapOptions,
        missing_strips,
        plan_maps,
        predict_strips,
        stride_of,
        write_maps,
    )
    from geomae.runtime.signals import watch

    folder = open_predictor(options.model, session.fabric.device)
    given = _given_shares(options, folder)
    reference = None if options.sample is None else read_reference(options.sample, folder.record)
    fitted = _fit(session, folder, selections, options.radiometry)
    jobs = plan_maps(fitted, lambda selected: stride_of(session.catalog, selected, folder.record))
    if reference is not None:
        reference = check_places(reference, folder.record, jobs)
    remarks = describe_plan(session, fitted, jobs, () if reference is None else reference.remarks)
    if options.common.dry_run:
        return 0
    with _tracked(options, session, folder, fitted) as analysis:
        out, _ = launch_into(session, analysis)
        progress = analysis.step if analysis is not None else session.screen.step
        missing = missing_strips(jobs, out)
        session.fabric.barrier()  # the first rank predicts tiles now, while others may already write strips
        values, shares = _predicted(options, session, fitted, given, analysis, progress)
        maps = MapOptions(options.probabilities, None if shares is None else shares.share_K)
        with watch() as stop:
            done = predict_strips(session.compute, jobs, missing, maps, out, stop, progress)
            if not all(_gathered(session, done)):
                return stop_early(session, analysis, stop)
            session.fabric.barrier()
            if analysis is not None:  # the first rank writes the results; this is short, so signals do not stop it
                analysis.screen.say("writing the maps")
                paths = write_maps(jobs, maps, out)
                publish(analysis, session, reference, folder.record, fitted, jobs, values, shares, paths, remarks)
                session.screen.say(next_command("predict", options.common, out=out))
    return 0


predict = command(run, "Map whole scenes and predict tiles; with labels or reference points, also assess the accuracy.")


def _fit(
    session: "Session", folder: "PredictorFolder", selections: "list[Selection]", radiometry: Path | None
) -> "list[tuple[Selection, WindowModel]]":
    """The model for each selection; faults of the imagery are found before any work begins."""
    device = session.fabric.device
    if radiometry is None:
        return [(one, folder.fit(one.imagery, one.selector, device)) for one in selections]
    from geomae.prediction.folders import SavedProbe
    from geomae.prediction.models import CorrectedModel
    from geomae.tiles.radiometry import Radiometry
    from geomae.tiles.radiometry_fits import mapped

    if isinstance(folder, SavedProbe):
        raise ConfigError(
            f"--radiometry {radiometry}: is for fine-tuned models; a probe is saved with its own (`geomae probe "
            "--align quantiles`), so leave it out"
        )
    loaded = Radiometry.load(radiometry)
    return [
        (one, CorrectedModel(folder.fit(mapped(one, loaded).imagery, one.selector, device), loaded))
        for one in selections
    ]


def _given_shares(options: PredictOptions, folder: "PredictorFolder") -> "TargetShares | None":
    """The class shares in a file. Raises ConfigError for impossible shares, and for a model without classes."""
    from geomae.prediction.shares import ESTIMATE, NONE, read_shares

    if options.priors == NONE:
        return None
    if folder.record.of_numbers:
        raise ConfigError(f"--priors {options.priors}: class shares need classes, and the model predicts numbers")
    return None if options.priors == ESTIMATE else read_shares(Path(options.priors), folder.record)


def _predicted(
    options: PredictOptions,
    session: "Session",
    fitted: "list[tuple[Selection, WindowModel]]",
    given: "TargetShares | None",
    analysis: "AnalysisRun | None",
    progress: "Progress",
) -> "tuple[list[Floats], TargetShares | None]":
    """Predictions of tiles (none if pixels are predicted), corrected for class shares, and the shares; on all ranks."""
    from geomae.metrics.priors import correct_probabilities
    from geomae.prediction.shares import ESTIMATE, estimate_over
    from geomae.prediction.tiles import predict_tiles

    record, values = fitted[0][1].record, []
    if analysis is not None and not record.of_pixels:
        values = [predict_tiles(session.compute, model, selected, progress) for selected, model in fitted]
    shares = given
    if options.priors == ESTIMATE:
        if analysis is not None:
            shares = estimate_over(session.compute, fitted, values, options.common.seed, progress)
        shares = session.fabric.broadcast(shares)
    if shares is not None:
        # A probe with the alignment `prior-correction` for one of the targets has probabilities of other shares there.
        pairs = zip(values, fitted, strict=True)
        values = [correct_probabilities(one, model.record.trained_K, shares.share_K) for one, (_, model) in pairs]
    return values, shares


def _tracked(
    options: PredictOptions,
    session: "Session",
    folder: "PredictorFolder",
    fitted: "list[tuple[Selection, WindowModel]]",
) -> "AbstractContextManager[AnalysisRun | None]":
    """The run on the first rank; None on the others."""
    from geomae.commands.run import first_rank_run
    from geomae.prediction.models import CorrectedModel

    record = folder.record
    params: dict[str, Any] = {
        "catalog": str(session.catalog.path.absolute()),
        "dataset": [selected.name for selected, _ in fitted],
        **options.request(),
        "model_digest": folder.digest,
        "task": record.task,
        "precision": session.precision,
        "data_digest": [selected.digest() for selected, _ in fitted],
    }
    if isinstance(model := fitted[0][1], CorrectedModel):
        params["radiometry_digest"] = model.radiometry.digest  # the folder may be fitted anew between two runs
    tags = {f"geomae.{step.command}_run": step.run for step in record.steps if step.run and step.command}
    tags |= {"geomae.model_run": record.run} if record.run else {}
    return first_rank_run(session, "predict", params, [selected for selected, _ in fitted], tags)


def _gathered(session: "Session", done: bool) -> list[bool]:
    """The flag of every rank, so that either all continue or none."""
    from geomae.runtime.devices import gather_objects

    return gather_objects(session.fabric, done)
