"""Models of other libraries as encoders: their value range and normalisation, input size and tokens.

B tiles, C bands, H W pixels, N patches, h w rows and columns of patches, T tokens, D width
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, interpolate

from geomae.encoders.interface import Tokens, weights_digest
from geomae.errors import ConfigError, ModelError
from geomae.files import digest
from geomae.models.convert.state_dicts import prefix_notes, without_prefix
from geomae.sensors import Band
from geomae.sensors.record import SensorRecord

BRIGHT = 0.3  # reflectance of red, green and blue that a picture shows as white
SPREAD = 2.0  # standard deviations on each side of the mean that are stretched to a picture's range
BYTE = 255.0
STORED = 10_000.0  # Sentinel-2 products store reflectance as integers of 1/10000


@dataclass(frozen=True)
class Range:
    """An affine map with clipping, per band: pixels * factor + shift, clipped to [low, high]; `note` describes it."""

    factor_C: tuple[float, ...]
    shift_C: tuple[float, ...]
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    note: str


@dataclass(frozen=True)
class Values:
    """A range, then a normalisation (x - mean) / std. Invalid pixels are first set to `usual_C`, in physical units."""

    range: Range
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    usual_C: tuple[float, ...]

    def apply(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """Return the model's input values (B, C, H, W) in float32, from pixels in physical units."""
        factor, shift, low, high, mean, std, usual = _columns(self).to(pixels_BCHW.device)
        raw_BCHW = pixels_BCHW.float().where(valid_BCHW, usual) * factor + shift
        values_BCHW: Tensor = (raw_BCHW.clamp(low, high) - mean) / std
        return values_BCHW

    @property
    def note(self) -> str:
        """The range and the normalisation, in words."""
        if set(self.mean_C) == {0.0} and set(self.std_C) == {1.0}:
            return self.range.note
        mean, std = (", ".join(f"{one:g}" for one in dict.fromkeys(values)) for values in (self.mean_C, self.std_C))
        return f"{self.range.note}; then minus {mean}, divided by {std}"


def values(chosen: Range, steps: Sequence[tuple[Sequence[float], Sequence[float]]], record: SensorRecord) -> Values:
    """Combine a range with the normalisation steps (mean, std) that follow it; a step of one number is for all bands.

    Invalid pixels are set to the mean of their band in `record`.
    """
    count = len(record.bands)
    total_mean, total_std = [0.0] * count, [1.0] * count
    for mean, std in steps:
        means, stds = (list(one) * count if len(one) == 1 else list(one) for one in (mean, std))
        # ((x - m) / s - mean) / std = (x - (m + s mean)) / (s std)
        total_mean = [m + s * more for m, s, more in zip(total_mean, total_std, means, strict=True)]
        total_std = [s * more for s, more in zip(total_std, stds, strict=True)]
    return Values(chosen, tuple(total_mean), tuple(total_std), record.mean_C)


def standardised(record: SensorRecord) -> Values:
    """Return the values with mean 0 and standard deviation 1, by the statistics of the data set."""
    factor = tuple(1 / std for std in record.std_C)
    shift = tuple(-mean / std for mean, std in zip(record.mean_C, record.std_C, strict=True))
    chosen = Range(factor, shift, -torch.inf, torch.inf, f"standardised by the train split of {record.name}")
    return values(chosen, (), record)


def picture_range(record: SensorRecord, top: float = 1.0) -> Range:
    """Return the range that maps pixels to picture values 0 to `top`, as models of ordinary photographs expect.

    Reflectance 0 to 0.3 of red, green and blue, and digital numbers 0 to 255, become 0 to `top`. Anything else is
    stretched by `stretched_range`.
    """
    names = {band.common_name for band in record.bands}
    if record.unit == "reflectance" and names <= {"red", "green", "blue"}:
        return _affine(record, top / BRIGHT, 0.0, f"reflectance 0 to {BRIGHT} becomes 0 to {top:g}", 0.0, top)
    if record.unit == "digital_number" and all(mean <= BYTE for mean in record.mean_C):
        return _affine(record, top / BYTE, 0.0, f"digital numbers 0 to 255 become 0 to {top:g}", 0.0, top)
    return stretched_range(record, top)


def stretched_range(record: SensorRecord, top: float = 1.0) -> Range:
    """Return the range that maps mean - 2 std and mean + 2 std of the train split to 0 and `top`."""
    factor = tuple(top / (2 * SPREAD * std) for std in record.std_C)
    shift = tuple(top / 2 - mean * scale for mean, scale in zip(record.mean_C, factor, strict=True))
    note = f"mean -+ {SPREAD:g} standard deviations of the train split of {record.name} become 0 to {top:g}"
    return Range(factor, shift, 0.0, top, note)


