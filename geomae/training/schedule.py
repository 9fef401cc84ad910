"""The learning rate as a pure function of the step."""

import math

from geomae.config import PretrainConfig


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then cosine decay to the floor (He et al. 2022, appendix A); the base rate is for 256 tiles."""
    peak = config.optimizer.base_rate * config.batch / 256
    warmup = round(config.optimizer.warmup * config.steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(config.steps - warmup, 1)
    floor = config.optimizer.floor
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
