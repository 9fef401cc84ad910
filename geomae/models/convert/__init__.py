"""Import and export of weights: foreign state dicts, other band sets, timm and ONNX, with a report on every key."""

from geomae.models.convert.mae import convert_mae
from geomae.models.convert.onnx import check_onnx, write_onnx
from geomae.models.convert.state_dicts import ConversionReport, read_weights
from geomae.models.convert.timm import TimmWeights, check_timm, timm_weights
from geomae.models.convert.weights_in import adapt_bands, adapt_model, import_weights, measured_record
from geomae.models.convert.weights_out import export_model, sidecar

__all__ = [
    "ConversionReport",
    "TimmWeights",
    "adapt_bands",
    "adapt_model",
    "check_onnx",
    "check_timm",
    "convert_mae",
    "export_model",
    "import_weights",
    "measured_record",
    "read_weights",
    "sidecar",
    "timm_weights",
    "write_onnx",
]
