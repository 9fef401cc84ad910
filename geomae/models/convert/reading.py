"""State dicts from files, without running any code of the file."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from geomae.errors import ModelError


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from `.safetensors` or, without running any code of the file, from a torch checkpoint.

    Raises ModelError for a file that is absent, truncated, needs code to be unpickled, or holds values that are not
    finite.
    """
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: does not exist; check the path") from error
    except pickle.UnpicklingError as error:
        what = "would run code" if "GLOBAL" in str(error) else "is damaged, no weight file, or would run code"
        raise ModelError(f"{path}: {what} when it is read; save its plain state dict as .safetensors") from error
    except Exception as error:  # a damaged file raises whatever its reader trips over
        raise ModelError(f"{path}: is damaged or not a weight file ({first_line(error)}); fetch it again") from error
    for _ in range(4):  # wrapped once or twice; a mapping that holds itself must come to an end
        inner = [loaded.get(key) for key in ("model", "state_dict")] if isinstance(loaded, Mapping) else []
        loaded = next((one for one in inner if isinstance(one, Mapping)), loaded)
    if isinstance(loaded, Mapping) and loaded and all(isinstance(value, Mapping) for value in loaded.values()):
        loaded = {f"{part}.{key}": value for part, inner in loaded.items() for key, value in inner.items()}
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelError(f"{path}: holds no state dict; geomae reads `{{'model': state_dict}}` or a state dict itself")
    weights = {str(key): value for key, value in loaded.items()}
    for key, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: {key} holds NaN or infinite values; the file is not usable")
    return weights


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
