"""timm's models as encoders: from a local checkpoint, downloaded, or untrained.

B tiles, C bands, H W pixels, T tokens, D width
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geomae.encoders.foreign_models import (
    Backbone,
    ForeignEncoder,
    Values,
    load_state,
    picture_range,
    stretched_range,
    values,
)
from geomae.encoders.interface import Layer, check_pooling, choose_layer
from geomae.encoders.specification import Reference
from geomae.errors import BandMismatchError, ConfigError, ModelError, nearest
from geomae.models.convert.mae import convert_mae
from geomae.models.convert.state_dicts import first_line, prefix_notes, read_weights, without_prefix
from geomae.models.folder import Model
from geomae.sensors.record import SensorRecord

PICTURE_BANDS = ("red", "green", "blue")
POOLINGS_WITHOUT_CLASS = ("mean", "mean-std")


def timm_encoder(
    reference: Reference, layer: Layer, pooling: str, imagery: SensorRecord, device: str | torch.device
) -> ForeignEncoder:
    """Return a timm model as encoder for the data set that `imagery` describes.

    Raises ConfigError for an unknown name, ModelError for weights that cannot be loaded or do not fit, and
    BandMismatchError where the data set has no red, green and blue.
    """
    text = reference.text
    settings = _settings(reference)
    every = reference.options.get("bands") == "all"
    record = (
        imagery if every else picture_bands(imagery, text, "write &bands=all to adapt its first layer to all bands")
    )
    module, adapted = _model(reference, settings, len(record.bands))
    count, trained = len(record.bands), settings["input_size"][0]
    if every:
        adapted = (
            f"its first layer, made for {trained} bands, was adapted to {count}: band c has kernel c mod {trained}",
            *adapted,
        )
    mean, std = ([settings[key][c % trained] for c in range(count)] for key in ("mean", "std"))
    shown = stretched_range(record) if every else picture_range(record)
    backbone = timm_backbone(module.eval().to(device), settings["input_size"][-1], count)
    return finish(text, backbone, record, values(shown, [(mean, std)], record), layer, pooling, adapted)


def timm_model(reference: Reference, imagery: SensorRecord, side: int) -> Model:
    """Return an own model with the weights of a plain vision transformer of timm, for further training.

    It takes red, green and blue of `imagery`, normalised as the transformer's pictures were. Tiles keep their `side`
    pixels, where `timm_encoder` resizes them: timm interpolates the positions instead. Raises the errors of
    `timm_encoder`, and ModelError for other architectures.
    """
    import timm

    text = reference.text
    if "bands" in reference.options:
        raise ConfigError(f"{text}: fine-tuning takes red, green and blue only; leave &bands=all out")
    settings, record = _settings(reference), picture_bands(imagery, text, "choose imagery that has them")
    with torch.device("meta"):
        plain = isinstance(timm.create_model(reference.name), timm.models.VisionTransformer)
    if not plain:
        raise ModelError(f"{text}: is no plain vision transformer, which alone can be fine-tuned; name a vit_ model")
    module, notes = _model(reference, settings, len(record.bands), img_size=side)
    shown = values(picture_range(record), [(settings["mean"], settings["std"])], record)
    return learning_model(module, record, shown, text, notes)


def learning_model(module: Any, record: SensorRecord, shown: Values, text: str, notes: Sequence[str]) -> Model:
    """Return an own model with the weights of a plain vision transformer.

    `shown` is the normalisation by which the transformer took the bands of `record`; the model applies it without
    the clipping. Raises ModelError where the transformer has parts that the own architecture lacks.
    """
    block = module.blocks[0]
    facts = {"heads": block.attn.num_heads, "norm_eps": block.norm1.eps, "target": "none"}
    try:
        model, _ = convert_mae(dict(module.state_dict()), **facts, bands=record.bands)
    except ModelError as error:
        raise ModelError(f"{text}: {error}") from error
    places = list(zip(shown.mean_C, shown.range.shift_C, shown.range.factor_C, strict=True))
    own = replace(
        record,
        mean_C=tuple((mean - shift) / factor for mean, shift, factor in places),
        std_C=tuple(std / factor for std, factor in zip(shown.std_C, shown.range.factor_C, strict=True)),
    )
    return replace(model, sensors=(own,), provenance=model.provenance | {"source": text, "weights": list(notes)})


def finish(
    text: str, backbone: Backbone, record: SensorRecord, chosen: Any, layer: Layer, pooling: str, adapted: Sequence[str]
) -> ForeignEncoder:
    """Return the encoder with its layer and pooling. Raises ConfigError for one that the model lacks.

    The layer "middle", the default of the commands, applies to own models only: here it means the last layer.
    """
    available = ("mean", "cls", "mean-std") if backbone.prefix else POOLINGS_WITHOUT_CLASS
    number = choose_layer(layer, len(backbone.blocks)) if backbone.blocks and isinstance(layer, int) else None
    return ForeignEncoder(text, backbone, record, chosen, number, check_pooling(pooling, available), tuple(adapted))


def picture_bands(imagery: SensorRecord, text: str, remedy: str) -> SensorRecord:
    """Return the record of the bands red, green and blue, by common name or name.

    Raises BandMismatchError, with `remedy`, where one is missing.
    """
    chosen: list[str] = []
    missing: list[str] = []
    for name in PICTURE_BANDS:
        band = next((one.name for one in imagery.bands if name in (one.common_name, one.name.lower())), None)
        (missing if band is None else chosen).append(band or name)
    if missing:
        raise BandMismatchError(
            f"{text}: needs {', '.join(missing)}, which the data set ({imagery.name}: "
            f"{', '.join(band.name for band in imagery.bands)}) has not; {remedy}, or take an encoder with the "
            "spectral embedding"
        )
    return imagery.select(chosen)


def timm_backbone(module: nn.Module, size: int, bands: int) -> Backbone:
    """Describe how to read the tokens of a timm model, which is run once on zeros.

    Raises ConfigError for a model that returns neither tokens nor a feature map.
    """

    def run(values_BCHW: Tensor, gsd_m: float | None) -> Any:
        return module.forward_features(values_BCHW)  # type: ignore[operator]

    with torch.no_grad():
        device = next(module.parameters()).device
        features = run(torch.zeros(1, bands, size, size, device=device), None)
    if isinstance(features, Tensor) and features.ndim == 4:
        return Backbone(module, run, size, channels_last=getattr(module, "output_fmt", "NCHW") == "NHWC")
    if not isinstance(features, Tensor) or features.ndim != 3:
        raise ConfigError(f"{type(module).__name__}: gives neither tokens nor a map of features; take another model")
    norm, fc_norm = (getattr(module, name, None) for name in ("norm", "fc_norm"))
    pooled = isinstance(norm, nn.Identity) and fc_norm is not None and not isinstance(fc_norm, nn.Identity)
    blocks = list(getattr(module, "blocks", ()))
    prefix = int(getattr(module, "num_prefix_tokens", 0))
    return Backbone(module, run, size, blocks, fc_norm if pooled else norm, prefix, pooled_norm=pooled)


def _settings(reference: Reference) -> dict[str, Any]:
    """Return timm's settings of a model (input size, mean, std, ...). Raises ConfigError for an unknown name."""
    import timm

    name = reference.name
    names = timm.list_models()
    if name.partition(".")[0] not in names:
        raise ConfigError(f"{reference.text}: timm has no model {name!r}; {nearest(name.partition('.')[0], names)}")
    try:
        settings = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = [one for one in timm.list_pretrained() if one.partition(".")[0] == name.partition(".")[0]]
        raise ConfigError(f"{reference.text}: timm has no weights {name!r}; {nearest(name, known)}") from error
    return {} if settings is None else asdict(settings)


