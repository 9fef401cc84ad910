"""Common parts of the catalogue schema: types of values, refusal of unknown keys, and unions by the form of a value."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from geomae.config import Frozen, refuse
from geomae.errors import nearest

Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Share = Annotated[Number, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


class Strict(Frozen):
    """A mapping of the catalogue; unknown keys are refused before values are checked."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in values:
            if key not in known:
                refuse(f"unknown key {key!r}; {nearest(str(key), known)}", key)
        return values


def mapping_or_value(value: object) -> str:
    """Choose the branch of a union: a mapping or a single value."""
    return "mapping" if isinstance(value, (dict, BaseModel)) else "value"


def mapping_or_list(value: object) -> str:
    """Choose the branch of a union: a mapping or a list."""
    return "mapping" if isinstance(value, dict) else "list"


def list_or_value(value: object) -> str:
    """Choose the branch of a union: a list or a single value."""
    return "list" if isinstance(value, (list, tuple)) else "value"


def mapping_list_or_value(value: object) -> str:
    """Choose the branch of a union: a mapping, a list or a single value."""
    return mapping_or_list(value) if isinstance(value, (dict, list, tuple)) else "value"


class Column(Strict):
    """A column of the attributes."""

    column: Text = Field(description="name of a column of `table` or `windows`")