def stored_range(record: SensorRecord, text: str) -> Range:
    """Return the range that maps reflectance to the integers of Sentinel-2 products.

    Digital numbers stay as they are. Raises ConfigError for any other unit.
    """
    if record.unit == "reflectance":
        return _affine(record, STORED, 0.0, f"reflectance x {STORED:g}, the digital numbers that it was trained on")
    if record.unit == "digital_number":
        return _affine(record, 1.0, 0.0, "digital numbers as they are, taken to be reflectance x 10000")
    raise ConfigError(
        f"{text}: was trained on reflectance, and the data set is in {record.unit}; give it as reflectance"
    )


def decibel_range(record: SensorRecord, text: str) -> Range:
    """Return the range that leaves decibels unchanged. Raises ConfigError where a band has a mean of 0 or more."""
    if max(record.mean_C) >= 0:
        raise ConfigError(
            f"{text}: was trained on backscatter in decibels, whose mean is below 0; convert the data set"
        )
    return _affine(record, 1.0, 0.0, "values as they are, taken to be decibels")


def linear_range(
    record: SensorRecord, factors: Sequence[float], shift: float, low: float, highs: Sequence[float], note: str
) -> Range:
    """Return a range with one factor and one upper limit per band."""
    return Range(tuple(factors), (shift,) * len(record.bands), low, tuple(highs), note)


@dataclass(frozen=True)
class Backbone:
    """A model of another library, and how to read its tokens.

    `run(values_BCHW, gsd_m)` is the library's own forward pass to features: tokens (B, T, D), or a feature map
    (B, D, h, w), with `channels_last` (B, h, w, D). The first `prefix` tokens belong to no patch. For a model with
    `blocks` a layer can be chosen: the tokens are read after that block, and `norm` follows the last one. With
    `pooled_norm` the library applies the norm to the mean of the patches.
    """

    module: nn.Module
    run: Callable[[Tensor, float | None], Any]
    size: int
    blocks: Sequence[nn.Module] = ()
    norm: nn.Module | None = None
    prefix: int = 0
    pooled_norm: bool = False
    channels_last: bool = False

    def tokens(self, values_BCHW: Tensor, gsd_m: float | None, layer: int | None) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens (B, T, D), and the rows and columns of patches.

        After the last block (`layer` None) the norm is applied, unless the library applies it after pooling.
        """
        if self.blocks:
            x = self._after(self.blocks[-1 if layer is None else layer - 1], values_BCHW, gsd_m)
            x = self.norm(x) if layer is None and self.norm is not None and not self.pooled_norm else x
        else:
            x = self.run(values_BCHW, gsd_m)
        if x.ndim == 4:
            map_BhwD = x if self.channels_last else x.permute(0, 2, 3, 1)
            return map_BhwD.flatten(1, 2).float(), (map_BhwD.shape[1], map_BhwD.shape[2])
        side = round((x.shape[1] - self.prefix) ** 0.5)
        return x.float(), (side, side)

    def _after(self, block: nn.Module, values_BCHW: Tensor, gsd_m: float | None) -> Tensor:
        """Run the library's forward pass and return the output of `block`."""
        seen: list[Tensor] = []
        handle = block.register_forward_hook(lambda module, given, result: seen.append(result))
        try:
            self.run(values_BCHW, gsd_m)
        finally:
            handle.remove()
        return seen[0]


