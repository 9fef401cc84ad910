"""From what a user writes to an encoder that is ready for one data set."""

from collections.abc import Sequence
from pathlib import Path

import torch

from geomae.encoders.baselines import TINY_PATCH, PixelsEncoder, RandomFeaturesEncoder, StatisticsEncoder, untrained
from geomae.encoders.interface import Encoder, Layer, check_pooling, choose_layer
from geomae.encoders.own import OwnEncoder, fit_model
from geomae.encoders.reference import BASELINE, FOLDER, MLFLOW, TIMM, EncoderReference, parse_encoder
from geomae.encoders.timm_models import timm_encoder
from geomae.encoders.torchgeo_models import torchgeo_encoder
from geomae.errors import ConfigError
from geomae.models.folder import Model, load_model
from geomae.sensors.record import SensorRecord


def load_encoder(
    encoder: str | Path | EncoderReference,
    layer: Layer = None,
    pooling: str | None = None,
    *,
    imagery: SensorRecord | None = None,
    device: str | torch.device = "cpu",
    tracking_uri: str | None = None,
    tile: int | None = None,
    like: Model | None = None,
) -> Encoder:
    """The encoder that an ENCODER text names, ready for the data set that `imagery` describes.

    `layer` counts the blocks from 1; None is the last after its norm, and "middle" the commands' default. `pooling` is
    `mean` (default), `cls` or `mean-std` (twice as long). Where an encoder has no layers or does not pool, they have no
    influence, and its notes say so. Without `imagery`, a model takes the first sensor that it knows. `tile` is the size
    of the tiles, checked here. `like` is the model whose shape `baseline:random` and whose patches the other baselines
    take. Raises ConfigError, ModelError or BandMismatchError for what cannot be.
    """
    reference = encoder if isinstance(encoder, EncoderReference) else parse_encoder(str(encoder))
    pooling = check_pooling(pooling)
    if reference.kind in (FOLDER, MLFLOW):
        model = load_model(_folder(reference, tracking_uri), device)
        found: Encoder = _ours(model, reference, layer, pooling, imagery)
    elif imagery is None:
        raise ConfigError(f"{reference.text}: has to know the bands; say imagery=, the record of the data set")
    elif reference.kind == BASELINE:
        found = _baseline(reference, layer, pooling, imagery, device, like)
    elif reference.kind == TIMM:
        found = timm_encoder(reference, layer, pooling, imagery, device)
    else:
        found = torchgeo_encoder(reference, layer, pooling, imagery, device)
    if tile is not None:
        found.patch_grid(tile, tile)
    return found


def load_encoders(
    references: Sequence[EncoderReference],
    layer: Layer = None,
    pooling: str | None = None,
    *,
    imagery: SensorRecord,
    device: str | torch.device = "cpu",
    tracking_uri: str | None = None,
    tile: int | None = None,
) -> list[Encoder]:
    """Several encoders for one data set, in order; baselines take after the first model among them."""
    found: dict[int, Encoder] = {}
    like: Model | None = None
    for place in sorted(range(len(references)), key=lambda one: references[one].kind == BASELINE):
        one = load_encoder(
            references[place], layer, pooling,
            imagery=imagery, device=device, tracking_uri=tracking_uri, tile=tile, like=like,
        )  # fmt: skip
        like = one.model if like is None and isinstance(one, OwnEncoder) else like
        found[place] = one
    return [found[place] for place in range(len(references))]


def _folder(reference: EncoderReference, tracking_uri: str | None) -> Path:
    if reference.kind == FOLDER:
        return Path(reference.name)
    from geomae.tracking.runs import download, resolve_uri

    return download(reference.name, resolve_uri(tracking_uri))


def _ours(
    model: Model, reference: EncoderReference, layer: Layer, pooling: str, imagery: SensorRecord | None
) -> OwnEncoder:
    adapted: tuple[str, ...] = ()
    if imagery is not None:
        model, adapted = fit_model(model, imagery, reference.text)
    shape = model.mae.architecture
    shape.position_scale(model.record.gsd_m)  # raises where the gsd is needed and unknown
    return OwnEncoder(model, choose_layer(layer, shape.depth), pooling, reference.text, adapted)


def _baseline(
    reference: EncoderReference,
    layer: Layer,
    pooling: str,
    imagery: SensorRecord,
    device: str | torch.device,
    like: Model | None,
) -> Encoder:
    patch = TINY_PATCH if like is None else like.mae.architecture.patch
    if reference.name == "random":
        model = untrained(int(reference.options.get("seed", 0)), like, imagery)
        model.mae.to(device)
        return _ours(model, reference, layer, pooling, imagery)
    if reference.name == "statistics":
        return StatisticsEncoder(reference.text, imagery, patch)
    if reference.name == "pixels":
        return PixelsEncoder(reference.text, imagery, patch)
    return RandomFeaturesEncoder(reference.text, imagery, patch, torch.device(device))
