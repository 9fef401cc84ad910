"""Comparison of attribute columns in which values may be missing: a missing value equals nothing and has no order.

The tree of a filter (Comparison, Combination) is computed here; `where` reads it from text.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MaskN = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]  # attributes by name, each of N rows
Literal = str | float | bool | None
Operand = tuple[str, NDArray[Any]]  # what messages call it, and its values (N rows, or 1 for a literal)

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
KINDS = {"b": "true or false", "i": "numbers", "u": "numbers", "f": "numbers", "U": "text", "T": "text"}


@dataclass(frozen=True)
class Name:
    """A column of the attributes."""

    name: str


@dataclass(frozen=True)
class Comparison:
    """`left sign right`; `sign` is one of the comparisons, `in` or `not in`, and then `right` is a tuple."""

    left: Name | Literal
    sign: str
    right: Name | Literal | tuple[Literal, ...]

    def mask(self, columns: Columns) -> MaskN:
        """Rows for which the comparison holds."""
        left = _values(self.left, columns)
        if isinstance(self.right, tuple):
            return contained(left, self.right, negated=self.sign == "not in")
        right = _values(self.right, columns)
        if self.left is None or self.right is None:
            absent_N = missing(left[1] if self.right is None else right[1])
            return absent_N if self.sign == "==" else ~absent_N
        return compare(left, self.sign, right)


@dataclass(frozen=True)
class Combination:
    """`and`, `or` of several parts, or `not` of one."""

    word: str
    parts: tuple["Comparison | Combination", ...]

    def mask(self, columns: Columns) -> MaskN:
        """Rows for which the combination holds."""
        masks = [part.mask(columns) for part in self.parts]
        if self.word == "not":
            return ~masks[0]
        result_N: MaskN = np.logical_and.reduce(masks) if self.word == "and" else np.logical_or.reduce(masks)
        return result_N


def is_missing(value: object) -> bool:
    """Whether an attribute's value is None, NaN or one of pandas' own missing values."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def missing(values_N: NDArray[Any]) -> MaskN:
    """Mask of the values that are missing."""
    if values_N.dtype.kind == "f":
        return np.asarray(np.isnan(values_N), dtype=bool)
    if values_N.dtype.kind != "O":
        return np.zeros(values_N.shape, dtype=bool)
    return np.array([is_missing(value) for value in values_N], dtype=bool)


def compare(left: Operand, sign: str, right: Operand) -> MaskN:
    """`left sign right`, row by row; false where either is missing.

    Raises TypeError with a message for people when text meets numbers, or true and false meet an order.
    """
    kinds = [kind for kind in (_kind(*left), _kind(*right)) if kind]
    if len(set(kinds)) > 1:
        raise TypeError(
            f"{left[0]} is {kinds[0]} and {right[0]} is {kinds[1]}; compare values of one type{_hint(kinds)}"
        )
    if "true or false" in kinds and sign not in ("==", "!="):
        raise TypeError(f"{left[0]} {sign} {right[0]}: true and false have no order; compare with == or !=")
    left_N, right_N = np.broadcast_arrays(left[1], right[1])
    present_N = ~(missing(left_N) | missing(right_N))
    result_N = np.zeros(present_N.shape, dtype=bool)
    if present_N.any():
        result_N[present_N] = OPERATORS[sign](left_N[present_N], right_N[present_N])
    return result_N


def contained(left: Operand, values: Sequence[Literal], *, negated: bool) -> MaskN:
    """Rows whose value is one of `values`, or with `negated` none of them; null among them stands for missing."""
    absent_N = missing(left[1])
    found_N = absent_N & (None in values)
    for value in values:
        if value is not None:
            one = np.empty(1, dtype=object)
            one[0] = value
            found_N |= compare(left, "==", (repr(value), one))
    return found_N if not negated else ~found_N & ~absent_N


def _values(operand: Name | Literal, columns: Columns) -> Operand:
    if isinstance(operand, Name):
        return f"column {operand.name!r}", np.asarray(columns[operand.name])
    one = np.empty(1, dtype=object)
    one[0] = operand
    return repr(operand), one


def _kind(label: str, values_N: NDArray[Any]) -> str | None:
    """What the values are, in words; None when all are missing."""
    if values_N.dtype.kind != "O":
        return KINDS.get(values_N.dtype.kind, str(values_N.dtype))
    kinds = {_kind_of(value) for value in values_N if not is_missing(value)}
    if len(kinds) > 1:
        raise TypeError(f"{label} holds both {' and '.join(sorted(kinds))}; make it one type in the table")
    return kinds.pop() if kinds else None


def _kind_of(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true or false"
    if isinstance(value, (int, float, np.number)):
        return "numbers"
    return "text" if isinstance(value, str) else type(value).__name__


def _hint(kinds: Sequence[str]) -> str:
    return " (text stands in quotes, numbers do not)" if set(kinds) == {"text", "numbers"} else ""
