"""Read state dicts from files without running code from them, and report on every key of a conversion."""

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
GLOBAL = re.compile(r"GLOBAL (\S+)")  # how torch's message names the type that it refuses to read
INERT: list[Any] = [argparse.Namespace]  # often holds the options of a training; reading it runs no code


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors` or, without running any code of the file, from a torch checkpoint.

    The state dict may be stored under `model` or `state_dict`. Stored under another name, its keys begin with that name
    (see `without_prefix`). Raises ModelError for a file that is missing or truncated, that needs code to be unpickled,
    or that holds values that are not finite.
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
    except Exception as error:  # a damaged file may raise any exception
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
    """Remove the common prefix of keys (such as `module.`), found by the known key `anchor`; also returns the prefix.

    Of several prefixes, the shortest is taken, since a layer may have a weight of the same name. Keys without the
    prefix are left out.
    """
    prefixes = (key.removesuffix(anchor) for key in weights if key.endswith(f".{anchor}"))
    prefix = "" if anchor in weights else min(prefixes, key=len, default="")
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}, prefix


def prefix_notes(weights: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    """One line for the report on a prefix that was removed; empty without a prefix."""
    others = sum(not key.startswith(prefix) for key in weights)
    left = f"; {others} other keys were left out" if others else ""
    return (f"removed the prefix {prefix} of keys{left}",) if prefix else ()


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters; the type's name where there is none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@dataclass
class ConversionReport:
    """What a conversion did with every key of the source and of the result; each is listed once.

    An entry is a key, with a remark in brackets where there is one: `pos_embed (computed)`. `taken` lists keys of the
    source that were copied unchanged, `adapted` those that were changed, `left` those that were not used. `new` lists
    keys of the result that the source did not have. `notes` are lines on bands, statistics and tiles.
    """

    taken: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as lines of text; keys that differ only in the block are folded (`blocks.0-11.norm1.bias`)."""
        kinds = {"taken": self.taken, "adapted": self.adapted, "left": self.left, "new": self.new}
        said = [f"{kind} {len(keys)}{': ' if keys else ''}{', '.join(fold(keys))}" for kind, keys in kinds.items()]
        return said + self.notes

    def followed_by(self, later: "ConversionReport", names: Mapping[str, str]) -> "ConversionReport":
        """The report of this conversion followed by `later`; `names` maps keys of this source to keys of `later`."""
        changed = {_key(entry): _remark(entry) for entry in later.adapted}
        result = ConversionReport(left=list(self.left), new=[*self.new, *later.new], notes=[*self.notes, *later.notes])
        for entry in [*self.taken, *self.adapted]:
            more = changed.get(names.get(_key(entry), ""))
            remarks = [one for one in (_remark(entry), more) if one]
            kind = result.adapted if remarks else result.taken
            kind.append(f"{_key(entry)} ({'; '.join(remarks)})" if remarks else entry)
        return result


def fold(entries: Iterable[str]) -> list[str]:
    """Join entries that differ only in the number of a block; the order stays."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for entry in entries:
        block = BLOCK.fullmatch(entry)
        before, after = (block[1], block[3]) if block else (entry, "")
        numbers.setdefault((before, after), []).extend([int(block[2])] if block else [])
    return [f"{before}{_ranges(blocks)}{after}" for (before, after), blocks in numbers.items()]


def _state_dict(loaded: object) -> dict[str, Tensor] | None:
    """Find the state dict in the contents of a checkpoint; None where there is none."""
    for _ in range(4):  # usually wrapped once or twice; the limit stops at a mapping that contains itself
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
    """Why torch refused to read a checkpoint with `weights_only`."""
    named = GLOBAL.search(str(error))
    if named is None:
        return "is damaged, not a weight file, or would run code"
    return f"would run code (it holds {named[1]})"


def _ranges(numbers: list[int]) -> str:
    """Write numbers as ranges: 0, 1, 2, 5 as `0-2,5`."""
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
