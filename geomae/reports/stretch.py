"""Physical values as colours: which bands make red, green and blue, and between which values they are stretched."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geomae.sensors import Band

# C bands, H W pixels
FloatArray = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]

TRUE_COLOUR, FALSE_COLOUR, GREY = "true colour", "false colour", "grey"
CHOICES = {
    TRUE_COLOUR: [("red", "green", "blue")],
    FALSE_COLOUR: [
        (near_infrared, *others)
        for others in (("red", "green"), ("green", "blue"))  # the second for sensors without a red band
        for near_infrared in ("nir", "nir08")
    ]
    + [("swir16", near_infrared, "red") for near_infrared in ("nir", "nir08")],
}


def composites(bands: Sequence[Band]) -> dict[str, tuple[int, int, int]]:
    """Give the positions of the bands that stand for red, green and blue, in true colour and in one false colour.

    Where the bands make neither, the first band alone is shown in grey.
    """
    place: dict[str | None, int] = {}
    for index, band in enumerate(bands):
        place.setdefault(band.common_name, index)
    found = {
        title: (place[names[0]], place[names[1]], place[names[2]])
        for title, choices in CHOICES.items()
        for names in [next((names for names in choices if all(name in place for name in names)), None)]
        if names is not None
    }
    return found or {GREY: (0, 0, 0)}


def describe(composite: str, indices: tuple[int, int, int], bands: Sequence[Band]) -> str:
    """Give a composite's title with its bands by name, red first: `true colour (B04, B03, B02)`."""
    return f"{composite} ({', '.join(bands[index].name for index in dict.fromkeys(indices))})"


def stretch_limits(
    pixels: FloatArray | Sequence[FloatArray],
    valid: Mask | Sequence[Mask],
    percentiles: tuple[float, float] = (2, 98),
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Give the values that become black and full colour, per band: `(low_C, high_C)`, from the valid pixels alone.

    `pixels` is one tile, CHW, or several, whose pixels count together; `valid` likewise. A band without valid pixels
    gets 0 and 1; in a band of one value, that value is the middle.
    """
    tiles = [pixels] if isinstance(pixels, np.ndarray) else list(pixels)
    masks = [valid] if isinstance(valid, np.ndarray) else list(valid)
    limits = []
    for band in range(tiles[0].shape[0]):
        known = np.concatenate([tile[band][mask[band]] for tile, mask in zip(tiles, masks, strict=True)])
        known = known[np.isfinite(known)].astype(np.float64)
        low, high = np.percentile(known, percentiles) if known.size else (0.0, 1.0)
        if low == high:
            half = abs(low) / 2 or 0.5
            low, high = low - half, high + half
        limits.append((low, high))
    low_C, high_C = np.array(limits, dtype=np.float64).T
    return low_C, high_C


def to_rgb(
    pixels_CHW: FloatArray,
    valid_CHW: Mask,
    indices: tuple[int, int, int],
    low_C: FloatArray,
    high_C: FloatArray,
    invalid_colour: Colour,
    gamma: float = 1.0,
) -> npt.NDArray[np.float64]:
    """Give the picture (height, width, 3), 0 to 1; a pixel that is invalid in any band shown gets `invalid_colour`.

    A `gamma` above 1 brightens what is dark and leaves black and full colour where they are.
    """
    chosen = list(indices)
    with np.errstate(invalid="ignore", over="ignore"):  # what is invalid may hold anything
        scaled = (pixels_CHW[chosen] - low_C[chosen, None, None]) / (high_C - low_C)[chosen, None, None]
    known_HW = (valid_CHW[chosen] & np.isfinite(scaled)).all(axis=0)
    picture = np.clip(np.moveaxis(np.nan_to_num(scaled), 0, -1), 0, 1).astype(np.float64) ** (1 / gamma)
    picture[~known_HW] = invalid_colour
    return picture
