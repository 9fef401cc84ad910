"""The errors that geomae raises on purpose. Each message says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class GeomaeError(Exception):
    """Base of all errors in a request or an input. The command line prints one line and exits with `exit_code`."""

    exit_code = 2


class CatalogError(GeomaeError):
    """The catalogue, or something that it refers to, is wrong."""


class ConfigError(GeomaeError):
    """A configuration value or a command line option is wrong."""


class RasterError(GeomaeError):
    """A raster cannot be read as the catalogue describes it."""


class BandMismatchError(GeomaeError):
    """Required bands are missing, or two sets of bands do not match."""


class ModelError(GeomaeError):
    """A model folder or a weight file cannot be used."""


class EmbeddingError(GeomaeError):
    """Embeddings cannot be used: they are not finite, or too few."""


class CheckpointError(GeomaeError):
    """A run cannot be resumed from the checkpoints in its folder."""


class TrainingError(GeomaeError):
    """Training cannot continue."""


class StorageError(GeomaeError):
    """A file or folder could not be written: no space, no permission, or another file is in the way."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the remedy for an unknown name: the most similar known name, otherwise a list of known names."""
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
