"""AdamW with betas (0.9, 0.95): its groups of parameters, its learning rate, and a guard against infinite steps."""

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
    """Linear warm-up, then cosine decay to the floor (He et al. 2022, appendix A); the base rate is for 256 tiles."""
    peak = config.optimizer.base_rate * config.batch / 256
    warmup = round(config.optimizer.warmup * config.steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(config.steps - warmup, 1)
    floor = config.optimizer.floor
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def plain_name(name: str) -> str:
    """The name of a parameter without what DDP, FSDP, Fabric and the compiler put before it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def decayed(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that weight decay acts on: neither biases, nor norms, nor single tokens.

    Taken before a strategy wraps the model, because FSDP flattens shapes.
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
    """AdamW over what learns of a wrapped or plain `model`; the rate is set at each step.

    `scale_of` says by its name what the rate of a parameter is multiplied by.
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
        fused=True,  # one pass over the weights, and it knows `found_inf`
    )


def guarded_step(optimizer: torch.optim.Optimizer, rate: float, broken: Tensor) -> None:
    """One step that changes no weight where `broken` (a tensor on the device) is true; the host need not look.

    The fused kernel reads `found_inf` on the device, as gradient scaling uses it.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.found_inf = broken.float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
