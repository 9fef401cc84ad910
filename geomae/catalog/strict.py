"""Strict models of a YAML file, and one clear line with file, line, key and remedy when they refuse it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from pydantic import ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from geomae.config import Frozen
from geomae.errors import nearest
from geomae.files import YamlDocument

RULE = "rule"  # type of the errors that `refuse` raises
WORDINGS = {  # pydantic speaks of Python; whoever writes YAML knows these words
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "model_type": "must be a mapping of keys to values",
    "string_pattern_mismatch": "must begin with a letter or digit and hold only letters, digits and ._-",
    "string_too_short": "must not be empty",
    "string_type": "must be text (quote it where it looks like a number)",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


class Strict(Frozen):
    """A mapping of the catalogue; keys that are not known, or not built yet, are refused before anything else."""

    reserved: ClassVar[Mapping[str, str]] = {}  # keys of the format that are not built, with what to use instead

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in values:
            if key in cls.reserved:
                refuse(f"{key!r} is not built yet; {cls.reserved[key]}", key)
            if key not in known:
                refuse(f"unknown key {key!r}; {nearest(str(key), known)}", key)
        return values


def refuse(message: str, *keys: str | int) -> NoReturn:
    """Refuse what is being validated; `keys` below it lead to the line that the message is about."""
    raise PydanticCustomError(RULE, "{message}", {"message": message, "keys": keys})


def explain(error: ValidationError, document: YamlDocument) -> str:
    """One line for the fault of `error` that stands first in `document`, and how many more there are."""
    faults = [_located(fault, document) for fault in error.errors(include_url=False)]
    lines = [document.lines.get(tuple(line_keys), 0) for _, line_keys, _ in faults]
    keys, line_keys, message = faults[lines.index(min(lines))]
    more = f" ({len(faults) - 1} more after this one)" if len(faults) > 1 else ""
    path = ".".join(str(key) for key in keys)
    return f"{document.where(line_keys)}: {path}{': ' if path else ''}{message}{more}"


def _located(fault: ErrorDetails, document: YamlDocument) -> tuple[list[str | int], list[str | int], str]:
    """The keys to show, the keys whose line to show, and the message."""
    keys: list[str | int] = []
    for part in fault["loc"]:  # pydantic adds the names of union branches to the keys of the file
        if (*keys, part) in document.lines:
            keys.append(part)
    if fault["type"] == RULE:
        return keys, [*keys, *fault["ctx"]["keys"]], fault["msg"]
    if fault["type"] == "missing":
        return keys, keys, f"key {fault['loc'][-1]!r} is missing; add it"
    message = WORDINGS.get(fault["type"]) or fault["msg"].replace("Input should be", "must be")
    return keys, keys, f"{message}, not {_shown(fault['input'])}"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if value else "an empty list"
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
