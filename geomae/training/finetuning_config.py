"""The configuration of `geomae finetune`. It does not import torch, which takes seconds."""

from typing import Literal

from pydantic import Field, model_validator

from geomae.config import Frozen, Optimizer
from geomae.models.head_record import CLASSIFICATION

METHODS = ("full", "lora", "last-blocks", "head")
# Learning rates for 256 tiles a step; held-out tiles choose one of them.
RATES = {"full": [0.004, 0.008], "last-blocks": [0.004, 0.008], "lora": [0.008, 0.03], "head": [0.004, 0.03]}


class Augment(Frozen, strict=True):
    """Augmentation, drawn anew each time a training tile is read. Values are standardised: deviation 1 per band."""

    crops: float = Field(0.8, ge=0.1, le=1, description="smallest side of a window of the tile, as a share; 1: none")
    flips: bool = Field(True, description="mirror tiles, upside down and left to right")
    turns: bool = Field(True, description="turn tiles by quarters")
    gain: float = Field(0.1, ge=0, lt=1, description="each band is multiplied by 1 - gain to 1 + gain")
    offset: float = Field(0.1, ge=0, description="up to so many standard deviations are added to each band")


class FinetuneConfig(Frozen, strict=True):
    """Everything that decides what `geomae finetune` computes, beside the model and the tiles."""

    method: Literal["full", "lora", "last-blocks", "head"] = Field(
        "full", description="which weights learn beside the head"
    )
    rank: int = Field(8, gt=0, description="of the corrections of method lora, to the maps of attention")
    blocks: int = Field(2, gt=0, description="last blocks of the encoder that learn by method last-blocks")
    head: Literal["linear", "conv"] | None = Field(
        None, description="conv is for segmentation, and its default; linear for all"
    )
    layer: int | None = Field(
        None,
        ge=1,
        description="last block that the head reads; default the middle, as in all commands",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="the rate of a block is so many times that of the next (full, last-blocks)"
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="chance that the last block is skipped; the first never is")
    smoothing: float = Field(0.1, ge=0, lt=1, description="share of a label that is spread over all classes")
    class_weights: Literal["none", "balanced"] | None = Field(
        None,
        description="balanced: each class counts as much as any other, however rare; none: by its labels; default as "
        "in probes, balanced for tiles and none for pixels",
    )
    rates: list[float] | None = Field(
        None, min_length=1, description="learning rates for 256 tiles a step, of which held-out tiles take one"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises from 0")
    weight_decay: float = Field(0.05, ge=0, description="not applied to biases, norms and single tokens")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    augment: Augment = Augment()
    steps: int = Field(300, gt=0, description="optimizer steps, unless it is stopped early")
    batch: int = Field(32, gt=0, description="tiles per step, over all devices")
    accumulate: int = Field(1, gt=0, description="passes over which a step's tiles are split on each device")
    eval_every: int = Field(40, gt=0, description="steps between validations on held-out tiles")
    patience: int = Field(8, gt=0, description="validations without a new best after which it is stopped")
    save_every: int = Field(100, gt=0, description="steps between checkpoints")
    log_every: int = Field(10, gt=0, description="steps between logged training figures")
    readers: int = Field(2, ge=0, description="threads that read tiles ahead of the training step; 0 reads in the step")
    memory_mb: int = Field(1024, ge=0, description="decoded tiles are kept in memory up to this size")

    @property
    def keep(self) -> int:
        """Number of newest checkpoints that are kept, in addition to the best."""
        return 1

    def balances(self, task: str) -> bool:
        """Whether the loss weights classes equally, whatever their frequency."""
        return task == CLASSIFICATION if self.class_weights is None else self.class_weights == "balanced"

    @property
    def grid(self) -> list[float]:
        """The learning rates to choose from."""
        return RATES[self.method] if self.rates is None else self.rates

    @property
    def runs(self) -> list[str]:
        """Names of the trainings, one per rate."""
        return [f"rate-{rate:g}" for rate in self.grid]

    def begins(self, run: str) -> int:
        """The offset of a training's steps in the history, in which the rates follow each other."""
        return self.runs.index(run) * (self.steps + 1)

    @property
    def optimizer(self) -> Optimizer:
        """The settings of the optimizer, with the first rate of the grid."""
        return Optimizer(
            base_rate=self.grid[0], weight_decay=self.weight_decay, warmup=self.warmup, floor=0.0, clip=self.clip
        )

    def at(self, rate: float) -> "FinetuneConfig":
        """Return this configuration with `rate` as the only rate."""
        return self.model_copy(update={"rates": [rate]})

    def untrained(self) -> "FinetuneConfig":
        """Return the configuration for randomly initialised weights: all weights learn, at the same rate."""
        grid = RATES["full"] if self.rates is None else self.rates
        return self.model_copy(update={"method": "full", "layer_decay": 1.0, "rates": grid})

    @model_validator(mode="after")
    def _consistent(self) -> "FinetuneConfig":
        if self.rates is not None and min(self.rates) <= 0:
            raise ValueError(f"rates: {min(self.rates):g} is no learning rate; give numbers above 0")
        return self
