"""Galileo's published encoders: one token per patch and group of Sentinel-2 bands; absent groups are masked out.

Sources: Tseng et al. 2025, Galileo, arXiv 2502.09356; patch kernels of any size after Beyer et al. 2023, FlexiViT.

B tiles, C bands, H W pixels, G groups, N patches, P pixels of a kernel, Q pixels of a patch, D width, E its quarter
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from geomae.encoders.foreign_models import Values, load_state, stored_range, values
from geomae.encoders.galileo_weights import FILES, read_renamed
from geomae.encoders.interface import Layer, Tokens, check_pooling, choose_layer, weights_digest
from geomae.encoders.specification import Reference
from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.files import digest, read_json
from geomae.models.blocks import choose_kernels
from geomae.sensors import Band, match_bands, sensor
from geomae.sensors.record import SensorRecord

GROUPS = {  # groups of optical bands, as the weights name them: a title, and the bands in stored order
    "S2_RGB": ("RGB", ("B2", "B3", "B4")),
    "S2_Red_Edge": ("red edge", ("B5", "B6", "B7")),
    "S2_NIR_10m": ("NIR 10 m", ("B8",)),
    "S2_NIR_20m": ("NIR 20 m", ("B8A",)),
    "S2_SWIR": ("SWIR", ("B11", "B12")),
}
NDVI, RED, INFRARED = "NDVI", "B4", ("B8", "B8A")  # NDVI is a group too, of red and the first available of these
CODED = ("S1", *GROUPS, NDVI)  # order of the learned group embeddings
STATISTICS = "13"  # key of the statistics of two bands of Sentinel-1, ten of Sentinel-2, and NDVI
RADAR_BANDS = 2
BANDS = tuple(band for _, bands in GROUPS.values() for band in bands)
SHAPE = ("embedding_size", "depth", "num_heads", "mlp_ratio", "max_patch_size")  # keys of the configuration
POOLINGS = ("mean", "mean-std")
PATCH, MONTH = 4, 6  # defaults: pixels per side, and June
REFERENCE_GSD_M = 10.0  # positions are in pixels of Sentinel-2
HIGHEST, LOWEST = 2.0, -0.2  # a band whose mean lies outside cannot be reflectance: `scale` is missing
DARKEST = 1e-6  # smallest denominator (red + infrared) of NDVI


@dataclass(frozen=True)
class Fitted:
    """The part of a data set that Galileo takes: bands, their Sentinel-2 names (`known_as`), and complete groups."""

    record: SensorRecord
    known_as: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def infrared(self) -> str:
        """The near-infrared band of NDVI."""
        return next(name for name in INFRARED if name in self.known_as)

    @property
    def note(self) -> str:
        """The complete groups, and those that are masked out, in words."""
        stored = dict(zip(self.known_as, (band.name for band in self.record.bands), strict=True))
        shown = [
            f"{_title(group)} ({', '.join(stored[name] for name in self.members(group))})" for group in self.groups
        ]
        hidden = [_title(group) for group in (*GROUPS, NDVI) if group not in self.groups]
        return f"groups {', '.join(shown)}" + (f"; hidden: {', '.join(hidden)}" if hidden else "")

    def members(self, group: str) -> tuple[str, ...]:
        """Return the Sentinel-2 names of the bands of a group."""
        return (RED, self.infrared) if group == NDVI else GROUPS[group][1]

    def places(self, group: str) -> list[int]:
        """Return the indices of a group's bands in the record."""
        return [self.known_as.index(name) for name in self.members(group)]


