"""`geomae probe` on the command line."""

from collections.abc import Callable
from typing import Annotated

import typer

from geomae.commands.options import (
    Align,
    CatalogFile,
    Device,
    DryRun,
    Encoders,
    Experiment,
    Layer,
    Out,
    Pooling,
    Precision,
    Quiet,
    RunName,
    Seed,
    TrackingUri,
)

Leave = Callable[[Callable[[], int]], None]


def add_probe(app: typer.Typer, leave: Leave) -> None:
    """Add the command; `leave` runs a workflow and ends the process with its exit code."""

    @app.command()
    def probe(
        train: Annotated[str, typer.Option("--train", help="SELECTOR of the labelled tiles to learn from.")],
        test: Annotated[list[str], typer.Option("--test", help="SELECTOR of tiles to be tested on; repeatable.")],
        encoder: Encoders = None,
        catalog: CatalogFile = None,
        task: Annotated[str, typer.Option(help="classification, regression or segmentation.")] = "classification",
        strength: Annotated[
            float | None, typer.Option(help="C of the logistic regression (1 / alpha of the ridge); default chosen.")
        ] = None,
        cross_fit: Annotated[
            int | None, typer.Option(help="Folds in which each group is tested by a probe that never saw it.")
        ] = None,
        align: Align = None,
        own_bands: Annotated[
            bool, typer.Option("--own-bands", help="Embed each data set in all of its bands, not in the shared ones.")
        ] = False,
        no_baselines: Annotated[
            bool, typer.Option("--no-baselines", help="Leave statistics, rcf and random out of the table.")
        ] = False,
        min_class_rows: Annotated[int, typer.Option(help="Average over classes with at least so many test tiles.")] = 1,
        layer: Layer = None,
        pooling: Pooling = None,
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
        """Linear probe and kNN on frozen embeddings, encoders side by side, with baselines and intervals."""

        def work() -> int:
            from geomae.commands.options import CommonOptions, check_selectors

            common = CommonOptions(
                catalog=catalog, out=out, seed=seed, device=device, precision=precision, tracking_uri=tracking_uri,
                experiment=experiment, run_name=run_name, dry_run=dry_run, quiet=quiet,
            )  # fmt: skip
            check_selectors(common, [train], test)  # before torch is imported
            from geomae.commands.probe import run
            from geomae.commands.probe_request import ProbeOptions

            return run(
                ProbeOptions(
                    common=common, train=train, tests=tuple(test), encoders=tuple(encoder or ()), task=task,
                    strength=strength, cross_fit=cross_fit, baselines=not no_baselines, layer=layer, pooling=pooling,
                    min_class_rows=min_class_rows, align=tuple(align or ()), own_bands=own_bands,
                )
            )  # fmt: skip

        leave(work)
