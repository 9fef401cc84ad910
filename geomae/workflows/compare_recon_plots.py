"""The plots of a comparison: what of the sums is drawn, and where it is published."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from geomae.analysis.reconstruction_errors import ALL, figures
from geomae.reports.recon_plots import error_by_band, error_by_ratio, mean_spectra
from geomae.workflows.compare_recon_outcome import Outcome
from geomae.workflows.compare_recon_score import MASKED, MaskKind, Scores
from geomae.workflows.run_folder import file_name


def draw_plots(out: Path, outcome: Outcome) -> Iterator[tuple[Path, str]]:
    """Publish spectra and errors by band under the first mask, and errors by ratio where there are several.

    Gives each path with its caption, one selection after the other.
    """
    mask = outcome.masks[0]
    for one in outcome.scores:
        name, unit, stem = one.selected.name, one.selected.imagery.unit, file_name(one.selected.name)
        total = {
            label: one.sums[label, mask, MASKED].weighted(np.ones((1, len(one.index)))) for label in outcome.labels
        }
        first = total[outcome.labels[0]]
        with np.errstate(invalid="ignore", divide="ignore"):
            truth_C = (first.truth_TC / first.pixels_TC)[0]
            means = {label: truth_C + (sums.error_TC / sums.pixels_TC)[0] for label, sums in total.items()}
            errors = {label: np.sqrt(sums.square_TC / sums.pixels_TC)[0] for label, sums in total.items()}
        path = out / f"spectra_{stem}.png"
        mean_spectra(path, one.bands, truth_C, means, unit, f"{name}: mean spectrum of masked pixels, {mask}")
        yield (
            path,
            f"{name}: the mean spectrum of masked pixels, true and reconstructed, against wavelength; below, the bias.",
        )
        path = out / f"error_by_band_{stem}.png"
        error_by_band(path, [band.name for band in one.bands], errors, unit, f"{name}: error by band, {mask}")
        yield path, f"{name}: RMSE of masked pixels against the band, {mask}."
        for kind in dict.fromkeys(mask.kind for mask in outcome.masks):
            ratios = sorted(mask.ratio for mask in outcome.masks if mask.kind == kind)
            if len(ratios) > 1:
                path = out / f"error_by_ratio_{stem}_{kind}.png"
                hidden = np.array([one.hidden(MaskKind(kind, ratio)) for ratio in ratios])
                curves = {
                    label: (hidden, np.array([_rmse(one, label, MaskKind(kind, ratio)) for ratio in ratios]))
                    for label in outcome.labels
                }
                error_by_ratio(path, curves, unit, f"{name}: error by mask ratio, {kind} masks")
                yield path, f"{name}: RMSE of masked pixels, mean over bands, against the hidden share ({kind} masks)."


def _rmse(scores: Scores, label: str, mask: MaskKind) -> float:
    sums = scores.sums[label, mask, MASKED].weighted(np.ones((1, len(scores.index))))
    return float(figures(sums, scores.bands, scores.range_C)["rmse", ALL][0])
