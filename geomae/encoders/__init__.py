"""Encoders behind one interface: tiles in physical units go in, one vector per tile and per patch comes out."""

from geomae.encoders.interface import DEFAULT_POOLING, MIDDLE, POOLINGS, Encoder, default_layer
from geomae.encoders.load import load_encoder, load_encoders
from geomae.encoders.own import OwnEncoder
from geomae.encoders.reference import EncoderReference, EncoderSpec, encoder_specs, parse_encoder, parse_encoders

__all__ = [
    "DEFAULT_POOLING",
    "MIDDLE",
    "POOLINGS",
    "Encoder",
    "EncoderReference",
    "EncoderSpec",
    "OwnEncoder",
    "default_layer",
    "encoder_specs",
    "load_encoder",
    "load_encoders",
    "parse_encoder",
    "parse_encoders",
]
