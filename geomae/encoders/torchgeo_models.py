"""torchgeo's models as encoders: published weights by name, with their bands and normalisation, or the user's files.

B tiles, C bands, H W pixels, N patches, T tokens, D width
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from geomae.encoders.foreign_models import (
    STORED,
    Backbone,
    ForeignEncoder,
    Range,
    Values,
    decibel_range,
    linear_range,
    load_state,
    picture_range,
    standardised,
    stored_range,
    stretched_range,
    values,
)
from geomae.encoders.interface import Layer
from geomae.encoders.specification import Reference
from geomae.encoders.timm_models import finish, learning_model, picture_bands, timm_backbone
from geomae.errors import BandMismatchError, ConfigError, ModelError, nearest
from geomae.models.convert.state_dicts import first_line, read_weights
from geomae.models.folder import Model
from geomae.sensors import Band, match_bands, sensor
from geomae.sensors.record import SensorRecord

TRAINED_ON = {  # prefix of names of weights -> our table of the sensor, and the prefix of its products' names
    "SENTINEL2": ("sentinel-2-l1c", "sentinel-2"),
    "SENTINEL1": ("sentinel-1-grd", "sentinel-1"),
    "LANDSAT_TM": ("landsat-5-tm", "landsat-5"),
    "LANDSAT_ETM": ("landsat-7-etm", "landsat-7"),
    "LANDSAT": ("landsat-8-oli", "landsat-8"),
    "NAIP": ("naip", "naip"),
}
CROMA_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
INITIALS = {"R": "red", "G": "green", "B": "blue"}
ANY_BANDS = "torchgeo:DOFABase16_Weights.DOFA_MAE or an encoder with the spectral embedding takes any optical bands"
TCI_WHITE = (
    0.3558  # reflectance that the true colour picture of Sentinel-2 L1C shows as 255 (ESA, product specification)
)
SATLAS_TOP = 8160.0  # Satlas divides the other bands by this (allenai/satlas, Normalization.md)
LANDSAT_STEP, LANDSAT_ZERO = 2e-5, -0.1  # reflectance of Landsat 8 Level 1: digital number x 2e-5 - 0.1 (USGS)
SATLAS_LANDSAT = (4000.0, 20320.0)  # digital numbers that Satlas maps to 0 and 1
NO_EMBEDDING = {  # prefix of names of models -> why they cannot be encoders here
    "aurora": "it forecasts the weather and embeds no tiles",
    "unet": "it segments and gives no embedding of its own",
    "earthloc": "it recognises places and gives one descriptor, no patches",
    "swin_t": "its weights were trained on streets",
    "swin_s": "its weights were trained on streets",
    "swin_b": "its weights were trained on streets",
}
PLAIN = "vit_"  # prefix of names of plain vision transformers
FAMILIES = (PLAIN, "resnet", "swin_v2", "scalemae", "dofa", "croma", "panopticon", "copernicusfm")
MAY_LACK = ("head.", "fc.", "fc_norm.", "norm.")  # torchgeo's own loaders leave these as initialised
SIZES = {"croma": 120, "swin_v2": 256}  # input size in pixels, where it is not 224


def torchgeo_encoder(
    reference: Reference, layer: Layer, pooling: str, imagery: SensorRecord, device: str | torch.device
) -> ForeignEncoder:
    """Return a torchgeo model as encoder for the data set that `imagery` describes.

    Raises ConfigError for an unknown name or a model without an embedding, ModelError for weights that cannot be
    loaded or do not fit, and BandMismatchError where bands are missing.
    """
    text = reference.text
    name, member = _named(reference)
    record, values = fitted(member, name, imagery, text)
    if name.startswith("scalemae") and record.gsd_m is None:
        raise ConfigError(f"{text}: scales its positions by the ground sample distance; add gsd_m to the catalogue")
    size = input_size(member, next((size for begin, size in SIZES.items() if name.startswith(begin)), 224))
    module = _module(name, len(record.bands), size)
    adapted = _read(reference, name, member, module)
    backbone = _backbone(name, module.eval().to(device), size, record)
    return finish(text, backbone, record, values, layer, pooling, adapted)


def torchgeo_model(reference: Reference, imagery: SensorRecord, side: int) -> Model:
    """Return an own model with the weights of a vision transformer of torchgeo, for further training.

    It takes the bands that the transformer was trained on, normalised in the same way. Tiles keep their `side` pixels,
    where `torchgeo_encoder` resizes them: timm interpolates the positions instead. Raises the errors of
    `torchgeo_encoder`, and ModelError for other architectures.
    """
    text = reference.text
    name, member = _named(reference)
    if not name.startswith(PLAIN):
        raise ModelError(
            f"{text}: {name} is no plain vision transformer, which alone can be fine-tuned; name a vit_ model"
        )
    record, shown = fitted(member, name, imagery, text)
    module: Any = _module(name, len(record.bands), input_size(member, 224))
    notes = _read(reference, name, member, module)
    module.set_input_size(img_size=side)
    return learning_model(module, record, shown, text, notes)


def fitted(member: Any | None, model: str, imagery: SensorRecord, text: str) -> tuple[SensorRecord, Values]:
    """Return the record of the bands that a model takes, in its order, and their normalisation.

    `member` is the entry of torchgeo's enum of weights. It is None for weights in a user's file: such a model takes
    all bands, standardised, unless its architecture fixes the bands. Raises BandMismatchError where bands are missing
    and ConfigError for a unit that the weights cannot take.
    """
    if model.startswith(("dofa", "panopticon", "copernicusfm")):
        record = _optical(imagery, text)
        return record, standardised(record)
    if model.startswith("croma"):
        record = _matched("SENTINEL2", CROMA_BANDS, imagery, text)
        return record, values(stretched_range(record), (), record)
    steps = _steps(member)
    if model.startswith("scalemae") or (member is not None and "bands" not in member.meta):
        record = picture_bands(imagery, text, ANY_BANDS)
        steps = steps or [((0.0,), (255.0,)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        return record, values(picture_range(record, 255.0), steps, record)
    if member is None:
        return imagery, standardised(imagery)
    record = _matched(member.name, member.meta["bands"], imagery, text)
    return record, values(_range(member.name, record, steps, text), steps, record)


def fetch(member: Any, text: str) -> Path:
    """Return the file of published weights, downloaded once into torch's cache. Raises ModelError on failure."""
    name = Path(urlsplit(member.url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    remedy = f"fetch {member.url} elsewhere and write {text}?checkpoint=FILE"
    if path.is_file():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ModelError(
            f"{text}: its weights are not on this machine, and HF_HUB_OFFLINE forbids fetching them; {remedy}"
        )
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(member.url, str(path), digest and digest[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{text}: its weights cannot be fetched ({first_line(error)}); {remedy}") from error
    return path


def input_size(member: Any | None, default: int) -> int:
    """Return the input size in pixels, from the last resize or crop of the weights' transforms, else `default`."""
    sizes = [getattr(step, "size", None) for step in _transforms(member)]
    sides = [size[0] if isinstance(size, Sequence) else size for size in sizes if size is not None]
    return int(sides[-1]) if sides else default


def _range(name: str, record: SensorRecord, steps: Sequence[Any], text: str) -> Range:
    """Return the range from physical units to the values that the weights' transforms expect."""
    if name.startswith("SENTINEL1") and "SATLAS" not in name:
        return decibel_range(record, text)
    if "SATLAS" in name and record.unit == "reflectance" and name.startswith(("SENTINEL2", "LANDSAT")):
        return _satlas_range(name, record)
    if name.endswith("_SECO"):
        raise ConfigError(
            f"{text}: how its 8-bit values were made of reflectance was not published; take other weights"
        )
    if name.startswith("SENTINEL2") and "SATLAS" not in name:
        return stored_range(record, text)
    return picture_range(record, 255.0)


def _satlas_range(name: str, record: SensorRecord) -> Range:
    if name.startswith("LANDSAT"):
        low, high = SATLAS_LANDSAT
        shift = -LANDSAT_ZERO / LANDSAT_STEP
        factors = [1 / LANDSAT_STEP] * len(record.bands)
        note = f"reflectance as numbers of Landsat Level 1, {low:g} to {high:g}"
        return linear_range(record, factors, shift, low, [high] * len(factors), note)
    shown = [band.common_name in INITIALS.values() for band in record.bands]
    factors = [255.0 / TCI_WHITE if one else STORED for one in shown]
    note = (
        f"red, green, blue as the true colour picture (reflectance 0 to {TCI_WHITE} is 0 to 255), others x {STORED:g}"
    )
    return linear_range(record, factors, 0.0, 0.0, [255.0 if one else SATLAS_TOP for one in shown], note)


def _steps(member: Any | None) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Return mean and standard deviation of each normalisation among the weights' transforms."""
    normalising = [step for step in _transforms(member) if hasattr(step, "mean") and hasattr(step, "std")]
    return [([float(x) for x in step.mean], [float(x) for x in step.std]) for step in normalising]


def _transforms(member: Any | None) -> list[Any]:
    transforms = None if member is None else member.transforms
    return list(transforms) if isinstance(transforms, torch.nn.Sequential) else [transforms]


def _matched(name: str, wanted: Sequence[str], imagery: SensorRecord, text: str) -> SensorRecord:
    """Return the record of the bands that the weights were trained on: by name for that sensor, else by wavelength."""
    table, family = next(entry for begin, entry in TRAINED_ON.items() if name.startswith(begin))
    published = [_band(INITIALS.get(one, one), table) for one in wanted]
    known = [band for band in published if band is not None]
    places = iter(match_bands(known, imagery.bands, same_sensor=imagery.name.startswith(family)))
    met = [None if band is None else next(places) for band in published]
    missing = [one for one, place in zip(wanted, met, strict=True) if place is None]
    if missing:
        raise BandMismatchError(
            f"{text}: needs {', '.join(missing)} of {family}, which the data set ({imagery.name}: "
            f"{', '.join(band.name for band in imagery.bands)}) has not; {ANY_BANDS}"
        )
    return imagery.select([imagery.bands[place].name for place in met if place is not None])


def _band(name: str, table: str) -> Band | None:
    offered = sensor(table).bands
    place = match_bands([Band(name, None, 1.0, 1.0, None)], offered, same_sensor=True)[0]
    return None if place is None else offered[place]


def _optical(imagery: SensorRecord, text: str) -> SensorRecord:
    names = [band.name for band in imagery.bands if band.polarisation is None]
    if not names:
        raise BandMismatchError(
            f"{text}: takes optical bands, and the data set ({imagery.name}) has none; take another"
        )
    return imagery.select(names)


def _named(reference: Reference) -> tuple[str, Any | None]:
    """Return the name of the model, and the entry of its enum of weights or None. Raises ConfigError if unknown."""
    import torchgeo.models as library

    models = library.list_models()
    known = {str(member): (name, member) for name in models for member in _members(library, name)}
    if reference.name not in known and reference.name not in models:
        close = nearest(reference.name, [*known, *models])
        raise ConfigError(f"{reference.text}: torchgeo has neither weights nor a model of that name; {close}")
    name, member = known.get(reference.name, (reference.name, None))
    if not name.startswith(FAMILIES):
        why = next((why for begin, why in NO_EMBEDDING.items() if name.startswith(begin)), "its form is not known here")
        raise ConfigError(f"{reference.text}: {name} cannot be an encoder: {why}; take a vit, resnet, dofa or croma")
    if member is None and "checkpoint" not in reference.options:
        mine = [text for text, (model, _) in known.items() if model == name]
        choices = f"name weights ({', '.join(mine[:5])}) or " if mine else ""
        raise ConfigError(f"{reference.text}: {name} is a model without weights; {choices}write ?checkpoint=FILE")
    return name, member


def _members(library: Any, name: str) -> list[Any]:
    try:
        return list(library.get_model_weights(name))
    except KeyError:  # a model without published weights
        return []


def _module(name: str, bands: int, size: int) -> nn.Module:
    """Return the model without pretrained weights, for this number of bands and tiles of `size` pixels."""
    import torchgeo.models as library

    options: dict[str, Any] = {}
    if name.startswith(("vit_", "scalemae")):
        options = {"in_chans": bands, "num_classes": 0, "img_size": size}
    elif name.startswith("resnet"):
        options = {"in_chans": bands, "num_classes": 0}
    elif name.startswith("croma"):
        options = {"modalities": ["optical"], "image_size": size}
    elif name.startswith(("dofa", "panopticon", "copernicusfm")):
        options = {"img_size": size}
    with torch.random.fork_rng(devices=[]):
        module: Any = library.get_model(name, **options)
    if name.startswith("swin_v2"):
        first = module.features[0][0]
        module.features[0][0] = nn.Conv2d(bands, first.out_channels, first.kernel_size, first.stride)
        module.head = nn.Identity()
    made: nn.Module = module
    return made


def _read(reference: Reference, name: str, member: Any | None, module: nn.Module) -> tuple[str, ...]:
    """Load the published weights, or those of the user's file, into the model. Returns notes on the weights."""
    file = reference.options.get("checkpoint")
    path = Path(file) if file is not None else fetch(member, reference.text)
    return f"weights of {path.name}", *_load(name, module, read_weights(path), reference.text)


def _load(name: str, module: Any, weights: dict[str, Tensor], text: str) -> tuple[str, ...]:
    if name.startswith("croma"):  # the attention bias is computed, not stored
        return load_state(module, weights, text, ("attn_bias", "s2_GAP_FFN."))
    if name.startswith("panopticon"):
        from timm.layers.pos_embed import resample_abs_pos_embed

        if "pos_embed" in weights and weights["pos_embed"].shape != module.model.pos_embed.shape:
            side = round((module.model.pos_embed.shape[1] - 1) ** 0.5)
            weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], [side, side])
        return load_state(module.model, weights, text, MAY_LACK)
    return load_state(module, weights, text, (*MAY_LACK, "pos_embed") if name.startswith("scalemae") else MAY_LACK)


def _backbone(name: str, module: Any, size: int, record: SensorRecord) -> Backbone:
    """Describe how to run the library's forward pass, and where its tokens are."""
    if name.startswith(("vit_", "resnet")):
        return timm_backbone(module, size, len(record.bands))
    if name.startswith("scalemae"):
        return Backbone(module, _with_gsd(module), size, list(module.blocks), module.norm, prefix=1)
    if name.startswith("swin_v2"):
        run = lambda values, gsd_m: module.norm(module.features(values))  # noqa: E731
        return Backbone(module, run, size, channels_last=True)
    if name.startswith("croma"):
        run = lambda values, gsd_m: module.s2_encoder(imgs=values, attn_bias=module.attn_bias)  # noqa: E731
        return Backbone(module, run, size)
    centres_um = [band.wavelength_um for band in record.bands]
    if name.startswith("panopticon"):
        return Backbone(
            module, _panopticon(module, centres_um), size, list(module.model.blocks), module.model.norm, prefix=1
        )
    if name.startswith("dofa"):
        run = lambda values, gsd_m: module.forward_features(values, centres_um)  # noqa: E731
    else:
        widths_nm = [band.fwhm_um * 1000 for band in record.bands]
        run = _copernicus(module, [centre * 1000 for centre in centres_um], widths_nm)
    return Backbone(module, run, size, list(module.blocks), module.fc_norm, prefix=1, pooled_norm=True)


def _with_gsd(module: Any) -> Any:
    def run(values_BCHW: Tensor, gsd_m: float | None) -> Tensor:
        module.res = gsd_m
        tokens_BTD: Tensor = module.forward_features(values_BCHW)
        return tokens_BTD

    return run


def _panopticon(module: Any, centres_um: list[float]) -> Any:
    def run(values_BCHW: Tensor, gsd_m: float | None) -> Tensor:
        # A new tensor for each call, because the model writes into it.
        centres_nm_C = torch.tensor(centres_um, device=values_BCHW.device) * 1000
        centres_nm_BC = centres_nm_C.expand(len(values_BCHW), -1).clone()
        tokens_BTD: Tensor = module.model.forward_features({"imgs": values_BCHW, "chn_ids": centres_nm_BC})
        return tokens_BTD

    return run


def _copernicus(module: Any, centres_nm: list[float], widths_nm: list[float]) -> Any:
    def run(values_BCHW: Tensor, gsd_m: float | None) -> Tensor:
        unknown_B4 = values_BCHW.new_full((len(values_BCHW), 4), torch.nan)  # place, time and area of a patch
        vector_BD: Tensor = module.forward_features(
            values_BCHW, unknown_B4, centres_nm, widths_nm, input_mode="spectral", kernel_size=16
        )
        return vector_BD

    return run
