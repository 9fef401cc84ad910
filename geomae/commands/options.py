"""Options shared by several commands (names, types, help), the folder of `--out`, and the exit of a command.

Nothing here is slow to import: `geomae --help` and the message for a wrong option need neither torch nor pydantic.
"""

import errno
import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

import typer
from typer.models import ParameterInfo

from geomae.encoders.specification import KINDS
from geomae.errors import ConfigError, GeomaeError, StorageError
from geomae.files import write_json
from geomae.runtime.peers import take_leave

if TYPE_CHECKING:
    from geomae.catalog import Catalog, Selector
    from geomae.encoders import Reference

CatalogFile = Annotated[Path | None, typer.Option("--catalog", help="Catalogue; default data_catalog.yaml.")]
_DATASET = typer.Option("--dataset", help="SELECTOR of tiles to use; repeatable.")
Datasets = Annotated[tuple[str, ...], _DATASET]
DatasetList = Annotated[list[str] | None, _DATASET]  # for functions that Typer sees as they are
Changes = Annotated[tuple[str, ...], typer.Option("--set", help="KEY=VALUE: change the configuration; repeatable.")]
Encoders = Annotated[
    tuple[str, ...],
    typer.Option(
        "--encoder",
        help=f"[LABEL=]ENCODER: a model folder, {', '.join(KINDS[:-1])} or {KINDS[-1]}; repeatable if the command "
        "compares several.",
    ),
]
Layer = Annotated[
    int | None, typer.Option(min=1, help="Block whose output is the embedding; default: recommended for the encoder.")
]
Pooling = Annotated[
    str | None, typer.Option(help="mean, cls or mean-std over the patches; default: recommended for the encoder.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the results; default runs/COMMAND-TIME.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="auto, 32 or bf16.")]
Devices = Annotated[int, typer.Option(min=1, help="Number of processes on this node.")]
Nodes = Annotated[int, typer.Option(min=1, help="Number of nodes; each runs the same command.")]
TrackingUri = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store; default sqlite:///mlflow.db.")]
Experiment = Annotated[str, typer.Option(help="MLflow experiment.")]
RunName = Annotated[str | None, typer.Option(help="Name of the MLflow run; default the folder's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors and warnings only.")]

# Order of the options in the help of a command: at most FIRST of these first, then the rest by group.
FIRST = 5
USUAL = ("dataset", "train", "test", "source", "target", "model", "encoder", "config", "set", "out", "catalog")
GROUPS = {
    "Input": ("catalog", "eval", "probe", "probe-train", "probe-test", "min-class-rows", "sample", "shots"),
    "Model": ("model", "encoder", "config", "set", "layer", "pooling", "no-baselines", "own-bands", "statistics"),
    "Training": ("seed", "steps", "replay", "resume", "device", "precision", "devices", "nodes", "strategy"),
    "Output": ("out", "register", "show", "maps", "patches", "again", "dry-run", "json", "quiet"),
    "Tracking": ("tracking-uri", "experiment", "run-name"),
}
OTHERS = "Method"  # options of one command

# The command that usually follows each command; words in capitals are for the user to fill in.
NEXT = {
    "catalog check": "geomae catalog preview --dataset {dataset}",
    "catalog stats": "geomae pretrain --dataset {dataset}",
    "catalog preview": "geomae pretrain --dataset {dataset}",
    "pretrain": "geomae embed-pca --dataset {dataset} --encoder {out}/model",
    "convert": "geomae embed-pca --dataset SELECTOR --encoder {out}",
    "embed": "geomae embed-pca --dataset {dataset} --encoder {encoder}",
    "embed-pca": "geomae probe --train {train} --test {test} --encoder {encoder}",
    "probe": "geomae predict --model {out}/probes/{encoder} --dataset {dataset}",
    "finetune": "geomae predict --model {out}/model --dataset {dataset}",
    "gap": "geomae adapt --source {source} --target {target} --model {model}",
    "adapt": "geomae compare-recon --dataset {target} --model {model} --model {out}/model",
    "compare-recon": "geomae runs show {out}",
    "predict": "geomae runs show {out}",
}


@dataclass(frozen=True)
class CommonOptions:
    """Options that every command of analysis has; None where the user gave none."""

    catalog: CatalogFile = None
    out: Out = None
    seed: Seed = 0
    device: Device = "auto"
    precision: Precision = "auto"
    devices: Devices = 1
    nodes: Nodes = 1
    tracking_uri: TrackingUri = None
    experiment: Experiment = "geomae"
    run_name: RunName = None
    dry_run: DryRun = False
    quiet: Quiet = False
    parent_run: str | None = None  # MLflow run of the study that this run is a part of

    def open_catalog(self) -> "Catalog":
        """The catalogue of --catalog, else the one in the current folder; it is read once."""
        return self._opened

    @cached_property
    def _opened(self) -> "Catalog":
        from geomae.catalog import open_catalog

        return open_catalog(self.catalog or Path("data_catalog.yaml"))


def read_selectors(common: CommonOptions, *groups: Sequence[str]) -> "list[tuple[Selector, ...]]":
    """The selectors of each group of texts. Raises CatalogError for faults in them or in the catalogue.

    Works without torch, whose import takes seconds.
    """
    from geomae.catalog import resolve_selectors

    catalog = common.open_catalog()
    return [resolve_selectors(catalog, texts, None) for texts in groups]


def one_encoder(texts: Sequence[str]) -> "Reference":
    """The encoder of a command that takes one. Raises ConfigError for none, for several, and for an invalid one."""
    from geomae.encoders.specification import parse_encoders

    if len(texts) != 1:
        problem = "name one" if not texts else f"{len(texts)} are named, and this command takes one"
        raise ConfigError(f"--encoder: {problem}; `geomae probe` compares several")
    return parse_encoders(texts)[0]


def embedding_request(
    encoder: "Reference", selectors: "Sequence[Selector]", layer: int | None, pooling: str | None
) -> dict[str, object]:
    """The options that embeddings depend on, under the names in a run's record."""
    from geomae.encoders.specification import absolute

    datasets = [str(one) for one in selectors]
    return {"dataset": datasets, "encoder": absolute(encoder.text), "layer": layer, "pooling": pooling}


ONE_DEVICE = ("devices", "nodes")  # what a command has not that runs on one device


def command(run: Callable[[Any], int], about: str, without: Sequence[str] = ()) -> Callable[..., None]:
    """Return a function of which Typer makes a command: it calls `run` with its options, and leaves with its exit code.

    The options are declared once, as fields of the data class that `run` takes: `field: Annotated[type,
    typer.Option(...)] = default`. A tuple is an option that can be repeated, a bool that is true by default a flag that
    turns it off, and a field without a typer.Option is none. The fields of CommonOptions, where `common` is a field,
    are options too, but for those in `without`. `about` is the help of the command.
    """
    (kind,) = (hint for name, hint in get_type_hints(run).items() if name != "return")
    own = [one for one in fields(kind) if one.type is not CommonOptions]
    shared = [one for one in fields(CommonOptions) if one.name not in without] if len(own) < len(fields(kind)) else []
    hints = get_type_hints(CommonOptions, include_extras=True) | get_type_hints(kind, include_extras=True)
    parameters = [found for one in (*own, *shared) if (found := _parameter(one, hints[one.name])) is not None]

    def called(**given: Any) -> None:
        own_values, shared_values = (
            {one.name: _value(one, given[one.name]) for one in part if one.name in given} for part in (own, shared)
        )
        common = {"common": CommonOptions(**shared_values)} if shared else {}
        exit_with(lambda: run(kind(**common, **own_values)))

    called.__doc__ = about
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    called.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return called


def _parameter(one: Field[Any], hint: Any) -> Parameter | None:
    """The parameter that Typer sees of a field; None for a field that is no option."""
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    option = next((mark for mark in marks if isinstance(mark, ParameterInfo)), None)
    if option is None:
        return None
    default = Parameter.empty if one.default is MISSING else False if one.default is True else one.default
    if get_origin(kind) is tuple:
        kind, default = (list[str], default) if default is Parameter.empty else (list[str] | None, None)
    return Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _value(one: Field[Any], given: Any) -> Any:
    """The value of a field, from what Typer read."""
    if one.default is True:
        return not given
    return tuple(given) if isinstance(given, list) else () if one.default == () else given


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; an error in a request is printed as one line without a traceback."""
    try:
        code = command()
        take_leave(well=True)
    except GeomaeError as error:
        take_leave(well=False)
        rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
        typer.echo(f"{f'rank {rank}: ' if rank else ''}error: {' '.join(str(error).split())}", err=True)
        # Ranks that we started exit with 0: on any other code the launcher of rank 0 kills all processes.
        launched_by_scheduler = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ
        code = error.exit_code if rank == 0 or launched_by_scheduler else 0
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        longest = max(Path(str(error.filename)).parts, key=len)
        typer.echo(f"error: {longest[:60]}...: too long a name for the file system; shorten it", err=True)
        code = GeomaeError.exit_code
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        code = 130
    raise SystemExit(code)


def next_command(command: str, common: CommonOptions, **values: object) -> str:
    """The last line of a command: the command that usually follows, with the names of this run filled in.

    The value of an option that is repeated is a tuple; it fills the placeholder that is named after the option.
    """
    texts = {
        name: f" --{name} ".join(shlex.quote(str(one)) for one in (value if isinstance(value, tuple) else (value,)))
        for name, value in values.items()
    }
    filled = NEXT[command].format(**texts)
    reads_catalog = common.catalog is not None and not filled.startswith("geomae runs")
    return f"next: {filled}{f' --catalog {shlex.quote(str(common.catalog))}' if reads_catalog else ''}"


def default_out(command: str) -> Path:
    """`runs/<command>-<time>` in the current folder, with a number if that name is taken."""
    stem = f"{command}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder = Path("runs") / stem
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stem}-{number}"
    return folder.absolute()


def check_new(path: Path) -> None:
    """Raise StorageError if `path` already holds something."""
    if path.is_file():
        raise StorageError(f"--out {path}: is a file; choose another folder")
    if path.is_dir() and any(path.iterdir()):
        what = "already holds a run" if (path / "run.json").exists() else "is not empty"
        raise StorageError(f"--out {path}: {what}; choose another folder")


def check_writable(path: Path) -> None:
    """Raise StorageError if the folder `path` can be neither made nor written to; nothing is left behind."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        Path(tempfile.mkdtemp(prefix=".geomae-", dir=place)).rmdir()
    except OSError as error:
        raise StorageError(
            f"--out {path}: {place} cannot be written to ({error.strerror}); choose another folder"
        ) from error


def output_folder(command: str, out: Path | None) -> Path:
    """The folder that a command writes to: the user's choice, else a new one named by the time."""
    return (out or default_out(command)).absolute()


def new_output_folder(command: str, out: Path | None) -> Path:
    """The same for a command that cannot continue a run. Raises StorageError if `out` already holds something,
    or if the folder cannot be written to."""
    if out is not None:
        check_new(out)
    folder = output_folder(command, out)
    check_writable(folder)
    return folder


def write_catalog_summary(
    folder: Path,
    command: str,
    catalog: "Catalog",
    selectors: "Sequence[Selector]",
    metrics: Mapping[str, float],
    error: str | None = None,
) -> None:
    """Publish `summary.json` of a command that describes a catalogue; MLflow does not track such commands.

    `error` is the message that the command ended with, if it failed.
    """
    names = [str(one) for one in selectors]
    content = catalog.digest(sorted({one.dataset for one in selectors}))
    inputs = {"catalog": catalog.path.absolute(), "dataset": names, "digest": content}
    summary = {"command": command, "run_id": None, "out": folder, "metrics": metrics, "inputs": inputs}
    write_json(folder / "summary.json", summary if error is None else summary | {"error": error})
