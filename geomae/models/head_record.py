"""The record of a fine-tuned model's head: the task, the classes and their codes, the calibration.

It is stored as `head` in the `config.json` of a model folder; `model.safetensors` holds the head's weights as `head.*`.
K classes
"""

from typing import Literal

from pydantic import Field, model_validator

from geomae.config import Frozen

CLASSIFICATION, REGRESSION, SEGMENTATION = TASKS = ("classification", "regression", "segmentation")
LEARNED_TILES = "learned_tiles.json"  # beside config.json: by data set what `tiles.learned_tiles.record_tiles` says


class Calibration(Frozen):
    """Probabilities are softmax(logits / temperature + bias) (Alexandari et al. 2020); fitted on held-out tiles."""

    temperature: float = Field(1.0, gt=0)
    bias: tuple[float, ...] = Field(description="one per class")
    notes: tuple[str, ...] = Field((), description="what the held-out tiles left uncertain")


class HeadRecord(Frozen):
    """What a head predicts and what it was trained on."""

    kind: Literal["linear", "conv"]
    task: Literal["classification", "regression", "segmentation"]
    classes: tuple[str, ...] = Field((), description="in the order of the logits; empty for a regression")
    codes: tuple[int | None, ...] = Field((), description="code of each class in the label raster; None without codes")
    colours: tuple[str, ...] = Field((), description="#rrggbb of each class")
    calibration: Calibration | None = Field(None, description="None for a regression")
    confusion: tuple[tuple[int, ...], ...] = Field(
        (), description="confusion matrix (truth, predicted) on tiles held out for calibration, or on pixels"
    )
    class_shares: tuple[float, ...] = Field(
        (), description="class shares of the labels as weighted by the loss; uniform where classes were balanced"
    )
    mean: float = Field(0.0, description="mean of a regression's training labels, which standardises outputs")
    std: float = Field(1.0, gt=0)
    unit: str = Field("", description="unit of a regression's numbers, where known")
    bands: tuple[str, ...] = Field(min_length=1, description="bands of the training tiles, in order")
    sensor: str = Field(description="name of the record of these bands among the model's sensors")
    gsd_m: float | None = Field(None, description="ground sample distance of the training tiles")
    tile: int = Field(gt=0, description="side of the training tiles in pixels")
    layer: int = Field(ge=1, description="last block of the encoder that the head reads, counted from 1")
    width: int = Field(64, gt=0, description="channels of a conv head")
    learned_tiles: str = Field("", description=f"SHA-256 of {LEARNED_TILES} beside this file")

    @property
    def outputs(self) -> int:
        """Number of outputs per tile or pixel: one logit per class, or one number."""
        return 1 if self.task == REGRESSION else len(self.classes)

    @model_validator(mode="after")
    def _consistent(self) -> "HeadRecord":
        if self.kind == "conv" and self.task != SEGMENTATION:
            raise ValueError(f"kind: conv predicts pixels, but {self.task} is a task of tiles")
        if self.task != REGRESSION and len(self.classes) < 2:
            raise ValueError(f"classes: {self.task} needs at least two classes, not {len(self.classes)}")
        bias = self.calibration.bias if self.calibration else ()
        own = (self.codes, self.colours, self.class_shares, bias, self.confusion, *self.confusion)
        if any(values and len(values) != len(self.classes) for values in own):
            raise ValueError("codes, colours, class_shares, calibration.bias and confusion: need one value per class")
        return self
