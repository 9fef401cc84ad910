"""What a training is asked to do: the request of the command line, and the job that it resolves to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomae import __version__
from geomae.catalog import open_catalog, parse_selector, resolve_selectors
from geomae.catalog.schema import ALL
from geomae.commands.run import RunFolder
from geomae.config import PretrainConfig, changed, flatten, load_config, parse
from geomae.errors import CheckpointError


@dataclass(frozen=True)
class PretrainOptions:
    """What the command line asked for; None where it did not say."""

    catalog: Path | None = None
    datasets: tuple[str, ...] = ()
    evaluations: tuple[str, ...] = ()
    config: str | None = None
    changes: tuple[str, ...] = ()
    out: Path | None = None
    resume: Path | None = None
    seed: int | None = None
    device: str = "auto"
    precision: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    tracking_uri: str | None = None
    experiment: str = "geomae"
    run_name: str | None = None
    register: str | None = None
    dry_run: bool = False
    quiet: bool = False
    probe: str | None = None
    parent_run: str | None = None  # MLflow run of a study, of which this is a part


@dataclass(frozen=True)
class PretrainJob:
    """What decides the result, resolved; `to_dict` is stored in the run's folder and compared at a resume."""

    catalog: Path
    datasets: tuple[str, ...]
    evaluations: tuple[str, ...]
    config: PretrainConfig
    seed: int
    precision: str
    probe: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "command": "pretrain",
            "version": __version__,
            "catalog": str(self.catalog),
            "dataset": list(self.datasets),
            "eval": list(self.evaluations),
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "precision": self.precision,
            "probe": self.probe,
        }


def read_request(request: PretrainOptions) -> tuple[PretrainConfig, Path, tuple[str, ...]]:
    """Configuration, catalogue and selectors of a new run; works without torch, whose import takes seconds."""
    config = load_config(PretrainConfig, "pretrain", request.config or "tiny", request.changes)
    path = request.catalog or Path("data_catalog.yaml")
    catalog = open_catalog(path)
    datasets = resolve_selectors(catalog, request.datasets, "train")
    for text in (*request.evaluations, *([request.probe] if request.probe is not None else [])):
        catalog.entry(parse_selector(text).dataset)
    return config, path, tuple(str(one) if one.split else f"{one}@{ALL}" for one in datasets)


def resolve(request: PretrainOptions, folder: RunFolder | None) -> PretrainJob:
    """The job of a new run, or the stored one; a resume with other wishes is refused, naming them."""
    from geomae.runtime import devices
    from geomae.runtime.precision import precision_for

    device = devices.device_for(request.device)
    if folder is None:
        config, path, texts = read_request(request)
        precision = precision_for(device, request.precision)
        return PretrainJob(
            path.absolute(), texts, request.evaluations, config, request.seed or 0, precision, request.probe
        )
    stored = folder.request()
    config = parse(PretrainConfig, stored["config"])
    asked = (
        load_config(PretrainConfig, "pretrain", request.config, request.changes)
        if request.config
        else parse(PretrainConfig, changed(stored["config"], request.changes))
    )
    flat = flatten(asked.model_dump(mode="json"))
    there = flatten(config.model_dump(mode="json"))
    differences = [f"{name} ({old} there, {flat[name]} here)" for name, old in there.items() if flat[name] != old]
    wishes = {
        "seed": (request.seed, stored["seed"]),
        "dataset": (list(request.datasets) or None, stored["dataset"]),
        "probe": (request.probe, stored.get("probe")),
        "eval": (list(request.evaluations) or None, stored["eval"]),
        "precision": (None if request.precision == "auto" else request.precision, stored["precision"]),
    }
    differences += [
        f"{name} ({old} there, {new} here)" for name, (new, old) in wishes.items() if new not in (None, old)
    ]
    if differences:
        raise CheckpointError(
            f"--resume {folder.path}: its configuration differs in {'; '.join(differences)}; leave these out to go on, "
            "or start a new run"
        )
    path = request.catalog.absolute() if request.catalog else Path(stored["catalog"])
    datasets, evaluations = tuple(stored["dataset"]), tuple(stored["eval"])
    return PretrainJob(path, datasets, evaluations, config, stored["seed"], stored["precision"], stored.get("probe"))
