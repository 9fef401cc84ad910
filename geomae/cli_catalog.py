"""`geomae catalog ...`: the commands that write, check and show a data catalogue."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from geomae.commands.options import CatalogFile, Datasets, Out, Quiet

Command = Callable[[], int]


def catalog_app(finish: Callable[[Command], None]) -> typer.Typer:
    """The commands as an application of their own; `finish` runs what a command stands for and ends the process."""
    app = typer.Typer(
        name="catalog", help="Write, check and look at a data catalogue.", no_args_is_help=True, rich_markup_mode=None
    )
    for command in (init, check, stats, preview, schema):
        app.command()(_finishing(command, finish))
    return app


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with rasters, in it or below.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default data_catalog.yaml.")] = None,
    quiet: Quiet = False,
) -> Command:
    """Write a first catalogue from what lies in a folder; guesses and open questions are marked in it."""
    from geomae.commands.catalog_init import run

    return lambda: run(folder, out, quiet=quiet)


def check(catalog: CatalogFile = None, dataset: Datasets = None, out: Out = None, quiet: Quiet = False) -> Command:
    """Validate a catalogue, audit its files and count its tiles (all data sets, unless --dataset says which)."""
    from geomae.commands.catalog_check import run

    return lambda: run(catalog, tuple(dataset or ()), out, quiet=quiet)


def stats(catalog: CatalogFile = None, dataset: Datasets = None, out: Out = None, quiet: Quiet = False) -> Command:
    """Statistics of every band over the valid pixels, of the train split unless the selector says otherwise.

    They can differ from those of a training, which leaves out the tiles that it holds out for validation.
    """
    from geomae.commands.catalog_stats import run

    return lambda: run(catalog, tuple(dataset or ()), out, quiet=quiet)


def preview(catalog: CatalogFile = None, dataset: Datasets = None, out: Out = None, quiet: Quiet = False) -> Command:
    """Draw preview.png, tiles spread over a data set; of several, preview_NAME.png each, the first as preview.png."""
    from geomae.commands.catalog_preview import run

    return lambda: run(catalog, tuple(dataset or ()), out, quiet=quiet)


def schema(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default standard output.")] = None,
    quiet: Quiet = False,
) -> Command:
    """Print the format of a catalogue as JSON schema, for editors."""
    from geomae.commands.catalog_schema import run

    return lambda: run(out, quiet=quiet)


def _finishing(command: Callable[..., Command], finish: Callable[[Command], None]) -> Callable[..., None]:
    @functools.wraps(command)
    def finished(*arguments: Any, **options: Any) -> None:
        finish(command(*arguments, **options))

    return finished
