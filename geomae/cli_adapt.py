"""`geomae adapt` on the command line."""

from collections.abc import Callable
from typing import Annotated

import typer

from geomae.commands.options import (
    CatalogFile,
    Changes,
    Device,
    DryRun,
    Experiment,
    Out,
    Precision,
    Quiet,
    RunName,
    Seed,
    TrackingUri,
)

Leave = Callable[[Callable[[], int]], None]
Blocks = Annotated[int | None, typer.Option(help="Last blocks that learn in full, of --method lora and last-blocks.")]
Replay = Annotated[float | None, typer.Option(help="Share of the steps that take source tiles, against forgetting.")]
ProbeTrain = Annotated[
    str | None, typer.Option("--probe-train", help="SELECTOR of labelled source tiles, for a probe before and after.")
]
ProbeTest = Annotated[
    str | None, typer.Option("--probe-test", help="SELECTOR of labelled target tiles, to score that probe.")
]


def add_adapt(app: typer.Typer, leave: Leave) -> None:
    """Add the command; `leave` runs a workflow and ends the process with its exit code."""

    @app.command()
    def adapt(
        model: Annotated[str, typer.Option("--model", help="Model folder, mlflow:RUN_ID or models:/NAME/VERSION.")],
        target: Annotated[str, typer.Option("--target", help="SELECTOR of the tiles to adapt to; no label is read.")],
        source: Annotated[
            str | None, typer.Option("--source", help="SELECTOR of tiles of where the model comes from.")
        ] = None,
        method: Annotated[str | None, typer.Option(help="lora (default), full, last-blocks or norm.")] = None,
        rank: Annotated[int | None, typer.Option(help="Rank of the corrections of --method lora.")] = None,
        blocks: Blocks = None,
        replay: Replay = None,
        steps: Annotated[
            int | None, typer.Option(help="Most steps; it ends earlier where they no longer help.")
        ] = None,
        probe_train: ProbeTrain = None,
        probe_test: ProbeTest = None,
        min_class_rows: Annotated[int, typer.Option(help="Average over classes with at least so many test tiles.")] = 1,
        again: Annotated[bool, typer.Option("--again", help="Adapt a model once more to the same target.")] = False,
        register: Annotated[
            str | None, typer.Option(help="Put the model into MLflow's registry under this name.")
        ] = None,
        catalog: CatalogFile = None,
        config: Annotated[str | None, typer.Option("--config", help="FILE of further settings.")] = None,
        change: Changes = None,
        out: Out = None,
        seed: Seed = 0,
        device: Device = "auto",
        precision: Precision = "auto",
        tracking_uri: TrackingUri = None,
        experiment: Experiment = "geomae",
        run_name: RunName = None,
        dry_run: DryRun = False,
        quiet: Quiet = False,
    ) -> None:
        """Adapt a model to unlabelled tiles of another domain, and measure before and after."""

        def work() -> int:
            from geomae.commands.adapt_request import AdaptOptions, read_request
            from geomae.commands.options import CommonOptions

            common = CommonOptions(
                catalog=catalog, out=out, seed=seed, device=device, precision=precision, tracking_uri=tracking_uri,
                experiment=experiment, run_name=run_name, dry_run=dry_run, quiet=quiet,
            )  # fmt: skip
            request = AdaptOptions(
                common=common, model=model, target=target, source=source, config=config, changes=tuple(change or ()),
                method=method, rank=rank, blocks=blocks, replay=replay, steps=steps, probe_train=probe_train,
                probe_test=probe_test, min_class_rows=min_class_rows, again=again, register=register,
            )  # fmt: skip
            read_request(request)  # what is wrong with it is said before torch is imported
            from geomae.commands.adapt import run

            return run(request)

        leave(work)