@dataclass(frozen=True)
class ForeignEncoder:
    """A model of another library, for one data set: tiles are normalised as it expects and resized to its size."""

    text: str
    backbone: Backbone
    record: SensorRecord
    values: Values
    layer: int | None
    pooling: str
    adapted: tuple[str, ...] = ()

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that `embed` expects, in the model's order."""
        return self.record.bands

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance of the data set, in metres."""
        return self.record.gsd_m

    @property
    def depth(self) -> int:
        """The number of blocks to choose a layer from; 0 where the model offers no choice."""
        return len(self.backbone.blocks)

    @cached_property
    def digest(self) -> str:
        """Hex digest of weights, layer, pooling, bands, normalisation and input size."""
        weights = weights_digest(self.backbone.module.state_dict())
        chosen = [self.layer, self.pooling, self.backbone.size, asdict(self.values)]
        return digest([type(self.backbone.module).__name__, weights, *chosen, self.record.to_dict()])

    @property
    def notes(self) -> tuple[str, ...]:
        """Normalisation, input size, layer and pooling, and what was adapted, in words."""
        last = (
            f"last layer of {self.depth}, after its norm"
            if self.depth
            else "its only output (no layers to choose from)"
        )
        which = f"layer {self.layer} of {self.depth}" if self.layer else last
        size = self.backbone.size
        return (
            f"bands {', '.join(band.name for band in self.bands)}: {self.values.note}",
            f"tiles resized bilinearly to {size} x {size}, the model's own size; invalid pixels count as the mean",
            f"{which}, pooled by {self.pooling}",
            *self.adapted,
        )

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises ConfigError for a tile that is not square."""
        if height != width:
            raise ConfigError(f"{self.text}: takes square tiles, not {height} x {width} pixels; cut tiles to squares")
        return self._grid

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings (tile_BD, patches_BND) in float32 of tiles in physical units.

        Patches without a valid pixel are left out of the tile embedding.
        """
        tokens = self.tokens(pixels_BCHW, valid_BCHW)
        return tokens.pooled(self.pooling), tokens.patches_BND

    def tokens(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tokens:
        """Return the class token (B, D), None where the model has none, and patches (B, N, D), with gradients."""
        self.patch_grid(*pixels_BCHW.shape[-2:])
        pixels_BCHW = pixels_BCHW.to(self._device)
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW.to(self._device)
        values_BCHW = resized(self.values.apply(pixels_BCHW, valid_BCHW), self.backbone.size)
        # A resized pixel covers less ground.
        gsd_m = None if self.gsd_m is None else self.gsd_m * pixels_BCHW.shape[-1] / self.backbone.size
        tokens_BTD, grid = self.backbone.tokens(values_BCHW, gsd_m, self.layer)
        usable_BN = adaptive_max_pool2d(valid_BCHW.any(1, keepdim=True).float(), grid).flatten(1) > 0
        cls_BD = tokens_BTD[:, 0] if self.backbone.prefix else None
        patches_BND = tokens_BTD[:, self.backbone.prefix :]
        if self.layer is None and self.backbone.pooled_norm and self.backbone.norm is not None:
            return _normed(self.backbone.norm, Tokens(cls_BD, patches_BND, usable_BN))
        return Tokens(cls_BD, patches_BND, usable_BN)

    @cached_property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of patches, found by running a tile of zeros."""
        size = self.backbone.size
        zeros_1CHW = torch.zeros(1, len(self.bands), size, size, device=self._device)
        with torch.no_grad():
            return self.backbone.tokens(zeros_1CHW, self.gsd_m, self.layer)[1]

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.module.parameters()).device


def resized(values_BCHW: Tensor, size: int) -> Tensor:
    """Resize tiles to `size` x `size` pixels, bilinearly, with antialiasing where they become smaller."""
    if values_BCHW.shape[-2:] == (size, size):
        return values_BCHW
    return interpolate(values_BCHW, (size, size), mode="bilinear", antialias=values_BCHW.shape[-1] > size)


def load_state(
    module: nn.Module, weights: dict[str, Tensor], text: str, may_lack: Sequence[str] = ()
) -> tuple[str, ...]:
    """Load weights whose keys may share a prefix (`module.`, `backbone.`, ...). Returns notes on unused weights.

    Raises ModelError where a key of the encoder is missing or has another shape. Keys that begin with one of
    `may_lack` may be missing.
    """
    own = module.state_dict()
    given = weights
    weights, prefix = without_prefix(given, next(iter(own)))
    missing = [key for key in own if key not in weights and not key.startswith(tuple(may_lack))]
    if missing:
        some = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ModelError(
            f"{text}: the weights lack {len(missing)} of {len(own)} keys ({some}); they are another model's"
        )
    for key in own.keys() & weights.keys():
        if own[key].shape != weights[key].shape:
            raise ModelError(
                f"{text}: {key} is {tuple(weights[key].shape)} in the weights and {tuple(own[key].shape)} in the "
                "model; they are another model's, or of other bands"
            )
    module.load_state_dict({key: value for key, value in weights.items() if key in own}, strict=False)
    left = [key for key in weights if key not in own]
    notes = [*prefix_notes(given, prefix)]
    if left:
        notes.append(f"weights outside the encoder were not used: {', '.join(left[:3])} ({len(left)} in all)")
    return tuple(notes)


def _normed(norm: nn.Module, raw: Tokens) -> Tokens:
    """Apply the norm as libraries do that pool first: to the mean of the patches.

    It is also applied to the class token and to each patch on its own.
    """
    cls_BD = None if raw.cls_BD is None else norm(raw.cls_BD).float()
    return Tokens(cls_BD, norm(raw.patches_BND).float(), raw.usable_BN, norm(raw.pooled("mean")).float())


def _affine(
    record: SensorRecord, factor: float, shift: float, note: str, low: float = -torch.inf, high: float = torch.inf
) -> Range:
    count = len(record.bands)
    return Range((factor,) * count, (shift,) * count, low, high, note)


def _columns(chosen: Values) -> Tensor:
    """Return the seven numbers of each band as one tensor (7, C, 1, 1), so that one transfer takes it to the device."""
    given, count = chosen.range, len(chosen.usual_C)
    low, high = (one if isinstance(one, tuple) else (one,) * count for one in (given.low, given.high))
    rows = (given.factor_C, given.shift_C, low, high, chosen.mean_C, chosen.std_C, chosen.usual_C)
    return torch.tensor(rows, dtype=torch.float32)[..., None, None]
