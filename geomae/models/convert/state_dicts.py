"""State dicts from files, without running any code of the file, and what became of every key of a conversion."""

import argparse
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from geomae.errors import ModelError

BLOCK = re.compile(r"(.*?blocks\.)(\d+)(\..+)")
GLOBAL = re.compile(r"GLOBAL (\S+)")  # how torch names what it does not read
INERT: list[Any] = [argparse.Namespace]  # trainings save their options so: a record of values, which runs nothing


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from `.safetensors` or, without running any code of the file, from a torch checkpoint.

    One that stands beside other things under another name than `model` or `state_dict` gives keys that begin with that
    name (see `without_prefix`). Raises ModelError for a file that is absent, truncated, needs code to be unpickled, or
    holds values that are not finite.
    """
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            with safe_globals(INERT):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: does not exist; check the path") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: {_refused(error)} when it is read; save its plain state dict as .safetensors"
        ) from error
    except Exception as error:  # a damaged file raises whatever its reader trips over
        raise ModelError(f"{path}: is damaged or not a weight file ({first_line(error)}); fetch it again") from error
    weights = _state_dict(loaded)
    if weights is None:
        held = f" (it has {', '.join(map(str, list(loaded)[:6]))})" if isinstance(loaded, Mapping) else ""
        raise ModelError(
            f"{path}: holds no state dict{held}; geomae reads `{{'model': state_dict}}` or a state dict itself"
        )
    for key, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: {key} holds NaN or infinite values; the file is not usable")
    return weights


def without_prefix(weights: dict[str, Tensor], anchor: str) -> tuple[dict[str, Tensor], str]:
    """Weights under the names of the model, of which `anchor` is one, and the prefix (`module.`, ...) that they had.

    Of several prefixes the shortest counts (a layer may have a weight of the same name); what has none is left out.
    """
    prefixes = (key.removesuffix(anchor) for key in weights if key.endswith(f".{anchor}"))
    prefix = "" if anchor in weights else min(prefixes, key=len, default="")
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}, prefix


def prefix_notes(weights: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    """What is to be said of a prefix that was taken off: a line, or none where there was none."""
    others = sum(not key.startswith(prefix) for key in weights)
    left = f"; others, left out: {others}" if others else ""
    return (f"keys of the weights begin with {prefix}{left}",) if prefix else ()


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@dataclass
class ConversionReport:
    """Every key of the source and of the result, once.

    An entry is a key, where something is to be said followed by that in brackets: `pos_embed (computed)`. `taken` and
    `adapted` name keys of the source that went over as they were, or changed; `left` those that did not go over; `new`
    is what the result has and the source had not. `notes` are lines on what is no weight: bands, statistics, tiles.
    """

    taken: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The account for people: all keys; those of a row of blocks are one entry (`blocks.0-11.norm1.bias`)."""
        kinds = {"taken": self.taken, "adapted": self.adapted, "left": self.left, "new": self.new}
        said = [f"{kind} {len(keys)}{': ' if keys else ''}{', '.join(fold(keys))}" for kind, keys in kinds.items()]
        return said + self.notes

    def followed_by(self, later: "ConversionReport", names: Mapping[str, str]) -> "ConversionReport":
        """This conversion and then `later`, whose keys are those of `names` (key of our source -> its key)."""
        changed = {_key(entry): _remark(entry) for entry in later.adapted}
        result = ConversionReport(left=list(self.left), new=[*self.new, *later.new], notes=[*self.notes, *later.notes])
        for entry in [*self.taken, *self.adapted]:
            more = changed.get(names.get(_key(entry), ""))
            remarks = [one for one in (_remark(entry), more) if one]
            kind = result.adapted if remarks else result.taken
            kind.append(f"{_key(entry)} ({'; '.join(remarks)})" if remarks else entry)
        return result


def fold(entries: Iterable[str]) -> list[str]:
    """Entries in their order, where those that differ in the number of a block alone are one."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for entry in entries:
        block = BLOCK.fullmatch(entry)
        before, after = (block[1], block[3]) if block else (entry, "")
        numbers.setdefault((before, after), []).extend([int(block[2])] if block else [])
    return [f"{before}{_ranges(blocks)}{after}" for (before, after), blocks in numbers.items()]


def _state_dict(loaded: object) -> dict[str, Tensor] | None:
    """The state dict of what a checkpoint holds; None where there is none."""
    for _ in range(4):  # wrapped once or twice; a mapping that holds itself must come to an end
        inner = [loaded.get(key) for key in ("model", "state_dict")] if isinstance(loaded, Mapping) else []
        loaded = next((one for one in inner if isinstance(one, Mapping)), loaded)
    if not isinstance(loaded, Mapping):
        return None
    if not _all_tensors(loaded):
        parts = {part: inner for part, inner in loaded.items() if isinstance(inner, Mapping) and _all_tensors(inner)}
        loaded = {f"{part}.{key}": value for part, inner in parts.items() for key, value in inner.items()}
        if not loaded:
            return None
    return {str(key): value for key, value in loaded.items()}


def _all_tensors(mapping: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in mapping.values())


def _refused(error: pickle.UnpicklingError) -> str:
    """Why torch's reader of inert data stopped."""
    named = GLOBAL.search(str(error))
    if named is None:
        return "is damaged, no weight file, or would run code"
    return f"would run code (it holds {named[1]})"


def _ranges(numbers: list[int]) -> str:
    """`0-2,5` of 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _key(entry: str) -> str:
    return entry.partition(" (")[0]


def _remark(entry: str) -> str:
    return entry.partition(" (")[2].removesuffix(")")
