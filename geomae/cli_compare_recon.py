"""`geomae compare-recon` on the command line."""

from collections.abc import Callable
from typing import Annotated

import typer

from geomae.commands.options import (
    CatalogFile,
    Datasets,
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
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="[LABEL=]MODEL: a model folder, mlflow:RUN_ID, models:/NAME/VERSION, or baseline:mean, nearest, idw "
        "(idw?power=P; 2) or biharmonic; repeatable, the others are compared with the first.",
    ),
]


def add_compare_recon(app: typer.Typer, leave: Leave) -> None:
    """Add the command; `leave` runs a workflow and ends the process with its exit code."""

    @app.command("compare-recon")
    def compare_recon(
        model: Models = None,
        catalog: CatalogFile = None,
        dataset: Datasets = None,
        mask_ratio: Annotated[str, typer.Option(help="Hidden shares of a tile, as 0.75,0.5,0.9.")] = "0.75",
        masking: Annotated[str, typer.Option(help="Kinds of masks: random, block, grid; as random,block.")] = "random",
        tiles: Annotated[int, typer.Option(min=1, help="Most tiles of each selection, drawn by the seed.")] = 256,
        show: Annotated[
            str, typer.Option(help="Tiles to picture: best, median, worst, random:N and tile ids, by comma.")
        ] = "best,median,worst,random:4",
        scenes: Annotated[int, typer.Option(min=0, help="Most scenes of each data set to map; 0 makes no maps.")] = 4,
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
        """Compare reconstructions of models on the same tiles under the same masks."""

        def work() -> int:
            from geomae.commands.options import CommonOptions, check_selectors

            common = CommonOptions(
                catalog=catalog, out=out, seed=seed, device=device, precision=precision, tracking_uri=tracking_uri,
                experiment=experiment, run_name=run_name, dry_run=dry_run, quiet=quiet,
            )  # fmt: skip
            check_selectors(common, dataset or ())  # before torch is imported
            from geomae.commands.compare_recon import CompareReconOptions, run

            models, datasets = tuple(model or ()), tuple(dataset or ())
            return run(CompareReconOptions(models, datasets, mask_ratio, masking, tiles, show, scenes, common))

        leave(work)
