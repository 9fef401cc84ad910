"""geomae's own models as encoders, for the bands, unit and statistics of one data set.

B tiles, C bands, H W pixels, N patches, F features of a band's code, D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from geomae.encoders.interface import Layer, Tokens, choose_layer, weights_digest
from geomae.encoders.specification import Reference
from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.files import digest
from geomae.models.band_embedding import band_codes
from geomae.models.convert.mae import PICTURES
from geomae.models.encoder import mean_over_groups
from geomae.models.folder import Model, standardise
from geomae.models.patches import grid, patchify
from geomae.sensors import Band, match_bands
from geomae.sensors.record import SensorRecord, record_of, same_sensor

ANY_BANDS = "an encoder with the spectral embedding takes any bands"


def own_encoder(
    reference: Reference, layer: Layer, pooling: str, imagery: SensorRecord | None, model: Model
) -> "OwnEncoder":
    """Return an own model as encoder for the data set that `imagery` describes, else for the model's first sensor.

    Raises BandMismatchError where bands are missing, ConfigError for a layer that does not exist, and ModelError
    where the model needs the ground sample distance and it is unknown.
    """
    adapted: tuple[str, ...] = ()
    if imagery is not None:
        model, adapted = fit_model(model, imagery, reference.text)
    shape = model.mae.architecture
    shape.position_scale(model.record.gsd_m)  # raises where the gsd is needed and unknown
    return OwnEncoder(model, choose_layer(layer, shape.depth), pooling, reference.text, adapted)


def fit_model(model: Model, imagery: SensorRecord, text: str) -> tuple[Model, tuple[str, ...]]:
    """Return the model set to the data set that `imagery` describes, and notes on what was adapted.

    A sensor that the model was trained on is standardised by the model's own statistics, any other by those of the
    imagery. Raises BandMismatchError where a stacked or grouped embedding lacks a band, or no band is known.
    """
    known = record_of(model.sensors, imagery.name, imagery.unit, imagery.bands)
    if not model.mae.architecture.any_bands:
        return _fixed(model, known, imagery, text)
    if known is None:
        return model.using(imagery), (_aligned(imagery), *_missing(model.record, imagery))
    stored = {band.name for band in known.bands}
    names = [band.name for band in imagery.bands if band.name in stored]
    if not names:
        raise BandMismatchError(
            f"{text}: knows {', '.join(sorted(stored))} of {known.name}, and the data set has none of these; train on "
            "its bands"
        )
    left = [band.name for band in imagery.bands if band.name not in stored]
    unseen = (f"bands that the model has no statistics for are left out: {', '.join(left)}",) if left else ()
    return model.using(replace(known.select(names), gsd_m=imagery.gsd_m)), (*unseen, *_missing(known, imagery))


def _fixed(model: Model, known: SensorRecord | None, imagery: SensorRecord, text: str) -> tuple[Model, tuple[str, ...]]:
    """`fit_model` for a stacked or grouped embedding, which needs all its bands in a fixed order."""
    if known is not None:
        names = {band.name for band in imagery.bands}
        missing = [band.name for band in known.bands if band.name not in names]
        if missing:
            raise _mismatch(missing, model, imagery, text)
        return model.using(replace(known, gsd_m=imagery.gsd_m)), ()
    tries = [(record, _places(record, imagery)) for record in model.sensors]
    for record, places in tries:
        chosen = [imagery.bands[place].name for place in places if place is not None]
        if len(set(chosen)) == len(record.bands):
            met = ", ".join(f"{a.name} by {b}" for a, b in zip(record.bands, chosen, strict=True))
            return model.using(imagery.select(chosen)), (f"bands of {record.name}: {met}", _aligned(imagery))
    record, places = tries[0]
    missing = [band.name for band, place in zip(record.bands, places, strict=True) if place is None]
    raise _mismatch(missing or [band.name for band in record.bands], model, imagery, text)


def _places(record: SensorRecord, imagery: SensorRecord) -> tuple[int | None, ...]:
    """Return, for each band of the model, the index of the matching band of the imagery, or None.

    Bands of a model of pictures match by common name, others by `match_bands`.
    """
    if record.name != PICTURES:
        return match_bands(record.bands, imagery.bands, same_sensor(record, imagery))
    names = [band.common_name for band in imagery.bands]
    return tuple(names.index(band.common_name) if band.common_name in names else None for band in record.bands)


def _missing(record: SensorRecord, imagery: SensorRecord) -> tuple[str, ...]:
    """Return a note on the bands of the model that the imagery lacks, if any."""
    places = _places(record, imagery)
    missing = [band.name for band, place in zip(record.bands, places, strict=True) if place is None]
    return (f"bands of the model that the data set lacks: {', '.join(missing)}",) if missing else ()


def _mismatch(missing: Sequence[str], model: Model, imagery: SensorRecord, text: str) -> BandMismatchError:
    return BandMismatchError(
        f"{text}: its {model.mae.architecture.embedding} embedding needs {', '.join(missing)}, which the data set "
        f"({imagery.name}: {', '.join(band.name for band in imagery.bands)}) has not; {ANY_BANDS}"
    )


def _aligned(imagery: SensorRecord) -> str:
    return (
        f"the model was not trained on {imagery.name} in {imagery.unit}: standardised by its own train split, which is "
        "an alignment in itself"
    )


@dataclass(frozen=True)
class OwnEncoder:
    """An own model with a layer (1 is after the first block; None is the last, after its norm) and a pooling."""

    model: Model
    layer: int | None = None
    pooling: str = "mean"
    text: str = "model"
    adapted: tuple[str, ...] = ()

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that `embed` expects, in this order."""
        return self.model.record.bands

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance of the pixels, in metres, as the encoder assumes it."""
        return self.model.record.gsd_m

    @property
    def depth(self) -> int:
        """The number of blocks to choose a layer from."""
        return self.model.mae.architecture.depth

    @cached_property
    def digest(self) -> str:
        """Hex digest of weights, architecture, layer, pooling, bands and statistics."""
        shape = self.model.mae.architecture.model_dump(mode="json", exclude={"decoder", "target"})
        weights = weights_digest(self.model.mae.encoder.state_dict())
        return digest(["own", weights, shape, self.layer, self.pooling, self.model.record.to_dict()])

    @property
    def notes(self) -> tuple[str, ...]:
        """Standardisation, layer, pooling and what was adapted, in words."""
        record = self.model.record
        which = f"layer {self.layer} of {self.depth}" if self.layer else f"last layer of {self.depth}, after its norm"
        return (
            f"bands {', '.join(band.name for band in record.bands)}, standardised by the statistics of {record.name}",
            f"{which}, pooled by {self.pooling}",
            *self.adapted,
        )

    def for_sensor(self, name: str, bands: tuple[str, ...] | None = None) -> "OwnEncoder":
        """Return this encoder for another sensor that the model knows, or for a subset of its bands."""
        return replace(self, model=self.model.for_sensor(name, bands))

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches.

        Raises ConfigError where the patch size does not divide the tile, or stored positions are of another size.
        """
        shape = self.model.mae.architecture
        try:
            rows_cols = grid(torch.empty(1, 1, height, width, device="meta"), shape.patch)
        except ModelError as error:
            raise ConfigError(f"{self.text}: {error}") from error
        if shape.positions == "table" and rows_cols != shape.grid:
            sides = " x ".join(str(side * shape.patch) for side in shape.grid or ())
            raise ConfigError(
                f"{self.text}: takes tiles of {sides} pixels only, not of {height} x {width}; cut tiles to them"
            )
        return rows_cols

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings (tile_BD, patches_BND) in float32 of tiles in physical units.

        Patches without a valid pixel are excluded from the attention keys and from the tile embedding.
        """
        tokens = self.tokens(pixels_BCHW, valid_BCHW)
        return tokens.pooled(self.pooling), tokens.patches_BND

    def tokens(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tokens:
        """Return the class token (B, D) and patches (B, N, D) of tiles in physical units, with gradients.

        A convolutional model returns the mean of its patches in place of the class token.
        """
        mae = self.model.mae
        codes_CF = self._codes_CF
        pixels_BCHW = pixels_BCHW.to(codes_CF.device)
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW.to(codes_CF.device)
        side = mae.architecture.patch
        patches_BNCP = patchify(standardise(pixels_BCHW, valid_BCHW, self.model.record), side)
        valid_BNCP = patchify(valid_BCHW, side)
        shape, scale = grid(pixels_BCHW, side), mae.architecture.position_scale(self.gsd_m)
        tokens = mae.encoder.whole(patches_BNCP, valid_BNCP, codes_CF, shape, scale, self.layer).float()
        cls_BD, groups = tokens[:, 0], mae.architecture.tokens
        patches_BND = mean_over_groups(tokens[:, 1:], mae.encoder.usable(valid_BNCP), groups)
        return Tokens(cls_BD, patches_BND, valid_BNCP.flatten(2).any(-1))

    @cached_property
    def _codes_CF(self) -> Tensor:
        """Spectral codes of the bands, on the device of the model."""
        with torch.inference_mode(False):  # the tensor is cached, and autograd does not accept inference tensors
            return band_codes(self.bands).to(next(self.model.mae.parameters()).device)
