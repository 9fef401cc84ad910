"""How much worse a model reconstructs one domain than another.

N tiles of the source, M of the target, C bands, X sides of deals or one side
"""

import numpy as np

from geomae.analysis.gap_cells import Cells, Doubles, Measure
from geomae.analysis.gap_contrast import Contrast, GapFigure, between_sums

ON_SOURCE, ON_TARGET, RATIO = "reconstruction_rmse_source", "reconstruction_rmse_target", "reconstruction_ratio"


def reconstruction_gap(
    source: tuple[Doubles, Doubles], target: tuple[Doubles, Doubles], contrast: Contrast, unit: str
) -> list[GapFigure]:
    """RMSE (mean over bands) on either side, and target / source, from squared errors and pixels (N, C) of tiles.

    The null value of the ratio is that of the larger error of two halves to the smaller one.
    """
    (square_NC, pixels_NC), (square_MC, pixels_MC) = source, target
    errors = [float(_rmse(square.sum(0), pixels.sum(0))) for square, pixels in (source, target)]
    x_N2C, y_M2C = np.stack([square_NC, pixels_NC], axis=1), np.stack([square_MC, pixels_MC], axis=1)
    ratio = errors[1] / errors[0]
    return [
        GapFigure(ON_SOURCE, errors[0], unit=unit),
        GapFigure(ON_TARGET, errors[1], unit=unit),
        contrast.figure(RATIO, _error_ratio, x_N2C, y_M2C, value=ratio),
    ]


def _error_ratio(sums_N2C: Doubles, cells: Cells) -> Measure:
    """The larger error by the smaller one, so that it does not matter which side is which."""

    def between(one_R: Doubles, other_R: Doubles) -> Doubles:
        bands = sums_N2C.shape[2]
        errors = [_rmse(side[:, :bands], side[:, bands:]) for side in (one_R, other_R)]
        return np.asarray(np.exp(np.abs(np.log(errors[0] / errors[1]))))

    return between_sums(cells.sums(sums_N2C.reshape(len(sums_N2C), -1)), between)


def _rmse(square_XC: Doubles, pixels_XC: Doubles) -> Doubles:
    mean_XC = square_XC / np.maximum(pixels_XC, 1)
    return np.asarray(np.sqrt(np.maximum(mean_XC, np.finfo(np.float64).tiny)).mean(-1))  # of nothing, too, a ratio
