"""Encoders behind one interface: tiles in physical units go in, one vector per tile and per patch comes out."""

from geomae.encoders.interface import Encoder
from geomae.encoders.load import load_encoder, load_encoders
from geomae.encoders.own import OwnEncoder
from geomae.encoders.pooling import DEFAULT_POOLING, MIDDLE, POOLINGS, default_layer
from geomae.encoders.reference import Reference, parse_encoder, parse_encoders

__all__ = [
    "DEFAULT_POOLING",
    "MIDDLE",
    "POOLINGS",
    "Encoder",
    "OwnEncoder",
    "Reference",
    "default_layer",
    "load_encoder",
    "load_encoders",
    "parse_encoder",
    "parse_encoders",
]
