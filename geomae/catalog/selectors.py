"""Selectors: `NAME`, `NAME@split`, `NAME[column=value,...]`, or both, choose tiles of a data set."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from geomae.catalog.catalog import Catalog
from geomae.catalog.filters import Columns, MaskN, missing
from geomae.catalog.schema import ALL, NAME_PATTERN
from geomae.errors import CatalogError, nearest

FORM = "write NAME, NAME@split or NAME[column=value,column2=value2]@split"
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
PLAIN = r"[^\s'\"\\\[\]=,@](?:[^'\"\\\[\]=,@]*[^\s'\"\\\[\]=,@])?"  # without quotes: no signs, no space at the ends
NAME = re.compile(NAME_PATTERN)
ATOM = re.compile(rf"\s*({QUOTED}|{PLAIN})\s*", re.DOTALL)


@dataclass(frozen=True)
class Selector:
    """Tiles of `dataset` in `split` (`all`: in any) that meet every one of `conditions`, pairs of column and value."""

    dataset: str
    conditions: tuple[tuple[str, str], ...] = ()
    split: str | None = None

    def __str__(self) -> str:
        listed = ",".join(f"{_written(column)}={_written(value)}" for column, value in self.conditions)
        return f"{self.dataset}{f'[{listed}]' if listed else ''}{f'@{self.split}' if self.split else ''}"


def parse_selector(text: str) -> Selector:
    """Read a selector; `str` writes it again. Raises CatalogError with the place and the forms there are."""
    match = NAME.match(text)
    if match is None:
        _refuse(text, 0, "should begin with the name of a data set")
    dataset, at = match.group(), match.end()
    conditions: list[tuple[str, str]] = []
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
    """The selectors to use: those that were `chosen`, else the catalogue's default list, else its only data set.

    A selector without a split gets `fallback_split`; in the result None stands for all tiles. Raises CatalogError for
    a data set that the catalogue has not, for a repeated selector, and when there is a choice that nobody made.
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
    """Mask of the `length` rows of `columns` that meet every condition of `selector`; its split is not looked at.

    A value is compared as text, with numbers as a number; a missing value meets no condition. Raises CatalogError for
    an unknown column.
    """
    result_N = np.ones(length, dtype=bool)
    for column, value in selector.conditions:
        if column not in columns:
            raise CatalogError(f"selector {str(selector)!r}: there is no column {column!r}; {nearest(column, columns)}")
        values_N = np.asarray(columns[column])
        present_N = ~missing(values_N)
        wanted = _number(value)
        for index in np.flatnonzero(present_N & result_N):
            present_N[index] = _equals(values_N[index], value, wanted)
        result_N &= present_N
    return result_N


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


def _read_conditions(text: str, at: int, conditions: list[tuple[str, str]]) -> int:
    """Append the conditions between the brackets, of which the first stands at `at`; returns the place after them."""
    while True:
        column, at = _read_atom(text, at + 1, "a column")
        if text[at : at + 1] != "=":
            _refuse(text, at, f"should have = after the column {column!r}")
        value, at = _read_atom(text, at + 1, f"a value for {column!r} (quote what holds signs or is empty)")
        if not column or column in dict(conditions):
            _refuse(text, at, f"names the column {column!r} twice" if column else "names a column without a name")
        conditions.append((column, value))
        if text[at : at + 1] == "]":
            return at + 1
        if text[at : at + 1] != ",":
            _refuse(text, at, "should have , or ] after a condition")


def _read_atom(text: str, at: int, expected: str) -> tuple[str, int]:
    match = ATOM.match(text, at)
    if match is None:
        _refuse(text, at, f"should have {expected}")
    written = match.group(1)
    if written[0] in "'\"":
        written = re.sub(r"\\(.)", r"\1", written[1:-1], flags=re.DOTALL)
    return written, match.end()


def _written(text: str) -> str:
    """Bare where that is unambiguous, else in single quotes."""
    if re.fullmatch(PLAIN, text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _refuse(text: str, at: int, problem: str) -> NoReturn:
    raise CatalogError(f"selector {text!r}, character {at + 1}: {problem}; {FORM}")
