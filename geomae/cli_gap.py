"""`geomae gap` on the command line."""

from collections.abc import Callable
from typing import Annotated

import typer

from geomae.commands.options import (
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


def add_gap(app: typer.Typer, leave: Leave) -> None:
    """Add the command; `leave` runs a workflow and ends the process with its exit code."""

    @app.command()
    def gap(
        source: Annotated[str, typer.Option("--source", help="SELECTOR of the tiles of the source domain.")],
        target: Annotated[str, typer.Option("--target", help="SELECTOR of the tiles of the target domain.")],
        encoder: Encoders = None,
        catalog: CatalogFile = None,
        no_baselines: Annotated[
            bool, typer.Option("--no-baselines", help="Leave statistics out of the table.")
        ] = False,
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
        """How far apart two domains are, and in what: pixels, embeddings, labels, reconstruction errors."""

        def work() -> int:
            from geomae.commands.options import CommonOptions, check_selectors

            common = CommonOptions(
                catalog=catalog, out=out, seed=seed, device=device, precision=precision, tracking_uri=tracking_uri,
                experiment=experiment, run_name=run_name, dry_run=dry_run, quiet=quiet,
            )  # fmt: skip
            check_selectors(common, [source], [target])  # before torch is imported
            from geomae.commands.gap import run
            from geomae.commands.gap_request import GapOptions

            return run(
                GapOptions(
                    common=common, source=source, target=target, encoders=tuple(encoder or ()),
                    baselines=not no_baselines, layer=layer, pooling=pooling,
                )
            )  # fmt: skip

        leave(work)
