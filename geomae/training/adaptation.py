"""How a model is adapted: what `geomae adapt` can be told, and the training that it comes to."""

from typing import Literal

from pydantic import Field

from geomae.config import Data, Decoder, Frozen, Masking, Optimizer, PretrainConfig
from geomae.models.architecture import Architecture

RATES = {"full": 0.004, "last-blocks": 0.008, "lora": 0.008, "norm": 0.03}  # for 256 tiles a step


class AdaptConfig(Frozen, strict=True):
    """Everything that decides what `geomae adapt` computes, beside the model and the tiles."""

    method: Literal["full", "last-blocks", "lora", "norm"] = Field("lora", description="which weights learn")
    rank: int = Field(8, gt=0, description="of the corrections of method lora")
    blocks: int | None = Field(
        None, ge=0, description="last blocks of the encoder that learn in full; default 1 of last-blocks, 0 of lora"
    )
    replay: float = Field(0.25, ge=0, lt=1, description="share of the steps that take source tiles")
    rate: float | None = Field(None, gt=0, description="learning rate for 256 tiles a step; default that of the method")
    masking: Masking = Masking()
    data: Data = Data(validation=0.2)  # of a target, which is often small, a tenth says little
    steps: int = Field(200, gt=0, description="optimizer steps, unless it is stopped early")
    batch: int = Field(32, gt=0, description="tiles per step")
    eval_every: int = Field(20, gt=0, description="steps between validations on held-out target tiles")
    patience: int = Field(3, gt=0, description="validations without a new best after which it is stopped")
    save_every: int = Field(100, gt=0, description="steps between checkpoints")

    @property
    def whole_blocks(self) -> int:
        """Last blocks that learn in full: a whole one and corrections of rank 8 are more than a tenth of `tiny`."""
        return self.blocks if self.blocks is not None else int(self.method == "last-blocks")

    def training(self, shape: Architecture) -> PretrainConfig:
        """The training of a model of this `shape`."""
        rate = RATES[self.method] if self.rate is None else self.rate
        return PretrainConfig(
            model=shape.kind, patch=shape.patch, embedding=shape.embedding, target=shape.target,
            positions="gsd" if shape.positions == "gsd" else "sincos", reference_gsd_m=shape.reference_gsd_m,
            decoder=shape.decoder or Decoder(), masking=self.masking, optimizer=Optimizer(base_rate=rate),
            data=self.data, steps=self.steps, batch=self.batch, eval_every=self.eval_every, save_every=self.save_every,
            keep=1,
        )  # fmt: skip