def galileo_encoder(
    reference: Reference, layer: Layer, pooling: str, imagery: SensorRecord, device: str | torch.device
) -> "GalileoEncoder":
    """Return the encoder in a folder with Galileo's files, for the data set that `imagery` describes.

    Raises BandMismatchError where no group of bands is complete, ConfigError for values that cannot be reflectance or
    an unknown ground sample distance, and ModelError for files that are absent or do not fit.
    """
    text, folder = reference.text, Path(reference.name)
    fitted = fit(imagery, text)
    shape = _shape(folder, text)
    patch, month = (int(reference.options.get(key, usual)) for key, usual in (("patch", PATCH), ("month", MONTH)))
    if patch > shape["max_patch_size"]:
        raise ConfigError(f"{text}: patch is {patch}; its patches have at most {shape['max_patch_size']} pixels a side")
    network = GalileoNetwork(**shape)
    left = load_state(network, read_renamed(folder), text)
    number = choose_layer(layer, len(network.blocks)) if isinstance(layer, int) else None
    return GalileoEncoder(
        text=text,
        network=network.eval().to(device),
        fitted=fitted,
        values=_values(_read(folder, "normalization.json", text), fitted, text),
        patch=patch,
        month=month,
        layer=number,
        pooling=check_pooling(pooling, POOLINGS),
        adapted=left,
    )


def fit(imagery: SensorRecord, text: str) -> Fitted:
    """Assign the bands of a data set to Galileo's groups. Raises BandMismatchError where no group is complete.

    Bands match by name for Sentinel-2, else by wavelength, and where that finds none by common name. Raises
    ConfigError for values that cannot be reflectance.
    """
    names = _matches(imagery)
    groups = [group for group, (_, bands) in GROUPS.items() if all(band in names for band in bands)]
    if RED in names and any(band in names for band in INFRARED):
        groups.append(NDVI)
    if not groups:
        wanted = "; ".join(f"{title}: {', '.join(bands)}" for title, bands in GROUPS.values())
        raise BandMismatchError(
            f"{text}: needs all bands of a group ({wanted} of Sentinel-2, or alike), and the data set ({imagery.name}: "
            f"{', '.join(band.name for band in imagery.bands)}) has none whole; add bands to it, or take an encoder "
            "with the spectral embedding"
        )
    whole = Fitted(imagery, tuple(names), tuple(groups))
    used = {name for group in groups for name in whole.members(group)}
    fitted = Fitted(
        imagery.select([names[name] for name in BANDS if name in used]),
        tuple(name for name in BANDS if name in used),
        tuple(groups),
    )
    _check_values(fitted.record, text)
    return fitted


