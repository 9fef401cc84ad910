"""What decides the result of a pretraining: stored in its folder, and compared when it goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomae import __version__
from geomae.config import PretrainConfig, changed, flatten, load_config, parse


@dataclass(frozen=True)
class PretrainJob:
    """What decides the result, resolved."""

    catalog: Path
    datasets: tuple[str, ...]
    evaluations: tuple[str, ...]
    config: PretrainConfig
    seed: int
    precision: str
    probe: str | None = None

    def params(self) -> dict[str, Any]:
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


def stored_job(stored: Mapping[str, Any], catalog: Path | None = None) -> PretrainJob:
    """The job that `params` stored; its catalogue may have moved to `catalog`."""
    config = parse(PretrainConfig, stored["config"])
    datasets, evaluations = tuple(stored["dataset"]), tuple(stored["eval"])
    path = catalog.absolute() if catalog else Path(stored["catalog"])
    return PretrainJob(path, datasets, evaluations, config, stored["seed"], stored["precision"], stored.get("probe"))


def job_differences(
    stored: Mapping[str, Any], config: str | None, changes: Sequence[str], requested: Mapping[str, Any]
) -> list[str]:
    """How a configuration and other values that are requested (None: not said) differ from the stored ones."""
    here = (
        load_config(PretrainConfig, "pretrain", config, changes)
        if config
        else parse(PretrainConfig, changed(stored["config"], changes))
    )
    new_values = flatten(here.model_dump(mode="json"))
    old_values = flatten(parse(PretrainConfig, stored["config"]).model_dump(mode="json"))
    pairs = [(name, old, new_values[name]) for name, old in old_values.items() if new_values[name] != old]
    for name, new in requested.items():
        old = stored.get(name)
        if new not in (None, old):
            pairs.append((name, old, new))
    return [f"{name} ({old} there, {new} here)" for name, old, new in pairs]
