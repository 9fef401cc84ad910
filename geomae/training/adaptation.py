"""How a model is adapted: the training that it comes to."""

from geomae.config import AdaptConfig, Decoder, Optimizer, PretrainConfig
from geomae.models.architecture import Architecture

RATES = {"full": 0.004, "last-blocks": 0.008, "lora": 0.008, "norm": 0.03}  # for 256 tiles a step


def training_config(config: AdaptConfig, shape: Architecture) -> PretrainConfig:
    """The training of a model of this `shape`."""
    rate = RATES[config.method] if config.rate is None else config.rate
    return PretrainConfig(
        model=shape.kind, patch=shape.patch, embedding=shape.embedding, target=shape.target,
        positions="gsd" if shape.positions == "gsd" else "sincos", reference_gsd_m=shape.reference_gsd_m,
        decoder=shape.decoder or Decoder(), masking=config.masking, optimizer=Optimizer(base_rate=rate),
        data=config.data, steps=config.steps, batch=config.batch, eval_every=config.eval_every,
        save_every=config.save_every, keep=1,
    )  # fmt: skip