@dataclass(frozen=True)
class GalileoEncoder:
    """Galileo for one data set. A patch is the mean over its groups; tiles are pooled over all valid tokens."""

    text: str
    network: "GalileoNetwork"
    fitted: Fitted
    values: Values
    patch: int = PATCH
    month: int = MONTH
    layer: int | None = None
    pooling: str = "mean"
    adapted: tuple[str, ...] = ()

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that `embed` expects: those of the complete groups."""
        return self.fitted.record.bands

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance of the data set, in metres; it scales the positions."""
        return self.fitted.record.gsd_m

    @property
    def depth(self) -> int:
        """The number of blocks to choose a layer from."""
        return len(self.network.blocks)

    @cached_property
    def digest(self) -> str:
        """Hex digest of weights, layer, pooling, patch, month, groups and normalisation."""
        chosen = [self.layer, self.pooling, self.patch, self.month, self.fitted.groups, self.fitted.known_as]
        scaled = [self.values.mean_C, self.values.std_C]
        weights = weights_digest(self.network.state_dict())
        return digest(["galileo", weights, self.network.heads, *chosen, *scaled, self.fitted.record.to_dict()])

    @property
    def notes(self) -> tuple[str, ...]:
        """Groups, normalisation, patches, month, layer and pooling, in words."""
        which = f"layer {self.layer} of {self.depth}" if self.layer else f"last layer of {self.depth}, after its norm"
        return (
            self.fitted.note,
            "reflectance x 10000, mean -+ 2 standard deviations of its training to 0 .. 1; NDVI as it is",
            f"patches of {self.patch} x {self.patch} pixels, positions scaled by a gsd of {self.gsd_m:g} m; tokens "
            "without a valid pixel are left out of the attention",
            f"every tile is treated as from month {self.month}",
            f"{which}, pooled by {self.pooling}",
            *self.adapted,
        )

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises ConfigError where the patch does not divide the tile."""
        if height % self.patch or width % self.patch:
            most = self.network.largest
            fitting = [str(side) for side in range(1, most + 1) if not (height % side or width % side)]
            raise ConfigError(
                f"{self.text}: a patch of {self.patch} pixels does not divide a tile of {height} x {width} pixels; "
                f"write ?patch=N, N one of {', '.join(fitting)}, or cut tiles to a multiple of {self.patch}"
            )
        return height // self.patch, width // self.patch

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings (tile_BD, patches_BND) in float32 of tiles in reflectance.

        Tokens without a valid pixel are left out of attention and pooling.
        """
        tokens = self.tokens(pixels_BCHW, valid_BCHW)
        return tokens.pooled(self.pooling), tokens.patches_BND

    def tokens(
        self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None, gsd_m: float | Tensor | None = None
    ) -> Tokens:
        """Return patches (B, N, D), each the mean over its groups that have a valid pixel, with gradients.

        `gsd_m` is one value or one per tile (B,); None is that of the data set.
        """
        rows_cols = self.patch_grid(*pixels_BCHW.shape[-2:])
        device = self.network.norm.weight.device
        pixels_BCHW = pixels_BCHW.to(device)
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW.to(device)
        by_group, visible_BGN = self._inputs(pixels_BCHW, valid_BCHW)
        gsd_m = self.gsd_m if gsd_m is None else gsd_m
        assert gsd_m is not None, "a data set without it is refused when the encoder is made"
        scale = self.patch * gsd_m / REFERENCE_GSD_M
        x = self.network(by_group, visible_BGN, self._resize_PQ, rows_cols, scale, self.month - 1, self.layer)
        x = x.float()
        weight_BGN = visible_BGN / visible_BGN.sum(1, keepdim=True).clamp(min=1)
        patches_BND = (x * weight_BGN[..., None]).sum(1)
        return Tokens(None, patches_BND, visible_BGN.any(1), parts_BTD=x.flatten(1, 2), seen_BT=visible_BGN.flatten(1))

    def _inputs(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the values of each group (B, C of the group, H, W), and which tokens have a valid pixel (B, G, N)."""
        values_BCHW = self.values.apply(pixels_BCHW, valid_BCHW)
        by_group: dict[str, Tensor] = {}
        seen = []
        for group in self.fitted.groups:
            places = self.fitted.places(group)
            valid = valid_BCHW[:, places]
            if group == NDVI:
                usual_1C11 = torch.tensor(self.values.usual_C, device=pixels_BCHW.device)[None, places, None, None]
                valid = valid.all(1, keepdim=True)
                by_group[group] = ndvi(pixels_BCHW[:, places].float().where(valid, usual_1C11))
            else:
                by_group[group] = values_BCHW[:, places]
            seen.append(max_pool2d(valid.any(1, keepdim=True).float(), self.patch).flatten(1) > 0)
        return by_group, torch.stack(seen, dim=1)

    @cached_property
    def _resize_PQ(self) -> Tensor:
        """The matrix (P, Q) that resizes a stored kernel to this patch size (FlexiViT); cached, a pseudo-inverse."""
        with torch.inference_mode(False):  # the tensor is cached, and autograd does not accept inference tensors
            side = self.network.largest
            basis = torch.eye(side * side, device=self.network.norm.weight.device).reshape(-1, 1, side, side)
            resized: Tensor = resample_patch_embed(basis, [self.patch, self.patch])
            return resized.flatten(1)


class GalileoNetwork(nn.Module):
    """The part of Galileo's encoder for Sentinel-2 and NDVI on one date. Its blocks, and their names, are timm's."""

    pos_embed: Tensor
    month_embed: Tensor

    def __init__(self, embedding_size: int, depth: int, num_heads: int, mlp_ratio: int, max_patch_size: int) -> None:
        super().__init__()
        self.largest, self.heads, self.quarter = max_patch_size, num_heads, embedding_size // 4
        counts = {group: len(bands) for group, (_, bands) in GROUPS.items()} | {NDVI: 1}
        self.embed = nn.ModuleDict(
            {group: nn.Conv2d(count, embedding_size, max_patch_size) for group, count in counts.items()}
        )
        self.s_t_channel_embed = nn.Parameter(torch.zeros(len(CODED), self.quarter))
        self.register_buffer("pos_embed", torch.zeros(1, self.quarter))  # of the first date, the only one used here
        self.register_buffer("month_embed", torch.zeros(12, self.quarter))
        self.blocks = nn.ModuleList(
            Block(embedding_size, num_heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=nn.LayerNorm)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embedding_size)

    def forward(
        self,
        by_group: Mapping[str, Tensor],
        visible_BGN: Tensor,
        resize_PQ: Tensor,
        shape: tuple[int, int],
        scale: float | Tensor,
        month: int,
        layer: int | None = None,
    ) -> Tensor:
        """Return tokens (B, G, N, D) after block `layer`, counted from 1; None is the last block, followed by its norm.

        `by_group` holds the values (B, C, H, W) of each group; `month` counts from 0. Invisible tokens are excluded
        from the attention keys. A tile without a visible token attends to all; pooling leaves its tokens out.
        """
        places = positions(*shape, self.quarter, scale).to(visible_BGN.device)
        starts = [self._start(group, values, resize_PQ, places, month) for group, values in by_group.items()]
        x = torch.cat(starts, dim=1)
        bias = None
        if not bool(visible_BGN.all()):
            keys = visible_BGN.flatten(1)
            keys = keys | ~keys.any(1, keepdim=True)
            bias = torch.zeros_like(keys, dtype=x.dtype).masked_fill(~keys, float("-inf"))[:, None, None, :]
        choose_kernels(self.blocks, x.device, x.shape[1])
        for block in self.blocks[: len(self.blocks) if layer is None else layer]:
            x = block(x, attn_mask=bias)
        x = self.norm(x) if layer is None else x
        return x.reshape(*visible_BGN.shape, -1)

    def _start(self, group: str, values_BCHW: Tensor, resize_PQ: Tensor, places: Tensor, month: int) -> Tensor:
        """Return tokens (B, N, D) of a group before the first block.

        Each quarter of the width gets one embedding: of the group, the date, the month and the position.
        """
        stored: Any = self.embed[group]
        side = round(resize_PQ.shape[1] ** 0.5)
        kernel = (stored.weight.flatten(2) @ resize_PQ).reshape(*stored.weight.shape[:2], side, side)
        tokens_BND = conv2d(values_BCHW, kernel, stored.bias, stride=side).flatten(2).transpose(1, 2)
        same = torch.cat([self.s_t_channel_embed[CODED.index(group)], self.pos_embed[0], self.month_embed[month]])
        started: Tensor = tokens_BND + torch.cat([same.expand(*places.shape[:-1], -1), places], dim=-1)
        return started


def positions(rows: int, cols: int, width: int, scale: float | Tensor) -> Tensor:
    """Return sine-cosine positions (N, width) of the column, then the row, of each patch times `scale`; in row order.

    Scales (B,) that differ by tile give (B, N, width). As in the published code, exponents end at 1/4 and not at 1,
    so that all sines and cosines have short periods.
    """
    exponent = torch.arange(width // 4, dtype=torch.float64) / width
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    exact = scale.cpu().double() if isinstance(scale, Tensor) else torch.tensor(scale, dtype=torch.float64)
    factor = exact[..., None, None] * 10000.0**-exponent
    angles = [axis.reshape(-1, 1).double() * factor for axis in (col, row)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=-1).float()
    return waves if isinstance(scale, Tensor) else waves.reshape(-1, width)


def ndvi(red_infrared_B2HW: Tensor) -> Tensor:
    """Return NDVI (B, 1, H, W), limited to -1 to 1, also where a correction left negative reflectances."""
    red, infrared = red_infrared_B2HW[:, :1], red_infrared_B2HW[:, 1:]
    return ((infrared - red) / (infrared + red).clamp(min=DARKEST)).clamp(-1, 1)


def _matches(imagery: SensorRecord) -> dict[str, str]:
    """Return the name of the matching band of the data set, for each Sentinel-2 band that has one."""
    wanted = [sensor("sentinel-2-l2a").band(name) for name in BANDS]
    places = list(match_bands(wanted, imagery.bands, same_sensor=imagery.name.startswith("sentinel-2")))
    for number, band in enumerate(wanted):
        named = [place for place, one in enumerate(imagery.bands) if one.common_name == band.common_name]
        if places[number] is None and len(named) == 1 and named[0] not in places:
            places[number] = named[0]
    return {name: imagery.bands[place].name for name, place in zip(BANDS, places, strict=True) if place is not None}


def _check_values(record: SensorRecord, text: str) -> None:
    """Raise ConfigError for values that cannot be reflectance, and for an unknown ground sample distance."""
    if record.unit != "reflectance":
        raise ConfigError(
            f"{text}: was trained on reflectance, and {record.name} is in {record.unit}; give the data set as "
            "reflectance (`scale`, `offset` and `unit` in the catalogue), without bands of another unit"
        )
    for band, mean in zip(record.bands, record.mean_C, strict=True):
        if not LOWEST <= mean <= HIGHEST:
            raise ConfigError(
                f"{text}: band {band.name} of {record.name} has a mean of {mean:g}, which is no reflectance (0 to 1); "
                "check `scale` and `offset` in the catalogue"
            )
    if record.gsd_m is None:
        raise ConfigError(f"{text}: scales its positions by the ground sample distance; add gsd_m to the catalogue")


def _values(figures: Mapping[str, Any], fitted: Fitted, text: str) -> Values:
    """Return the values of which mean - 2 std and mean + 2 std, by the training statistics, become 0 and 1.

    Raises ModelError where the statistics are incomplete.
    """
    try:
        mean, std = ([float(one) for one in figures[STATISTICS][key]] for key in ("mean", "std"))
        rows = [RADAR_BANDS + BANDS.index(name) for name in fitted.known_as]
        low = [mean[row] - 2 * std[row] for row in rows]
        width = [4 * std[row] for row in rows]
        usable = len(mean) == len(std) == RADAR_BANDS + len(BANDS) + 1 and min(width) > 0
    except (KeyError, TypeError, ValueError, IndexError):
        usable = False
    if not usable:
        raise ModelError(
            f"{text}: normalization.json has no mean and std of 13 bands under {STATISTICS!r}; fetch it again"
        )
    return values(stored_range(fitted.record, text), [(low, width)], fitted.record)


def _shape(folder: Path, text: str) -> dict[str, int]:
    """Return width, depth and the other keys of SHAPE. Raises ModelError where they are missing or impossible."""
    try:
        said = _read(folder, "config.json", text)["model"]["encoder"]
        shape = {key: int(said[key]) for key in SHAPE}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{text}: config.json lacks {', '.join(SHAPE)} of model.encoder; fetch it again") from error
    width, heads = shape["embedding_size"], shape["num_heads"]
    if min(shape.values()) < 1 or width % 16 or width % heads:  # a quarter holds sines and cosines of two axes
        raise ModelError(f"{text}: config.json: a width of {width} with {heads} heads is impossible; fetch it again")
    return shape


def _read(folder: Path, name: str, text: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise ModelError(f"{text}: {name} is absent; a folder of Galileo has {', '.join(FILES)}")
    read = read_json(folder / name)
    if not isinstance(read, dict):
        raise ModelError(f"{text}: {name} holds no mapping; fetch it again")
    return read


def _title(group: str) -> str:
    return NDVI if group == NDVI else GROUPS[group][0]
