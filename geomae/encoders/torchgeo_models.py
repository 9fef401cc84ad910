"""torchgeo's models as encoders: published weights by name, or files of one's own.

B tiles, C bands, H W pixels, N patches, T tokens, D width
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geomae.encoders.foreign import Backbone, ForeignEncoder, load_state
from geomae.encoders.pooling import Layer
from geomae.encoders.reference import Reference
from geomae.encoders.timm_models import finish, timm_backbone
from geomae.encoders.torchgeo_weights import fetch, fitted, input_size
from geomae.errors import ConfigError, nearest
from geomae.models.convert.reading import read_weights
from geomae.models.standardise import SensorRecord

NO_EMBEDDING = {  # how names of models begin -> why they are no encoders here
    "aurora": "it forecasts the weather and embeds no tiles",
    "unet": "it segments and gives no embedding of its own",
    "earthloc": "it recognises places and gives one descriptor, no patches",
    "swin_t": "its weights were trained on streets",
    "swin_s": "its weights were trained on streets",
    "swin_b": "its weights were trained on streets",
}
FAMILIES = ("vit_", "resnet", "swin_v2", "scalemae", "dofa", "croma", "panopticon", "copernicusfm")
MAY_LACK = ("head.", "fc.", "fc_norm.", "norm.")  # torchgeo's own loaders let them be as they are made
SIZES = {"croma": 120, "swin_v2": 256}  # pixels a side, of those that are not made for 224


def torchgeo_encoder(
    reference: Reference, layer: Layer, pooling: str, imagery: SensorRecord, device: str | torch.device
) -> ForeignEncoder:
    """A model of torchgeo for the data set that `imagery` describes.

    Raises ConfigError for an unknown name or a model without an embedding, ModelError for weights that cannot be had
    or do not fit, and BandMismatchError where bands are missing.
    """
    text = reference.text
    name, member = _named(reference)
    record, values = fitted(member, name, imagery, text)
    if name.startswith("scalemae") and record.gsd_m is None:
        raise ConfigError(f"{text}: scales its positions by the ground sample distance; add gsd_m to the catalogue")
    size = input_size(member, next((size for begin, size in SIZES.items() if name.startswith(begin)), 224))
    module = _module(name, len(record.bands), size)
    file = reference.options.get("checkpoint")
    path = Path(file) if file is not None else fetch(member, text)
    adapted = (f"weights of {path.name}", *_load(name, module, read_weights(path), text))
    backbone = _backbone(name, module.eval().to(device), size, record)
    return finish(text, backbone, record, values, layer, pooling, adapted)


def _named(reference: Reference) -> tuple[str, Any | None]:
    """The name of the model, and the entry of its enum of weights. Raises ConfigError for what there is not."""
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
        raise ConfigError(f"{reference.text}: {name} has no weights of itself; {choices}write ?checkpoint=FILE")
    return name, member


def _members(library: Any, name: str) -> list[Any]:
    try:
        return list(library.get_model_weights(name))
    except KeyError:  # a model without published weights
        return []


def _module(name: str, bands: int, size: int) -> nn.Module:
    """The model without weights, for as many bands and tiles of `size`."""
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


def _load(name: str, module: Any, weights: dict[str, Tensor], text: str) -> tuple[str, ...]:
    if name.startswith("croma"):  # the parts are loaded as they are stored; the bias of attention is computed
        return load_state(module, weights, text, ("attn_bias", "s2_GAP_FFN."))
    if name.startswith("panopticon"):
        from timm.layers.pos_embed import resample_abs_pos_embed

        if "pos_embed" in weights and weights["pos_embed"].shape != module.model.pos_embed.shape:
            side = round((module.model.pos_embed.shape[1] - 1) ** 0.5)
            weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], [side, side])
        return load_state(module.model, weights, text, MAY_LACK)
    return load_state(module, weights, text, (*MAY_LACK, "pos_embed") if name.startswith("scalemae") else MAY_LACK)


def _backbone(name: str, module: Any, size: int, record: SensorRecord) -> Backbone:
    """How the library's own forward pass is run, and where the tokens are."""
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
        # A fresh tensor each time: the model writes into it.
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
