"""The history of a model, step by step, read from its provenance."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One step of a model's history: the command, a sentence on what it did, and its MLflow run where known."""

    command: str
    text: str
    run: str | None

    def __str__(self) -> str:
        return self.text if self.run is None else f"{self.text} (run {self.run})"


def lineage(provenance: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps that made a model, in order; empty where the provenance is empty."""
    before = provenance.get("from")
    earlier = lineage(before) if isinstance(before, Mapping) else ()
    if not provenance:
        return earlier
    run = provenance.get("mlflow_run")
    return (*earlier, Step(str(provenance.get("command", "")), _in_words(provenance), str(run) if run else None))


def _in_words(provenance: Mapping[str, Any]) -> str:
    datasets = [str(name) for name in provenance.get("dataset", ())]
    if "adapted" in provenance:
        how = provenance["adapted"]
        beside = [name for name in datasets if name != how["target"]]
        replayed = f", beside {', '.join(beside)}" if beside else ""
        return f"adapted ({how['method']}) to {how['target']} without labels{replayed}"
    if "finetuned" in provenance:
        how = provenance["finetuned"]
        return f"fine-tuned ({how['task']}, {how['method']}) with labels of {', '.join(datasets)}"
    if datasets:
        return f"pretrained without labels on {', '.join(datasets)}"
    return f"weights of {provenance['source']}" if "source" in provenance else "weights of unknown origin"
