"""`geomae embed-pca` on the command line."""

from collections.abc import Callable
from pathlib import Path
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
Components = Annotated[
    int | None, typer.Option(min=1, help="Components to keep; default 16, or as many as there can be.")
]
Project = Annotated[
    Path | None, typer.Option(help="Folder of an earlier embed-pca: put the tiles along its components.")
]
Maps = Annotated[
    int | None,
    typer.Option(
        min=0, help="Scenes of each data set to map; default all, and 8 where scenes have no CRS. 0 makes no maps."
    ),
]


def add_embed_pca(app: typer.Typer, leave: Leave) -> None:
    """Add the command; `leave` runs a workflow and ends the process with its exit code."""

    @app.command("embed-pca")
    def embed_pca(
        encoder: Encoders = None,
        catalog: CatalogFile = None,
        dataset: Datasets = None,
        components: Components = None,
        project: Project = None,
        maps: Maps = None,
        layer: Layer = None,
        pooling: Pooling = None,
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
        """Embed tiles and show them along their principal components: plots, a report, and maps of whole scenes."""

        def work() -> int:
            from geomae.commands.options import CommonOptions, check_selectors

            common = CommonOptions(
                catalog=catalog, out=out, seed=seed, device=device, precision=precision, devices=devices, nodes=nodes,
                tracking_uri=tracking_uri, experiment=experiment, run_name=run_name, dry_run=dry_run, quiet=quiet,
            )  # fmt: skip
            check_selectors(common, dataset or ())  # before torch is imported
            from geomae.commands import embed
            from geomae.commands.embed_pca import EmbedPcaOptions, run
            from geomae.encoders.selections import EmbeddingSpec

            embedding = embed.EmbedOptions(
                tuple(encoder or ()), tuple(dataset or ()), EmbeddingSpec(layer, pooling), common
            )
            return run(EmbedPcaOptions(embedding, components, project, maps))

        leave(work)
