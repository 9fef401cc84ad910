"""A tile as several models reconstruct it, side by side in one stretch, with the errors below.

C bands, H W pixels; lengths on paper are in inches
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure

from geomae.reports.canvas import add_axes, add_picture_axes, add_text, add_title, save, shorten
from geomae.reports.figures import DIFFERENCE_MAP, HIDDEN_COLOUR, INVALID_COLOUR
from geomae.reports.stretch import Floats, Mask, composites, describe, stretch_limits, to_rgb
from geomae.sensors import Band

Picture = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ComparedTile:
    """A tile and its reconstructions by label, in physical units. `visible_HW` is what every model saw.

    Reconstructions keep the truth where it was visible: what a model puts there is no reconstruction.
    """

    tile_id: str
    truth_CHW: Floats
    visible_HW: Mask
    valid_CHW: Mask
    reconstructions: Mapping[str, Floats]

    def rmse(self, label: str) -> float:
        """Root mean square error over the hidden valid pixels of all bands; NaN where there are none."""
        counted_CHW = self.valid_CHW & ~self.visible_HW
        error = self.reconstructions[label][counted_CHW].astype(np.float64) - self.truth_CHW[counted_CHW]
        return float(np.sqrt(np.mean(error**2))) if error.size else float("nan")

    def error_HW(self, label: str, indices: Sequence[int]) -> Picture:
        """Mean absolute error over some bands; NaN where one of them is invalid."""
        chosen = list(indices)
        truth_CHW = np.where(self.valid_CHW[chosen], self.truth_CHW[chosen], np.nan).astype(np.float64)
        error_HW: Picture = np.abs(self.reconstructions[label][chosen] - truth_CHW).mean(axis=0)
        return error_HW

    def pictures(self, indices: tuple[int, int, int]) -> dict[str, Picture]:
        """Truth (``), what was visible (`visible`) and each reconstruction by label, in the stretch of the truth."""
        limits = stretch_limits(self.truth_CHW, self.valid_CHW)
        truth = to_rgb(self.truth_CHW, self.valid_CHW, indices, *limits, INVALID_COLOUR)
        everywhere_CHW = np.ones_like(self.valid_CHW)
        found = {"": truth, "visible": np.where(self.visible_HW[..., None], truth, HIDDEN_COLOUR)}
        return found | {
            label: to_rgb(pixels_CHW, everywhere_CHW, indices, *limits, INVALID_COLOUR)
            for label, pixels_CHW in self.reconstructions.items()
        }


def comparison_panel(path: Path, tile: ComparedTile, bands: Sequence[Band], unit: str, title: str) -> None:
    """Publish a picture (PNG): truth and reconstructions above, what was visible and absolute errors below.

    Once per composite (true and false colour). One stretch for all pictures of a composite, one scale for all errors.
    """
    shown = composites(bands)
    labels = list(tile.reconstructions)
    errors = {(name, label): tile.error_HW(label, indices) for name, indices in shown.items() for label in labels}
    known = np.concatenate([one[np.isfinite(one) & ~tile.visible_HW] for one in errors.values()])
    limit = (float(np.percentile(known, 99)) if known.size else 0.0) or 1.0
    side, gap, head, foot, words = 1.55, 0.08, 0.75, 0.55, 0.42
    block = 2 * (side + gap) + words + 0.1
    width = max(0.15 + (len(labels) + 1) * (side + gap) + 0.95, 7.0)
    figure = Figure(figsize=(width, head + len(shown) * block + foot))
    add_title(figure, title)
    add_text(figure, 0.15, 0.45, shorten(tile.tile_id, int(width * 12)), size=9)
    colours = colormaps[DIFFERENCE_MAP].with_extremes(bad=INVALID_COLOUR)
    for number, (name, indices) in enumerate(shown.items()):
        top = head + number * block
        add_text(
            figure, 0.15, top, f"{describe(name, indices, bands)}; {_limits(tile, indices, bands, unit)}", size=8.5
        )
        pictures = tile.pictures(indices)
        for column, label in enumerate(["", *labels]):
            left, above = 0.15 + column * (side + gap), top + words
            axes = add_picture_axes(figure, left, above, side, side)
            axes.imshow(pictures[label], interpolation="nearest")
            axes.set_title(shorten(label or "truth", 22), fontsize=8.5, pad=3, parse_math=False)
            below = add_picture_axes(figure, left, above + side + gap, side, side)
            if label:
                drawn = below.imshow(errors[name, label], cmap=colours, vmin=0, vmax=limit, interpolation="nearest")
            else:
                below.imshow(pictures["visible"], interpolation="nearest")
        scale = add_axes(figure, 0.15 + (len(labels) + 1) * (side + gap) + 0.05, top + words + side + gap, 0.13, side)
        figure.colorbar(drawn, cax=scale, extend="max").set_label(f"error, {unit.replace('_', ' ')}", size=8)
        scale.tick_params(labelsize=7.5)
    add_text(figure, 0.15, head + len(shown) * block + 0.05, _caption(tile, unit), size=8)
    save(figure, path)


def _limits(tile: ComparedTile, indices: Sequence[int], bands: Sequence[Band], unit: str) -> str:
    low_C, high_C = stretch_limits(tile.truth_CHW, tile.valid_CHW)
    spans = [f"{bands[place].name} {low_C[place]:.3g} to {high_C[place]:.3g}" for place in dict.fromkeys(indices)]
    return f"black to full colour: {', '.join(spans)} {unit.replace('_', ' ')}"


def _caption(tile: ComparedTile, unit: str) -> str:
    scores = ", ".join(f"{label} {tile.rmse(label):.3g}" for label in tile.reconstructions)
    return (
        "Lower row: what the models saw (grey is hidden, beige is invalid), then the absolute error, mean over the "
        f"bands shown.\nRMSE of hidden pixels over all bands, {unit.replace('_', ' ')}: {scores}"
    )
