"""What came of an adaptation: the record that the report shows, and its figures as JSON and as metrics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from geomae.analysis.closing import Figure
from geomae.config import AdaptConfig
from geomae.workflows.adapt_data import Domains
from geomae.workflows.adapt_errors import ALL, Change
from geomae.workflows.adapt_proof import Plan, Proof
from geomae.workflows.adapt_train import Adapted


@dataclass(frozen=True)
class Outcome:
    """All that is known at the end; `digest` names the weights of the model before."""

    config: AdaptConfig
    domains: Domains
    plan: Plan
    adapted: Adapted
    changes: list[Change]
    proof: Proof
    digest: str

    def error(self, domain: str) -> Change | None:
        """The change of the reconstruction error of `target` or `source`, as the mean over bands."""
        return next((one for one in self.changes if (one.domain, one.band) == (domain, ALL)), None)


def to_json(outcome: Outcome) -> dict[str, Any]:
    """adaptation.json without its verdict; what is unknown is null."""
    adapted, proof = outcome.adapted, outcome.proof
    return {
        "model_digest": outcome.digest,
        "method": outcome.config.method,
        "parameters": {
            "trained": adapted.share.trained, "total": adapted.share.total, "share": adapted.share.share,
        },
        "steps": {"kept": adapted.kept_step, "trained": adapted.steps},
        "reconstruction": [asdict(one) for one in outcome.changes],
        "gap": {model: [asdict(one) for one in rows] for model, rows in proof.gap.items()},
        "probe": {
            "metric": proof.metric, "target": _rows(proof.target), "source": _rows(proof.source),
        } if proof.target else None,
        "notes": list(outcome.domains.notes),
    }  # fmt: skip


def figures(outcome: Outcome) -> dict[str, float]:
    """Every figure by name, for the summary and MLflow."""
    found: dict[str, float] = {
        "parameters/trained": outcome.adapted.share.trained,
        "parameters/share": outcome.adapted.share.share,
        "steps/kept": outcome.adapted.kept_step,
        "steps/trained": outcome.adapted.steps,
    }
    for one in outcome.changes:
        name = f"{one.domain}/{one.band}"
        found |= {f"rmse_before/{name}": one.before, f"rmse_after/{name}": one.after, f"rmse_change/{name}": one.change}
        if one.interval is not None:
            found |= {f"rmse_change/{name}/low": one.interval[0], f"rmse_change/{name}/high": one.interval[1]}
    for model, rows in outcome.proof.gap.items():
        found |= {f"gap/{row.measure}/{model}": row.value for row in rows}
    for domain, rows_ in (("target", outcome.proof.target), ("source", outcome.proof.source)):
        for name, figure in rows_.items():
            place = f"probe/{domain}/{name.replace(':', '-')}"
            found[place] = figure.value
            if figure.interval is not None:
                found |= {f"{place}/low": figure.interval[0], f"{place}/high": figure.interval[1]}
    return {name: value for name, value in found.items() if value == value}


def _rows(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {
        name: {"value": one.value if one.value == one.value else None, "interval": one.interval}
        for name, one in figures.items()
    }
