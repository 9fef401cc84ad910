"""The catalogue keys of the generated landscape, and of a known shift between its source and target."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geomae.catalog.schema_forms import Share, Strict, Whole
from geomae.config import refuse

NONE, SENSOR = "none", "sensor"  # the kinds of shift that have rules of their own


class Sample(Strict):
    """The generated landscape."""

    seed: Annotated[Whole, Field(ge=0)] = Field(0, description="random seed of the landscape")
    size: Annotated[Whole, Field(ge=64, le=2048)] = Field(512, description="side of a scene in pixels")
    scenes: Annotated[Whole, Field(ge=1, le=64)] = Field(2, description="number of scenes of each domain")
    shift: Literal["none", "covariate", "shares", "conditional", "concept", "sensor"] | None = Field(
        None, description="draw a source and a target that differ only in this, instead of lowland and dryland"
    )
    strength: Share = Field(1.0, description="size of the difference; 0 is none")
    side: Literal["source", "target"] | None = Field(None, description="only one side of a shift; default both")

    @model_validator(mode="after")
    def _fits_together(self) -> "Sample":
        given = self.model_fields_set
        for key in ("strength", "side"):
            if self.shift is None and key in given:
                refuse(f"`{key}` needs a shift; add `shift: covariate`, or remove it", key)
        if self.shift == NONE and "strength" in given:
            refuse("`shift: none` has no strength; remove it", "strength")
        if self.shift == SENSOR and self.side is None:
            refuse("two sensors are two data sets; write `side: source` here and `side: target` in another", "shift")
        return self
