"""Weights in and out: foreign state dicts, other band sets, timm and ONNX; each with an account of every key."""

from geomae.models.convert.account import Account
from geomae.models.convert.bands import adapt_bands
from geomae.models.convert.onnx_out import check_onnx, write_onnx
from geomae.models.convert.reading import read_weights
from geomae.models.convert.timm_out import TimmWeights, check_timm, timm_weights
from geomae.models.convert.weights_in import convert_mae

__all__ = [
    "Account",
    "TimmWeights",
    "adapt_bands",
    "check_onnx",
    "check_timm",
    "convert_mae",
    "read_weights",
    "timm_weights",
    "write_onnx",
]
