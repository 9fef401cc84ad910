"""Checkpoints: folders published in one step, of safetensors and JSON, with the digest of each file.

checkpoints/step-00000200/   the state after 200 steps
    model.safetensors  optimizer.safetensors  state.json
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from geomae.errors import CheckpointError, GeomaeError
from geomae.files import digest, file_digest, publish_dir, read_json, write_json
from geomae.models.folder import save_tensors

# Unsharded tensors under the same names, whatever the strategy.
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # saving: only the first rank gets them
READ = StateDictOptions(full_state_dict=True)  # restoring: every rank reads them


@dataclass
class Progress:
    """The state of a run beside its weights: the steps done, and the best validation score with its step."""

    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None


def collect_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights by parameter name, on the host. Every rank must call this; only the first gets the weights."""
    state: Any = get_model_state_dict(model, options=WHOLE)
    return {name: value.contiguous() for name, value in state.items()}


def collect_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer state by `parameter/kind`, on the host. Every rank must call this; the first gets it."""
    state: Any = get_optimizer_state_dict(model, optimizer, options=WHOLE).get("state", {})
    return {
        f"{name}/{kind}": value.contiguous().clone() for name, kinds in state.items() for kind, value in kinds.items()
    }


def publish(folder: Path, weights: dict[str, Tensor], moments: dict[str, Tensor], progress: Progress) -> Path:
    """Write the checkpoint of `progress.step` below `folder`, atomically, and return its path."""
    target = folder / f"step-{progress.step:08d}"
    if target.exists():  # a resumed run reaches its own checkpoint again, with the same content
        return target
    with publish_dir(target) as temporary:
        save_tensors(weights, temporary / "model.safetensors")
        save_tensors(moments, temporary / "optimizer.safetensors")
        digests = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        record: dict[str, Any] = {
            "step": progress.step,
            "best_loss": progress.best_loss,
            "best_step": progress.best_step,
        }
        record["files"] = digests
        write_json(temporary / "state.json", record | {"digest": digest(record)})
    return target


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best."""
    steps = sorted(folder.glob("step-*"))
    for path in steps[:-keep]:
        if best_step is None or path.name != f"step-{best_step:08d}":
            # Renamed first, so that a half-removed checkpoint is not mistaken for a complete one.
            doomed = path.rename(path.with_name(f".unfinished-{path.name}"))
            shutil.rmtree(doomed, ignore_errors=True)


def newest(folder: Path) -> tuple[Path, Progress] | None:
    """Return the newest checkpoint after checking its digests; None where there is none.

    Raises CheckpointError where it is incomplete or was altered: resuming from an older one would hide the damage.
    """
    folders = sorted(folder.glob("step-*"))
    if not folders:
        return None
    path = folders[-1]
    remedy = f"remove {path} to go on from an earlier one" if len(folders) > 1 else f"remove {path} to start again"
    try:
        state = read_json(path / "state.json")
        files, step, stored = dict(state["files"]), int(state["step"]), state.pop("digest")
    except (GeomaeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: state.json is missing or damaged; {remedy}") from error
    if digest(state) != stored or path.name != f"step-{step:08d}":
        raise CheckpointError(f"{path}: state.json was altered after it was written; {remedy}")
    for name, wanted in {"model.safetensors": "", "optimizer.safetensors": "", **files}.items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path}: is incomplete, {name} is missing; {remedy}")
        if file_digest(path / name) != wanted:
            raise CheckpointError(f"{path}: {name} was altered after it was written; {remedy}")
    return path, Progress(step, state.get("best_loss"), state.get("best_step"))


def last_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, from folder names only; 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("step-*")), default=0)


def weights_of(folder: Path, step: int) -> dict[str, Tensor]:
    """Read the weights of the checkpoint of `step`, by parameter name."""
    return load_file(folder / f"step-{step:08d}" / "model.safetensors")


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load a checkpoint into `model` and `optimizer`. Every rank must call this, and reads the files.

    Raises CheckpointError where the weights belong to another model, for example one of another version of geomae.
    """
    weights: dict[str, Any] = dict(load_file(path / "model.safetensors"))
    try:
        set_model_state_dict(model, weights, options=READ)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights are not those of the model to be trained, as after a change of geomae's version; "
            "go on with the version that made it, or start a new run"
        ) from error
    state: dict[str, Any] = {}
    for key, value in load_file(path / "optimizer.safetensors").items():
        name, _, kind = key.rpartition("/")
        state.setdefault(name, {})[kind] = value
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    set_optimizer_state_dict(model, optimizer, {"state": state, "param_groups": groups}, options=READ)
