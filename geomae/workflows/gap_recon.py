"""What models of ours make of both domains: reconstruction errors under fixed masks.

T tiles, C bands
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.analysis.gap_contrast import Contrast, GapFigure
from geomae.analysis.gap_errors import reconstruction_gap
from geomae.encoders import Encoder, OwnEncoder
from geomae.errors import CatalogError
from geomae.workflows.compare_recon_models import Candidate, fit
from geomae.workflows.compare_recon_score import MASKED, MaskKind, score
from geomae.workflows.embedding import Session
from geomae.workflows.gap_sides import Side, Sides
from geomae.workflows.probe_request import Entrant

MASK = MaskKind("random", 0.75)
MOST_TILES = 256  # of each domain, drawn by the seed

Sums = tuple[NDArray[np.float64], NDArray[np.float64]]


def reconstruct(
    session: Session,
    entrant: Entrant,
    encoders: Mapping[str, Encoder],
    sides: Sides,
    progress: Callable[[str, int, int], None],
) -> tuple[list[GapFigure], str | None]:
    """The errors of a model on both domains; without figures, why there are none."""
    if entrant.baseline:
        return [], None
    own = next(iter(encoders.values()))
    if not isinstance(own, OwnEncoder) or own.model.mae.decoder is None:
        return [], f"{entrant.label} has no decoder, so nothing can be reconstructed with it"
    if not sides.same_bands:
        return [], f"{entrant.label}: errors in other bands or units on either side cannot be compared"
    candidate = Candidate(entrant.references[0], own.model)
    found = []
    for side in sides:
        try:
            found.append(_errors(session, candidate, side, progress))
        except CatalogError as error:
            return [], str(error)
    (first, bands, units_N), (second, others, units_M) = found
    if bands != others:
        return [], f"{entrant.label} reconstructs other bands on either side, whose errors cannot be compared"
    contrast = Contrast.of(units_N, units_M, session.common.seed)
    return reconstruction_gap(first, second, contrast, sides.source.selected.imagery.unit), None


def _errors(
    session: Session, candidate: Candidate, side: Side, progress: Callable[[str, int, int], None]
) -> tuple[Sums, tuple[int, ...], list[str]]:
    """Squared errors and pixels (T, C) of tiles, the bands that they are of, and the groups of the tiles."""
    device = session.fabric.device
    fitted = fit([candidate], side.selected, device, session.precision)
    exact = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    label = candidate.label
    scores = score(
        side.selected, fitted, [label], [MASK], MOST_TILES, session.common.seed, exact,
        lambda done, total: progress(f"reconstructing {side.name} by {label}", done, total),
    )  # fmt: skip
    sums = scores.sums[label, MASK, MASKED]
    unit = dict(zip(side.selected.index.tiles["tile_id"], side.unit_T, strict=True))
    units = [unit[tile_id] for tile_id in scores.index.tiles["tile_id"]]
    return (sums.square_TC, sums.pixels_TC), fitted.bands, units