def _model(
    reference: Reference, settings: dict[str, Any], bands: int, **more: Any
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model with its weights and without its head, and notes on the weights."""
    import timm

    options = reference.options
    make: dict[str, Any] = {"num_classes": 0, "in_chans": bands, **more}
    if "checkpoint" in options:
        module = timm.create_model(reference.name, pretrained=False, **make)
        weights = read_weights(Path(options["checkpoint"]))
        notes = _load(module, weights, settings, bands, reference.text)
        return module, (f"weights of {Path(options['checkpoint']).name}", *notes)
    if options.get("pretrained") == "false":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return timm.create_model(reference.name, pretrained=False, **make), (
                "untrained: weights drawn from seed 0",
            )
    where = settings.get("hf_hub_id") or settings.get("url")
    if not where:
        raise ModelError(
            f"{reference.text}: timm has no weights for it; write &checkpoint=FILE or ?pretrained=false, or name "
            f"weights: {nearest(reference.name, timm.list_pretrained())}"
        )
    try:
        with _quiet("timm.models._builder", "huggingface_hub"):  # warnings of the unused head and of each attempt
            return timm.create_model(reference.name, pretrained=True, **make), (f"weights of {where}",)
    except Exception as error:  # the hub, its HTTP client and the file reader have no common base class of errors
        raise ModelError(
            f"{reference.text}: its weights ({where}) cannot be fetched ({first_line(error)}); fetch them elsewhere "
            f"and write timm:{reference.name}?checkpoint=FILE"
        ) from error


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence warnings of these loggers: our own message says what the user needs."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _load(
    module: nn.Module, weights: dict[str, Tensor], settings: dict[str, Any], bands: int, text: str
) -> tuple[str, ...]:
    """Load weights from a file, in timm's layout or in one that timm can convert, and return notes on them."""
    from timm.models import adapt_input_conv

    given = weights
    weights, prefix = without_prefix(given, next(iter(module.state_dict())))
    rename = getattr(import_module(type(module).__module__), "checkpoint_filter_fn", None)
    if rename is not None:
        try:
            weights = rename(weights, module)
        except Exception as error:  # timm's filter raises various errors for the weights of another model
            raise ModelError(f"{text}: the weights are another model's ({first_line(error)})") from error
    first = f"{settings['first_conv']}.weight"
    if first in weights and weights[first].shape[1] != bands == module.state_dict()[first].shape[1]:
        weights[first] = adapt_input_conv(bands, weights[first])
    return (*prefix_notes(given, prefix), *load_state(module, weights, text))
