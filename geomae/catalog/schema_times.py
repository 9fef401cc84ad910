"""The catalogue keys for dates: `time`, and domains by month."""

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from geomae.catalog.schema_forms import Column, Strict, Text, Whole, mapping_or_value
from geomae.catalog.times import NamePattern
from geomae.config import refuse

MONTHS = "months"
BY_MONTH = "by month"  # a tag of the union


def _checked_pattern(text: str) -> str:
    try:
        NamePattern(text)
    except ValueError as error:
        refuse(f"{text!r} {error}")
    return text


class Time(Strict):
    """Where to read the date of a scene or window, if the product name does not contain it."""

    pattern: Annotated[Text, AfterValidator(_checked_pattern)] | None = Field(
        None, description="pattern of file names, with %Y, %m, %d, %j, %H, %M, %S"
    )
    column: Text | None = Field(None, description="column with dates as 2021-06-07 or 2021-06-07T10:00:31Z")

    @model_validator(mode="after")
    def _one_source(self) -> "Time":
        if (self.pattern is None) == (self.column is None):
            refuse("dates come from either `pattern` or `column`; keep one", *(["column"] if self.column else []))
        return self


def _checked_months(months: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    taken: dict[int, str] = {}
    for name, numbers in months.items():
        for number in numbers:
            if taken.setdefault(number, name) != name:
                refuse(f"month {number} is in {taken[number]!r} and in {name!r}; keep it in one", name)
    return months


class Months(Strict):
    """Domains by the month of a tile's time; tiles of other months are in the domain `unspecified`."""

    months: Annotated[
        dict[Text, Annotated[tuple[Annotated[Whole, Field(ge=1, le=12)], ...], Field(min_length=1)]],
        Field(min_length=1),
        AfterValidator(_checked_months),
    ] = Field(description="months (1 to 12) of each domain")

    def of_month(self, month: int | None) -> str | None:
        """The domain of a month (1 to 12); None for a month that no domain has."""
        return next((name for name, numbers in self.months.items() if month in numbers), None)


def _form(value: Any) -> str:
    """Choose the branch of `domain`. A key that begins like `months` counts as it, so that a typo is explained."""
    if isinstance(value, Months) or (isinstance(value, dict) and any(str(key)[:5] == MONTHS[:5] for key in value)):
        return BY_MONTH
    return mapping_or_value(value)


Domain = Annotated[
    Annotated[Column, Tag("mapping")] | Annotated[Months, Tag(BY_MONTH)] | Annotated[Text, Tag("value")],
    Discriminator(_form),
]
