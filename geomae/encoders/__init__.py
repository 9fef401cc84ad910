"""Encoders behind one interface: tiles in physical units go in, one vector per tile and per patch comes out."""

from geomae.encoders.own import Encoder, load_encoder

__all__ = ["Encoder", "load_encoder"]
