"""What decides the result of a pretraining: stored in its folder, and compared when it goes on."""

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

    def selectors(self) -> tuple[list[Selector], list[Selector]]:
        """Of the tiles to train on, and of those to validate on too."""
        return parse_selectors(self.datasets), parse_selectors(self.evaluations)

    def decisive(self) -> dict[str, Any]:
        """What equal jobs have in common, by name: selectors in one spelling, the configuration without nesting."""
        named = {"dataset": self.datasets, "eval": self.evaluations, "probe": (self.probe,) if self.probe else ()}
        spelled = {name: write_selectors(parse_selectors(texts)) for name, texts in named.items()}
        values = {"seed": self.seed, "precision": self.precision, **spelled}
        return flatten(self.config.model_dump(mode="json")) | values


def stored_job(stored: Mapping[str, Any], catalog: Path | None = None) -> PretrainJob:
    """The job that `params` stored; its catalogue may have moved to `catalog`."""
    config = parse(PretrainConfig, stored["config"])
    datasets, evaluations = tuple(stored["dataset"]), tuple(stored["eval"])
    path = catalog.absolute() if catalog else Path(stored["catalog"])
    return PretrainJob(path, datasets, evaluations, config, stored["seed"], stored["precision"], stored.get("probe"))


def job_differences(there: PretrainJob, here: PretrainJob) -> list[str]:
    """How one job differs from another, a text for each value; their catalogues may lie in different places."""
    old, new = there.decisive(), here.decisive()
    return [f"{name} ({_shown(old[name])} there, {_shown(new[name])} here)" for name in old if old[name] != new[name]]


def parse_selectors(texts: Sequence[str], split: str | None = None) -> list[Selector]:
    """Selectors of a job; one without a split gets `split`, and None stands for all tiles (`@all`)."""
    parsed = [parse_selector(text) for text in texts]
    return [replace(one, split=None if (one.split or split) == ALL else one.split or split) for one in parsed]


def write_selectors(selectors: Sequence[Selector]) -> tuple[str, ...]:
    """Selectors as a job keeps them: `@all` says that all tiles are meant, whatever a command would take otherwise."""
    return tuple(str(one) if one.split else f"{one}@{ALL}" for one in selectors)


def _shown(value: object) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)
