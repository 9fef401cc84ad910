"""The errors that geomae raises on purpose: each says what is wrong, where, and the remedy."""

import difflib
from collections.abc import Iterable


class GeomaeError(Exception):
    """A request or an input is at fault. The command line prints it as one line and exits with `exit_code`."""

    exit_code = 2


class CatalogError(GeomaeError):
    """The catalogue, or something it names, is wrong."""


class ConfigError(GeomaeError):
    """A configuration value or a command line option is wrong."""


class RasterError(GeomaeError):
    """A raster cannot be read as the catalogue says."""


class BandMismatchError(GeomaeError):
    """Bands that are needed are missing, or two sets of bands do not fit together."""


class ModelError(GeomaeError):
    """A model folder or a weight file cannot be used."""


class EmbeddingError(GeomaeError):
    """Embeddings cannot be worked with: they are not finite, or too few."""


class CheckpointError(GeomaeError):
    """A run cannot be resumed from what lies in its folder."""


class TrainingError(GeomaeError):
    """Training cannot go on."""


class StorageError(GeomaeError):
    """Something could not be written: no room, no permission, or something is in the way."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Phrase the remedy for an unknown name: the nearest known one, and otherwise all of them."""
    names = list(dict.fromkeys(map(str, known)))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or [
        one for one in names if one.lower() == name.lower()
    ]
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    shown = ", ".join(sorted(names)[:20])
    return f"known: {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")
