"""Encoders behind one interface: tiles in physical units go in, one vector per tile and per patch comes out."""

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
    """Import on first use: what users write to name an encoder is checked before torch, whose import takes seconds."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
