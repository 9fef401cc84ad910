"""Encoders with one interface: they turn tiles in physical units into one embedding per tile and one per patch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomae.encoders.interface import DEFAULT_POOLING, MIDDLE, POOLINGS, Encoder, Tokens
    from geomae.encoders.own_models import OwnEncoder
    from geomae.encoders.selections import load_encoder
    from geomae.encoders.specification import EncoderSpec, Reference, encoder_specs, parse_encoder, parse_encoders

__all__ = [
    "DEFAULT_POOLING",
    "MIDDLE",
    "POOLINGS",
    "Encoder",
    "EncoderSpec",
    "OwnEncoder",
    "Reference",
    "Tokens",
    "encoder_specs",
    "load_encoder",
    "parse_encoder",
    "parse_encoders",
]

_HOMES = {
    "interface": ("DEFAULT_POOLING", "MIDDLE", "POOLINGS", "Encoder", "Tokens"),
    "own_models": ("OwnEncoder",),
    "specification": ("Reference", "EncoderSpec", "encoder_specs", "parse_encoder", "parse_encoders"),
    "selections": ("load_encoder",),
}


def __getattr__(name: str) -> Any:
    """Import on first use: the text that names an encoder can then be checked without torch, which imports slowly."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
