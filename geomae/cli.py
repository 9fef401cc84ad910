"""The command line: one sub-command per module of `geomae.commands`, and an exit code."""

import sys
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
    doctor,
    embed,
    embed_pca,
    gap,
    pretrain,
    probe,
    runs,
    ui,
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


app.command("pretrain")(pretrain.pretrain)
app.command("convert")(convert.convert)
app.command("ui")(ui.ui)
app.command("doctor")(doctor.doctor)
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

runs_app = typer.Typer(name="runs", invoke_without_command=True, rich_markup_mode=None)
runs_app.callback()(runs.list_runs)
runs_app.command("show")(runs.show_run)
app.add_typer(runs_app)
