"""The command line: one subcommand per module of `geomae.commands`, with its help and exit code."""

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

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
    finetune,
    gap,
    predict,
    pretrain,
    probe,
    runs,
    ui,
)
from geomae.commands.options import FIRST, GROUPS, OTHERS, USUAL

SECTIONS = {  # the commands in the help of `geomae`, in the order in which a study uses them
    "Begin": ("doctor", "catalog"),
    "Train": ("pretrain", "adapt", "finetune"),
    "Measure and compare": ("embed", "embed-pca", "probe", "gap", "compare-recon"),
    "Map and export": ("predict", "convert"),
    "Find runs again": ("runs", "ui"),
}


class Sections(TyperGroup):
    """The program, whose help lists the commands by what they are for, with their whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section of commands after the other."""
        for section, names in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(LONGEST_HELP)) for name in names])


LONGEST_HELP = 200  # characters; it is wrapped to the terminal and not cut
app = typer.Typer(
    name="geomae",
    cls=Sections,
    epilog="Begin with `geomae catalog init FOLDER` for your rasters, or with `geomae catalog init --sample`.",
    help="Domain adaptation for remote sensing imagery with band-aware masked autoencoders.",
    no_args_is_help=True,
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
    """Run the command line and exit with its code. A wrong argument is reported in one line, like any other error."""
    try:
        code = app(prog_name="geomae", standalone_mode=False)
    except typer.Abort:  # interrupted before the command could report it
        typer.echo("interrupted", err=True)
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # identifies typer's errors, whose class differs between releases
            raise
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
        else:
            remedy = f"{context.command_path if context else 'geomae'} --help"
            typer.echo(f"error: {' '.join(error.format_message().split()).rstrip('.')}; see `{remedy}`", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


EXAMPLES: dict[str, str] = {}  # by the last word of a command; shown below its options


class Command(TyperCommand):
    """A command whose help lists the most used options first, the others by group, and then an example."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the groups of options."""
        records: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        options = [one for one in self.get_params(ctx) if one.param_type_name == "option"]
        usual = sorted((one for one in options if title(one) in USUAL), key=lambda one: USUAL.index(title(one)))[:FIRST]
        few = len(options) <= FIRST + 2
        records |= {} if few else {group: [] for group in (OTHERS, *GROUPS)}
        for one in (*usual, *(other for other in self.get_params(ctx) if other not in usual)):
            group = next((name for name, titles in GROUPS.items() if title(one) in titles), OTHERS)
            if one.param_type_name == "argument":
                group = "Arguments"
            elif few or one in usual or title(one) == "help":
                group = "Options"
            if (record := one.get_help_record(ctx)) is not None:
                records[group].append(record)
        for group, listed in records.items():
            if listed:
                with formatter.section(group):
                    formatter.write_dl(listed)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example in one line, without wrapping, so that it can be copied."""
        if ctx.info_name in EXAMPLES:
            formatter.write(f"\nExample:\n  {EXAMPLES[ctx.info_name]}\n")


def title(option: Any) -> str:
    """Return the long name of an option without its dashes, or the name of an argument."""
    return str(max(option.opts, key=len)).lstrip("-")


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {  # by name: the function, and the arguments of an example
    "pretrain": (pretrain.pretrain, "--catalog data_catalog.yaml --dataset mine --set steps=1000 --out runs/mine"),
    "convert": (convert.convert, "mae_pretrain_vit_base.pth model --statistics imagenet"),
    "ui": (ui.ui, "--port 5001"),
    "doctor": (doctor.doctor, "--catalog data_catalog.yaml"),
    "embed": (embed.embed, "--dataset mine --encoder runs/mine/model --out runs/embeddings"),
    "probe": (probe.probe, "--train mine@train --test mine@test --encoder runs/mine/model --out runs/probe"),
    "finetune": (finetune.finetune, "--model runs/mine/model --train mine@train --eval mine@test --out runs/finetune"),
    "embed-pca": (embed_pca.embed_pca, "--dataset mine --encoder runs/mine/model --out runs/pca"),
    "compare-recon": (compare_recon.compare_recon, "--dataset mine@test --model runs/mine/model --model baseline:idw"),
    "gap": (gap.gap, "--source 'mine[season=dry]' --target 'mine[season=wet]' --encoder runs/mine/model"),
    "adapt": (adapt.adapt, "--model runs/mine/model --source mine@train --target other@train --out runs/adapted"),
    "predict": (predict.predict, "--model runs/probe/probes/mine --dataset other --out runs/map"),
    "catalog init": (catalog_init.init, "rasters --out data_catalog.yaml"),
    "catalog check": (catalog_check.check, "--dataset mine"),
    "catalog stats": (catalog_stats.stats, "--dataset mine@train"),
    "catalog preview": (catalog_preview.preview, "--dataset mine --out preview"),
    "catalog schema": (catalog_schema.schema, "--out catalog.schema.json"),
    "runs show": (runs.show_run, "mine"),
}
catalog = typer.Typer(
    name="catalog", help="Write, check and view a data catalogue.", no_args_is_help=True, rich_markup_mode=None
)
runs_app = typer.Typer(name="runs", invoke_without_command=True, rich_markup_mode=None)
runs_app.callback()(runs.list_runs)


def add_command(name: str, function: Callable[..., None], arguments: str) -> None:
    """Add a command to the app; `catalog check` is the command `check` of the group `catalog`."""
    group, _, last = name.rpartition(" ")
    EXAMPLES[last] = f"geomae {name} {arguments}"
    {"": app, "catalog": catalog, "runs": runs_app}[group].command(last, cls=Command)(function)


for name, (function, arguments) in COMMANDS.items():
    add_command(name, function, arguments)
app.add_typer(catalog)
app.add_typer(runs_app)
