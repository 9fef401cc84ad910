"""geomae: domain adaptation for remote sensing imagery with band-aware masked autoencoders.

import geomae
model = geomae.load_model("runs/first/model")
pixels, loss = model.reconstruct(tiles_BCHW)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomae.catalog import open_catalog
    from geomae.embeddings import open_embeddings
    from geomae.encoders import load_encoder
    from geomae.models.folder import load_model
    from geomae.prediction.predictor import load_predictor

__version__ = version("geomae")
__all__ = ["__version__", "load_encoder", "load_model", "load_predictor", "open_catalog", "open_embeddings"]

_HOMES = {
    "load_encoder": "geomae.encoders",
    "load_model": "geomae.models.folder",
    "load_predictor": "geomae.prediction.predictor",
    "open_catalog": "geomae.catalog",
    "open_embeddings": "geomae.embeddings",
}


def __getattr__(name: str) -> Any:
    """Import on first use: importing torch takes seconds, and `geomae --help` does not need it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'geomae' has no attribute {name!r}")
