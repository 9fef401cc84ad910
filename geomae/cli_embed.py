"""`geomae embed` on the command line."""

from collections.abc import Callable
from typing import Annotated

import typer

from geomae.commands.options import (
    CatalogFile,
    Datasets,
    Device,
    Devices,
    DryRun,
    Encoders,
    Experiment,
    Layer,
    Nodes,
    Out,
    Pooling,
    Precision,
    Quiet,
    RunName,
    Seed,
    TrackingUri,
)

Leave = Callable[[Callable[[], int]], None]


def add_embed(app: typer.Typer, leave: Leave) -> None:
    """Add the command; `leave` runs a workflow and ends the process with its exit code."""

    @app.command()
    def embed(
        encoder: Encoders = None,
        catalog: CatalogFile = None,
        dataset: Datasets = None,
        layer: Layer = None,
        pooling: Pooling = None,
        patches: Annotated[
            bool, typer.Option("--patches", help="Keep the embedding of every patch too, in float16.")
        ] = False,
        out: Out = None,
        seed: Seed = 0,
        device: Device = "auto",
        precision: Precision = "auto",
        devices: Devices = 1,
        nodes: Nodes = 1,
        tracking_uri: TrackingUri = None,
        experiment: Experiment = "geomae",
        run_name: RunName = None,
        dry_run: DryRun = False,
        quiet: Quiet = False,
    ) -> None:
        """Embed the tiles of a catalogue; a run that was stopped goes on with the same --out."""

        def work() -> int:
            from geomae.commands.options import CommonOptions, check_selectors

            common = CommonOptions(
                catalog=catalog, out=out, seed=seed, device=device, precision=precision, devices=devices, nodes=nodes,
                tracking_uri=tracking_uri, experiment=experiment, run_name=run_name, dry_run=dry_run, quiet=quiet,
            )  # fmt: skip
            check_selectors(common, dataset or ())  # before torch is imported
            from geomae.commands.embed import EmbedOptions, run
            from geomae.encoders.selections import EmbeddingSpec

            return run(
                EmbedOptions(tuple(encoder or ()), tuple(dataset or ()), EmbeddingSpec(layer, pooling, patches), common)
            )

        leave(work)
