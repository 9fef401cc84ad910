"""What a fine-tuned model says of its head: the task, the classes and their codes, the calibration.

It stands as `head` in the `config.json` of a model folder, whose `model.safetensors` holds the weights of the head as
`head.*`. K classes
"""

from typing import Literal

from pydantic import Field, model_validator

from geomae.config import Frozen

CLASSIFICATION, REGRESSION, SEGMENTATION = TASKS = ("classification", "regression", "segmentation")
LEARNED_TILES = "learned_tiles.json"  # beside config.json: {data set: {"learned": [tile ids], "held_out": [tile ids]}}


class Calibration(Frozen):
    """Probabilities are softmax(logits / temperature + bias) (Alexandari et al. 2020); fitted on held-out tiles."""

    temperature: float = Field(1.0, gt=0)
    bias: tuple[float, ...] = Field(description="one per class")
    notes: tuple[str, ...] = Field((), description="what the held-out tiles could not tell")


class HeadRecord(Frozen):
    """What a head predicts and what it learned from."""

    kind: Literal["linear", "conv"]
    task: Literal["classification", "regression", "segmentation"]
    classes: tuple[str, ...] = Field((), description="in the order of the logits; none of a regression")
    codes: tuple[int | None, ...] = Field((), description="of the label raster; None where classes have none")
    colours: tuple[str, ...] = Field((), description="#rrggbb of each class")
    calibration: Calibration | None = Field(None, description="None of a regression")
    confusion: tuple[tuple[int, ...], ...] = Field(
        (), description="(truth, predicted) counts of the held-out tiles that it was calibrated on, or of their pixels"
    )
    class_shares: tuple[float, ...] = Field(
        (), description="of the labels, as the loss counted them: uniform where classes were balanced"
    )
    mean: float = Field(0.0, description="of the numbers that were learned: what the head predicts is standardised")
    std: float = Field(1.0, gt=0)
    unit: str = Field("", description="of a regression's numbers, where it is known")
    bands: tuple[str, ...] = Field(min_length=1, description="bands that it was fine-tuned on, in their order")
    sensor: str = Field(description="name of the record of these bands among the model's sensors")
    gsd_m: float | None = Field(None, description="of the tiles that it learned from")
    tile: int = Field(gt=0, description="side in pixels of the tiles that it learned from")
    layer: int = Field(ge=1, description="last block of the encoder that it reads, counted from 1")
    width: int = Field(64, gt=0, description="channels of a conv head")
    learned_tiles: str = Field("", description=f"SHA-256 of {LEARNED_TILES} beside this file")

    @property
    def outputs(self) -> int:
        """What the head gives of a tile or pixel: one logit per class, or one number."""
        return 1 if self.task == REGRESSION else len(self.classes)

    @model_validator(mode="after")
    def _consistent(self) -> "HeadRecord":
        if self.kind == "conv" and self.task != SEGMENTATION:
            raise ValueError(f"kind: conv predicts pixels, and {self.task} is of tiles")
        if self.task != REGRESSION and len(self.classes) < 2:
            raise ValueError(f"classes: {self.task} tells two or more apart, not {len(self.classes)}")
        bias = self.calibration.bias if self.calibration else ()
        own = (self.codes, self.colours, self.class_shares, bias, self.confusion, *self.confusion)
        if any(values and len(values) != len(self.classes) for values in own):
            raise ValueError("codes, colours, class_shares, calibration.bias and confusion: one of each per class")
        return self
