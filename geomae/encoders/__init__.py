"""Encoders behind one interface: tiles in physical units go in, one vector per tile and per patch comes out."""

from geomae.encoders.interface import DEFAULT_POOLING, MIDDLE, POOLINGS, Encoder, default_layer
from geomae.encoders.load import load_encoder, load_encoders
from geomae.encoders.own import OwnEncoder
from geomae.encoders.reference import EncoderReference, parse_encoder, parse_encoders

__all__ = [
    "DEFAULT_POOLING",
    "MIDDLE",
    "POOLINGS",
    "Encoder",
    "EncoderReference",
    "OwnEncoder",
    "default_layer",
    "load_encoder",
    "load_encoders",
    "parse_encoder",
    "parse_encoders",
]
