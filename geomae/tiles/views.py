"""Views of the ground around a tile: windows of random sizes, resized to one size, with random gains and offsets.

C bands, H W pixels, s side of a window, S side of a view
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from geomae.rasters import Window
from geomae.tiles.ground import TrainingGround, draw_window, window_around

SIZES = 4  # sizes that are tried before the tile itself is used
SHIFT = 0.25  # of a side: largest offset of a partner's window from the ground of the tile's window
ZOOM = (0.8, 1.25)  # range of the side of a partner's window, relative to the tile's
LEAST_SHARED = 0.5  # share of the tile's window that the partner's has to cover

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ViewRules:
    """How views are drawn: sides of windows in tiles; bounds of gain and offset per band in standardised units."""

    scales: tuple[float, float] = (1.0, 1.0)
    paired: bool = False  # draw a second view of every tile:
    places: bool = False  # from a partner where there is one,
    alone: bool = True  # from the tile itself where there is none
    gain: float = 0.0
    offset: float = 0.0

    @property
    def scaled(self) -> bool:
        """Whether windows differ from the tiles."""
        return self.scales != (1.0, 1.0)


@dataclass(frozen=True)
class Frame:
    """A square of `side` pixels around a point of a scene, in its pixels; neither need be whole."""

    scene: int
    row: float
    col: float
    side: float

    def window(self) -> Window:
        """The nearest window of whole pixels."""
        return window_around(self.row, self.col, max(round(self.side), 1))


def frame_of(scene: int, window: Window) -> Frame:
    """The frame of a square window."""
    return Frame(scene, window.row + window.height / 2, window.col + window.width / 2, window.height)


def draw_view(
    tile: Frame, scales: tuple[float, float], least: int, ground: TrainingGround, rng: np.random.Generator
) -> Window:
    """A window of random size, around the tile or within it, on training ground; the tile itself where none is found.

    Sizes are uniform in their logarithm, and at least `least` pixels. Where the ground ends beside the tile, a larger
    window is moved inwards.
    """
    top, left, bottom, right = ground.bounds(tile.scene)
    for _ in range(SIZES):
        side = max(round(tile.side * float(np.exp(rng.uniform(*np.log(scales))))), least)
        if side > min(bottom - top, right - left):
            continue
        row, col = (
            min(max(centre, low + side / 2), high - side / 2)
            for centre, low, high in ((tile.row, top, bottom), (tile.col, left, right))
        )
        window = draw_window(ground, tile.scene, row, col, side, abs(tile.side - side) / 2, rng)
        if window is not None:
            return window
    return tile.window()


def draw_partner(around: Frame, ground: TrainingGround, rng: np.random.Generator) -> Window | None:
    """A random window that covers at least half of `around`, on training ground; None where none is found.

    The last try is `around` itself.
    """
    zooms = [*np.exp(rng.uniform(np.log(ZOOM[0]), np.log(ZOOM[1]), SIZES)).tolist(), 1.0]
    reaches = [*[SHIFT * around.side] * SIZES, 0.0]
    for zoom, reach in zip(zooms, reaches, strict=True):
        side = max(round(around.side * zoom), 1)
        window = draw_window(ground, around.scene, around.row, around.col, side, reach, rng)
        if window is not None and shared(around, window) >= LEAST_SHARED:
            return window
    return None


def shared(frame: Frame, window: Window) -> float:
    """The share of a frame that a window of the same scene covers."""
    sides = []
    for centre, start, length in ((frame.row, window.row, window.height), (frame.col, window.col, window.width)):
        low, high = centre - frame.side / 2, centre + frame.side / 2
        sides.append(max(min(high, start + length) - max(low, start), 0.0) / frame.side)
    return sides[0] * sides[1]


def resize(pixels_CHW: Floats, valid_CHW: Bools, side: int) -> tuple[Floats, Bools]:
    """Resize a square window to `side` x `side` pixels by a triangle filter over its valid pixels.

    A pixel is valid where valid pixels have at least half of the filter's weight. The filter is two pixels of the
    coarser grid wide, so that shrinking does not alias.
    """
    if pixels_CHW.shape[-1] == side:
        return pixels_CHW, valid_CHW
    taps_Ss = _taps(pixels_CHW.shape[-1], side)
    if valid_CHW.all():
        small_CSS = (taps_Ss @ pixels_CHW @ taps_Ss.T).astype(np.float32, copy=False)
        return small_CSS, np.ones(small_CSS.shape, dtype=np.bool_)
    weight_CHW = valid_CHW.astype(np.float32)
    known_CSS = taps_Ss @ weight_CHW @ taps_Ss.T
    sums_CSS = taps_Ss @ np.where(valid_CHW, pixels_CHW, 0) @ taps_Ss.T
    valid_CSS = known_CSS >= 0.5
    return np.where(valid_CSS, sums_CSS / np.maximum(known_CSS, 0.5), 0).astype(np.float32), valid_CSS


def draw_alteration(bands: int, rules: ViewRules, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Gain and offset (C,) of each band of a view, in standardised units."""
    gain_C = 1 + rules.gain * rng.uniform(-1, 1, bands)
    offset_C = rules.offset * rng.uniform(-1, 1, bands)
    return gain_C.astype(np.float32), offset_C.astype(np.float32)


@lru_cache(maxsize=512)
def _taps(length: int, side: int) -> Floats:
    """Weights (S, s) of the pixels of a window in each pixel of a view; every row adds to 1."""
    ratio = length / side
    centre_S = (np.arange(side) + 0.5) * ratio
    distance_Ss = np.abs(centre_S[:, None] - (np.arange(length) + 0.5)) / max(ratio, 1.0)
    weight_Ss = np.maximum(1 - distance_Ss, 0)
    taps_Ss: Floats = (weight_Ss / weight_Ss.sum(1, keepdims=True)).astype(np.float32)
    return taps_Ss
