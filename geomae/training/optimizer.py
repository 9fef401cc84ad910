"""AdamW: its parameter groups, the learning rate schedule, and a guard against non-finite steps."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from geomae.training.engine import LoopConfig

SINGLE_TOKENS = ("cls_token", "mask_token")
WRAPPERS = ("_forward_module.", "_fsdp_wrapped_module.", "_orig_mod.", "module.")


def learning_rate(step: int, config: "LoopConfig") -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to the floor (He et al. 2022, appendix A).

    The peak is the base rate scaled by batch / 256.
    """
    peak = config.optimizer.base_rate * config.batch / 256
    warmup = round(config.optimizer.warmup * config.steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(config.steps - warmup, 1)
    floor = config.optimizer.floor
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def plain_name(name: str) -> str:
    """Return the name of a parameter without the prefixes of DDP, FSDP, Fabric and torch.compile."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def decayed(model: nn.Module) -> frozenset[str]:
    """Return the names of parameters with weight decay: all but biases, norms and single tokens.

    Must be called before a strategy wraps the model, because FSDP flattens shapes.
    """
    return frozenset(
        name for name, value in model.named_parameters() if value.ndim > 1 and not name.endswith(SINGLE_TOKENS)
    )


def build_optimizer(
    model: nn.Module,
    decay: frozenset[str],
    weight_decay: float,
    *,
    scale_of: Callable[[str], float] = lambda name: 1.0,
    betas: tuple[float, float] = (0.9, 0.95),
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters of a wrapped or plain `model`; `guarded_step` sets the rate.

    `scale_of` maps the name of a parameter to the factor of its learning rate. `decay` are the names from `decayed`.
    """
    scales: dict[float, dict[bool, list[Tensor]]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            groups = scales.setdefault(scale_of(plain_name(name)), {True: [], False: []})
            groups[plain_name(name) in decay].append(value)
    return torch.optim.AdamW(
        [
            {"params": groups[decaying], "weight_decay": weight_decay * decaying, "scale": scale}
            for scale, groups in scales.items()
            for decaying in (True, False)
        ],
        lr=0.0,
        betas=betas,
        fused=True,  # one pass over the weights, and it supports `found_inf`
    )


def guarded_step(optimizer: torch.optim.Optimizer, rate: float, broken: Tensor) -> None:
    """Take one optimizer step, which changes no weight where `broken` (a tensor on the device) is true.

    The fused kernel reads `found_inf` on the device, as in gradient scaling, so the host does not wait.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.found_inf = broken.float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
