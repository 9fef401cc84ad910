"""The command line: arguments to a request, one workflow call, an exit code."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from geomae.commands import (
    adapt,
    catalog_check,
    catalog_init,
    catalog_preview,
    catalog_schema,
    catalog_stats,
    compare_recon,
    convert,
    embed,
    embed_pca,
    gap,
    probe,
    ui,
)
from geomae.commands.options import (
    CatalogFile,
    Changes,
    Datasets,
    Device,
    Devices,
    DryRun,
    Evaluations,
    Experiment,
    Nodes,
    Out,
    Precision,
    Probe,
    Quiet,
    RunName,
    TrackingUri,
    exit_with,
)

app = typer.Typer(
    name="geomae",
    help="Domain adaptation for remote sensing imagery with band-aware masked autoencoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from geomae import __version__

        typer.echo(f"geomae {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def pretrain(
    catalog: CatalogFile = None,
    dataset: Datasets = None,
    evaluate: Evaluations = None,
    probe: Probe = None,
    config: Annotated[str | None, typer.Option("--config", help="FILE or shipped NAME; default tiny.")] = None,
    change: Changes = None,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Folder of a run to go on with.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Chooses weights, tiles and masks; default 0.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp or fsdp.")] = "auto",
    tracking_uri: TrackingUri = None,
    experiment: Experiment = "geomae",
    run_name: RunName = None,
    register: Annotated[str | None, typer.Option(help="Put the model into MLflow's registry under this name.")] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train a masked autoencoder on the tiles of a catalogue."""
    from geomae.commands.pretrain_job import PretrainOptions, read_request

    request = PretrainOptions(
        catalog=catalog,
        datasets=tuple(dataset or ()),
        evaluations=tuple(evaluate or ()),
        probe=probe,
        config=config,
        changes=tuple(change or ()),
        out=out,
        resume=resume,
        seed=seed,
        device=device,
        precision=precision,
        devices=devices,
        nodes=nodes,
        strategy=strategy,
        tracking_uri=tracking_uri,
        experiment=experiment,
        run_name=run_name,
        register=register,
        dry_run=dry_run,
        quiet=quiet,
    )

    def work() -> int:
        if resume is None:
            read_request(request)  # what is wrong with it is said before torch is imported
        from geomae.commands.pretrain import run

        return run(request)

    exit_with(work)


def main() -> None:
    """Run the command line and exit with its code; a wrong argument is one line, as every other fault of a request."""
    try:
        code = app(prog_name="geomae", standalone_mode=False)
    except typer.Abort:  # interrupted before a command was there to say so
        typer.echo("interrupted", err=True)
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own errors; their class moves between its releases
            raise
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
        else:
            remedy = f"{context.command_path if context else 'geomae'} --help"
            typer.echo(f"error: {' '.join(error.format_message().split()).rstrip('.')}; see `{remedy}`", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


app.command("convert")(convert.convert)
app.command("ui")(ui.ui)
app.command("embed")(embed.embed)
app.command("probe")(probe.probe)
app.command("embed-pca")(embed_pca.embed_pca)
app.command("compare-recon")(compare_recon.compare_recon)
app.command("gap")(gap.gap)
app.command("adapt")(adapt.adapt)

catalog = typer.Typer(
    name="catalog", help="Write, check and look at a data catalogue.", no_args_is_help=True, rich_markup_mode=None
)
catalog.command("init")(catalog_init.init)
catalog.command("check")(catalog_check.check)
catalog.command("stats")(catalog_stats.stats)
catalog.command("preview")(catalog_preview.preview)
catalog.command("schema")(catalog_schema.schema)
app.add_typer(catalog)
