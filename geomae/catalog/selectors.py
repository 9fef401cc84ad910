"""Selectors choose tiles of a data set: `NAME`, `NAME@split`, `NAME[conditions]` or `NAME[conditions]@split`.

A condition is `column=value`, also with `!=`, `<`, `<=`, `>`, `>=`, or `column in value|value`. Names and values that
contain such signs are quoted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from geomae.catalog.catalog import Catalog
from geomae.catalog.filters import (
    Columns,
    Comparison,
    Literal,
    MaskN,
    Name,
    is_missing,
    missing,
    times_contained,
)
from geomae.catalog.schema import ALL, NAME_PATTERN
from geomae.catalog.times import TIME, column_remedy
from geomae.errors import CatalogError

FORM = "write NAME, NAME@split or NAME[column=value,column2>=value2,column3 in a|b]@split"
SIGNS = {"=": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}  # with the signs of filters
IN, OR = "in", "|"
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""


def _plain(others: str) -> str:
    """Expression for unquoted text: without signs, `others` included, and without spaces at either end."""
    sign = rf"'\"\\\[\]=,@{others}"
    return rf"[^\s{sign}](?:[^{sign}]*[^\s{sign}])?"


PLAIN = {
    name: re.compile(_plain(others), re.DOTALL) for name, others in (("column", "<>!"), ("value", ""), (IN, f"<>!{OR}"))
}
ATOMS = {name: re.compile(rf"\s*({QUOTED}|{one.pattern})\s*", re.DOTALL) for name, one in PLAIN.items()}
NAME = re.compile(NAME_PATTERN)
SIGN = re.compile(r"<=|>=|!=|=|<|>")
WORD_IN = re.compile(r"(?<=\s)in(?=\s|$)")


@dataclass(frozen=True)
class Condition:
    """A condition on a column: `sign` is one of SIGNS with one value, or `in` with one or several."""

    column: str
    sign: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        if self.sign != IN:
            return f"{_written(self.column, 'column')}{self.sign}{_written(self.values[0])}"
        column = _quoted(self.column) if WORD_IN.search(f" {self.column}") else _written(self.column, "column")
        return f"{column} in {OR.join(_written(one, IN) for one in self.values)}"


@dataclass(frozen=True)
class Selector:
    """The tiles of `dataset` in `split` (`all`: any split; None: not given) that meet all of `conditions`."""

    dataset: str
    conditions: tuple[Condition, ...] = ()
    split: str | None = None

    def __str__(self) -> str:
        listed = ",".join(map(str, self.conditions))
        return f"{self.dataset}{f'[{listed}]' if listed else ''}{f'@{self.split}' if self.split else ''}"


def parse_selector(text: str) -> Selector:
    """Parse a selector; `str` is the inverse. Raises CatalogError with the position and the allowed forms."""
    match = NAME.match(text)
    if match is None:
        _refuse(text, 0, "should begin with the name of a data set")
    dataset, at = match.group(), match.end()
    conditions: list[Condition] = []
    if text[at : at + 1] == "[":
        at = _read_conditions(text, at, conditions)
    split = None
    if text[at : at + 1] == "@":
        match = NAME.match(text, at + 1)
        if match is None:
            _refuse(text, at + 1, "should have the name of a split after @")
        split, at = match.group(), match.end()
    if at < len(text):
        _refuse(text, at, f"{text[at]!r} does not belong there")
    return Selector(dataset, tuple(conditions), split)


def resolve_selectors(
    catalog: Catalog, chosen: Sequence[str | Selector], fallback_split: str | None
) -> tuple[Selector, ...]:
    """The selectors to use: the `chosen` ones, else the catalogue's default list, else its only data set.

    A selector without a split gets `fallback_split`; in the result, the split None means all tiles. Raises CatalogError
    for an unknown data set, for a repeated selector, and where none is chosen among several data sets.
    """
    names: Sequence[str | Selector] = chosen or catalog.default or tuple(catalog.entries)
    if not chosen and not catalog.default and len(names) > 1:
        known = ", ".join(sorted(catalog.entries))
        raise CatalogError(
            f"{catalog.path}: holds several data sets; choose with --dataset, or list them under `default:`: {known}"
        )
    selectors = []
    for name in names:
        selector = parse_selector(name) if isinstance(name, str) else name
        catalog.entry(selector.dataset)
        split = selector.split or fallback_split
        selectors.append(replace(selector, split=None if split == ALL else split))
        if selectors[-1] in selectors[:-1]:
            raise CatalogError(f"selector {str(name)!r} is there twice; remove one of the two")
    return tuple(selectors)


def condition_mask(selector: Selector, columns: Columns, length: int) -> MaskN:
    """Mask of the `length` rows of `columns` that meet all conditions of `selector`; its split is ignored.

    Values are compared as text, or as numbers where the column holds numbers. With `time`, a year, month or day means
    the whole period. A missing value meets no condition. Raises CatalogError for an unknown column and for values that
    cannot be compared.
    """
    result_N = np.ones(length, dtype=bool)
    for condition in selector.conditions:
        name = condition.column
        if name not in columns:
            raise CatalogError(
                f"selector {str(selector)!r}: there is no column {name!r}; {column_remedy(name, columns)}"
            )
        try:
            result_N &= _meets(condition, np.asarray(columns[name]))
        except TypeError as error:
            raise CatalogError(f"selector {str(selector)!r}: {error}") from error
    return result_N


def _meets(condition: Condition, values_N: NDArray[Any]) -> MaskN:
    """Mask of rows that meet a condition. Raises TypeError, with a message for users, for incomparable values."""
    name, sign = condition.column, condition.sign
    if name == TIME and sign == IN:
        return times_contained((f"column {name!r}", values_N), condition.values, negated=False)
    if name == TIME or sign not in ("=", "!=", IN):
        wanted: Literal = condition.values[0]
        if name != TIME and (values_N.dtype.kind in "iuf" or _holds_numbers(values_N)):
            wanted = _number(condition.values[0])
            if wanted is None:
                raise TypeError(f"{name!r} holds numbers, but {condition.values[0]!r} is not a number; correct it")
        return Comparison(Name(name), SIGNS[sign], wanted).mask({name: values_N})
    present_N = ~missing(values_N)
    equal_N = np.zeros(len(values_N), dtype=bool)
    pairs = [(value, _number(value)) for value in condition.values]
    known: dict[Any, bool] = {}
    for index in np.flatnonzero(present_N):
        stored = values_N[index]
        key = (type(stored), stored)
        if key not in known:
            known[key] = any(_equals(stored, *pair) for pair in pairs)
        equal_N[index] = known[key]
    return present_N & ~equal_N if sign == "!=" else equal_N


def _holds_numbers(values_N: NDArray[Any]) -> bool:
    """Whether the first value that is not missing is a number."""
    if values_N.dtype.kind != "O":
        return False
    first = next((value for value in values_N if not is_missing(value)), None)
    return isinstance(first, (int, float, np.number)) and not isinstance(first, (bool, np.bool_))


def _equals(stored: object, value: str, wanted: float | None) -> bool:
    if isinstance(stored, (bool, np.bool_)):
        return str(bool(stored)).lower() == value.lower()
    if isinstance(stored, (int, float, np.number)):
        return wanted is not None and float(stored) == wanted
    return str(stored) == value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_conditions(text: str, at: int, conditions: list[Condition]) -> int:
    """Append the conditions in the bracket that opens at `at`; returns the position after the closing one."""
    while True:
        one, at = _read_condition(text, at + 1)
        if one.sign == "=" and any((one.column, "=") == (other.column, other.sign) for other in conditions):
            _refuse(text, at, f"names the column {one.column!r} twice")
        conditions.append(one)
        if text[at : at + 1] == "]":
            return at + 1
        if text[at : at + 1] != ",":
            _refuse(text, at, "should have , or ] after a condition")


def _read_condition(text: str, at: int) -> tuple[Condition, int]:
    start = at
    column, at = _read_atom(text, start, "a column", "column")
    sign = SIGN.match(text, at)
    expected = "a value for {!r} (quote what holds signs or is empty)"
    if sign is not None:
        if not column:
            _refuse(text, at, "names a column without a name")
        value, at = _read_atom(text, sign.end(), expected.format(column))
        return Condition(column, sign.group(), (value,)), at
    word, after = _word_in(text, start, at)
    if word is None:
        _refuse(text, at, f"should have {', '.join(SIGNS)} or {IN} after the column {column!r}")
    values: list[str] = []
    while not values or text[after : after + 1] == OR:
        value, after = _read_atom(text, after + bool(values), expected.format(word), IN)
        values.append(value)
    return Condition(word, IN, tuple(values)), after


def _word_in(text: str, start: int, end: int) -> tuple[str | None, int]:
    """The column before the word `in`, and the position after that word; (None, `end`) without one.

    An unquoted column was read up to `end` and includes the word and what follows it.
    """
    quoted = re.compile(rf"\s*({QUOTED})\s*", re.DOTALL).match(text, start)
    word = WORD_IN.search(f" {text[end:]}"[:4]) if quoted else WORD_IN.search(text, start, end)
    if word is None:
        return None, end
    if quoted:
        return _unquoted(quoted.group(1)), end + len(IN)
    return text[start : word.start()].strip(), word.end()


def _read_atom(text: str, at: int, expected: str, kind: str = "value") -> tuple[str, int]:
    match = ATOMS[kind].match(text, at)
    if match is None:
        _refuse(text, at, f"should have {expected}")
    return _unquoted(match.group(1)), match.end()


def _unquoted(written: str) -> str:
    return re.sub(r"\\(.)", r"\1", written[1:-1], flags=re.DOTALL) if written[0] in "'\"" else written


def _written(text: str, kind: str = "value") -> str:
    """Text without quotes where that is unambiguous, else in single quotes."""
    return text if PLAIN[kind].fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _refuse(text: str, at: int, problem: str) -> NoReturn:
    raise CatalogError(f"selector {text!r}, character {at + 1}: {problem}; {FORM}")
