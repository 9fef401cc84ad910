"""All that a comparison found, for the report and its plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geomae.analysis.reconstruction_rows import Row
from geomae.catalog import Catalog
from geomae.workflows.compare_recon_models import Candidate
from geomae.workflows.compare_recon_score import MaskKind, Scores
from geomae.workflows.compare_recon_show import Panel


@dataclass(frozen=True)
class Outcome:
    """All that a comparison found."""

    catalog: Catalog
    candidates: Sequence[Candidate]
    scores: Sequence[Scores]
    masks: Sequence[MaskKind]
    values: Sequence[Row]
    differences: Sequence[Row]
    panels: Sequence[Panel]
    seed: int

    @property
    def labels(self) -> list[str]:
        """The models in the order in which they were named."""
        return [one.label for one in self.candidates]

    def of(self, **fixed: Any) -> list[Row]:
        """The rows that have these values."""
        return [row for row in self.values if all(row[key] == value for key, value in fixed.items())]
