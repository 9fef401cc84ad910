"""The settings that decide the result of a pretraining: stored in its folder, and compared when it is resumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geomae import __version__
from geomae.catalog import Selector, parse_selector
from geomae.catalog.schema import ALL
from geomae.config import PretrainConfig, flatten, parse


@dataclass(frozen=True)
class PretrainJob:
    """All settings that decide the result of a pretraining, with defaults resolved."""

    catalog: Path
    datasets: tuple[str, ...]
    evaluations: tuple[str, ...]
    config: PretrainConfig
    seed: int
    precision: str
    probe: str | None = None

    def params(self) -> dict[str, Any]:
        """Return the settings as JSON values, for the run's folder."""
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

    def selectors(self) -> tuple[list[Selector], list[Selector]]:
        """Return the selectors of the training tiles, and of the additional validation tiles."""
        return parse_selectors(self.datasets), parse_selectors(self.evaluations)

    def decisive(self) -> dict[str, Any]:
        """Return the settings by which jobs are compared: selectors in one spelling, the configuration flattened."""
        named = {"dataset": self.datasets, "eval": self.evaluations, "probe": (self.probe,) if self.probe else ()}
        spelled = {name: write_selectors(parse_selectors(texts)) for name, texts in named.items()}
        values = {"seed": self.seed, "precision": self.precision, **spelled}
        return flatten(self.config.model_dump(mode="json")) | values


def stored_job(stored: Mapping[str, Any], catalog: Path | None = None) -> PretrainJob:
    """Return the job that `PretrainJob.params` stored; `catalog` replaces the path of a catalogue that has moved."""
    config = parse(PretrainConfig, stored["config"])
    datasets, evaluations = tuple(stored["dataset"]), tuple(stored["eval"])
    path = catalog.absolute() if catalog else Path(stored["catalog"])
    return PretrainJob(path, datasets, evaluations, config, stored["seed"], stored["precision"], stored.get("probe"))


def job_differences(there: PretrainJob, here: PretrainJob) -> list[str]:
    """Return one text for each setting that differs between two jobs; the path of the catalogue is not compared."""
    old, new = there.decisive(), here.decisive()
    return [f"{name} ({_shown(old[name])} there, {_shown(new[name])} here)" for name in old if old[name] != new[name]]


def parse_selectors(texts: Sequence[str], split: str | None = None) -> list[Selector]:
    """Parse the selectors of a job. One without a split gets `split`; the split `all` becomes None, for all tiles."""
    parsed = [parse_selector(text) for text in texts]
    return [replace(one, split=None if (one.split or split) == ALL else one.split or split) for one in parsed]


def write_selectors(selectors: Sequence[Selector]) -> tuple[str, ...]:
    """Write selectors as a job stores them: all tiles are written as `@all`, so that no command's default applies."""
    return tuple(str(one) if one.split else f"{one}@{ALL}" for one in selectors)


def _shown(value: object) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)
