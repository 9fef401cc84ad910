"""The filter language of `where`: comparisons of attributes, parsed here, so that no text is executed.

A comparison with a missing value is false. `parse_filter` reads a filter into a tree of Comparison and Combination,
whose `mask` evaluates it.

filter     := conjunction ("or" conjunction)*
conjunction:= negation ("and" negation)*
negation   := "not" negation | "(" filter ")" | comparison
comparison := operand ("==" | "!=" | "<" | "<=" | ">" | ">=") operand | operand ["not"] "in" "[" literal, ... "]"
operand    := name | `name with spaces` | literal
literal    := number | 'text' | "text" | true | false | null
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from geomae.catalog.times import TIME, column_remedy, period
from geomae.errors import CatalogError

MaskN = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]  # attributes by name, each of N rows
Literal = str | float | bool | None
Operand = tuple[str, NDArray[Any]]  # its name in messages, and its values (N rows, or 1 for a literal)

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
KINDS = {"b": "true or false", "i": "numbers", "u": "numbers", "f": "numbers", "U": "text", "T": "text"}
LONGEST = 10_000  # characters; a filter is written by hand
DEEPEST = 50  # nested brackets and `not`
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}  # the equivalent sign with the sides exchanged
COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">="))
CONSTANTS: dict[str, Literal] = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
RESERVED = frozenset(("and", "or", "not", "in"))
REMEDIES = {
    "=": "write == to compare",
    "&": "write `and`",
    "&&": "write `and`",
    "|": "write `or`",
    "||": "write `or`",
    "!": "write `not`",
    ".": "attributes of attributes are not read; a column with a dot in its name goes between backticks",
    "(": "functions are not called; compare a column with a value",
}
TOKEN = re.compile(
    r"""\s*(?:
      (?P<date>\d{4}-\d\d(?:-\d\d(?:T[\d:.]+Z?)?)?(?!\w))
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<word>[^\W\d]\w*)
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<quoted>`[^`]+`)
    | (?P<sign>==|!=|<=|>=|&&|\|\||.)
    )""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Name:
    """A column of the attributes."""

    name: str


@dataclass(frozen=True)
class Comparison:
    """`left sign right`; `sign` is one of COMPARISONS, or `in` or `not in` with a tuple as `right`."""

    left: Name | Literal
    sign: str
    right: Name | Literal | tuple[Literal, ...]

    def mask(self, columns: Columns) -> MaskN:
        """Mask (N) of the rows for which the comparison is true."""
        left = _values(self.left, columns)
        if isinstance(self.right, tuple):
            if self.left == Name(TIME):
                return times_contained(left, self.right, negated=self.sign == "not in")
            return contained(left, self.right, negated=self.sign == "not in")
        if isinstance(self.right, str) and self.left == Name(TIME):
            return within_time(left, self.sign, self.right)
        right = _values(self.right, columns)
        if isinstance(self.left, str) and self.right == Name(TIME):
            return within_time(right, MIRRORED.get(self.sign, self.sign), self.left)
        if self.left is None or self.right is None:
            absent_N = missing(left[1] if self.right is None else right[1])
            return absent_N if self.sign == "==" else ~absent_N
        return compare(left, self.sign, right)


@dataclass(frozen=True)
class Combination:
    """Several parts joined by `and` or `or`, or `not` with one part."""

    word: str
    parts: tuple["Comparison | Combination", ...]

    def mask(self, columns: Columns) -> MaskN:
        """Mask (N) of the rows for which the combination is true."""
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
    """Evaluate `left sign right` by row; false where either is missing.

    Raises TypeError, with a message for users, where types differ, or booleans are compared by order.
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


def within_time(times: Operand, sign: str, text: str) -> MaskN:
    """Compare times (see `times`) with a text that names a year, month, day or second, meaning the whole period.

    So `time <= 2021-04` includes the last day of April, and `time == 2021-04-03` all of that day. Raises TypeError
    where the text is not such a period.
    """
    try:
        first, after = (_text_operand(one) for one in period(text))
    except ValueError as error:
        raise TypeError(f"{text!r} {error}") from error
    if sign in ("==", "!="):
        inside_N = compare(times, ">=", first) & compare(times, "<", after)
        return inside_N if sign == "==" else ~inside_N & ~missing(times[1])
    order, bound = {"<": ("<", first), "<=": ("<", after), ">": (">=", after), ">=": (">=", first)}[sign]
    return compare(times, order, bound)


def times_contained(times: Operand, values: Sequence[Literal], *, negated: bool) -> MaskN:
    """As `contained`, where a text means all of a year, month, day or second."""
    others = [value for value in values if not isinstance(value, str)]
    member_N = contained(times, others, negated=False)
    for value in values:
        if isinstance(value, str):
            member_N |= within_time(times, "==", value)
    return member_N if not negated else ~member_N & ~missing(times[1])


def _text_operand(text: str) -> Operand:
    return repr(text), np.array([text], dtype=object)


def contained(left: Operand, values: Sequence[Literal], *, negated: bool) -> MaskN:
    """Mask of rows whose value is one of `values`, or with `negated` none of them; null means a missing value."""
    absent_N = missing(left[1])
    member_N = absent_N & (None in values)
    for value in values:
        if value is not None:
            one = np.empty(1, dtype=object)
            one[0] = value
            member_N |= compare(left, "==", (repr(value), one))
    return member_N if not negated else ~member_N & ~absent_N


@dataclass(frozen=True)
class Token:
    """A token of a filter: its kind (number, date, word, text, quoted, sign, end), its text and its position."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Filter:
    """A parsed filter; `names` are the columns that it uses."""

    text: str
    tree: Comparison | Combination = field(repr=False)
    names: frozenset[str]

    def mask(self, columns: Columns) -> MaskN:
        """Mask (N) of the rows of `columns` (arrays of one length N) for which the filter is true.

        A comparison with a missing value (None, NaN) is false, also `!=` and `not in`; `== null` and `!= null` test for
        missing values. Raises CatalogError for an unknown column and for values that cannot be compared.
        """
        for name in sorted(self.names - set(columns)):
            raise CatalogError(f"{self.text!r}: there is no column {name!r}; {column_remedy(name, columns)}")
        try:
            return self.tree.mask(columns)
        except TypeError as error:
            raise CatalogError(f"{self.text!r}: {error}") from error


def parse_filter(text: str) -> Filter:
    """Parse a filter. Raises CatalogError, with position and remedy, for text that is not a valid filter."""
    if len(text) > LONGEST:
        raise CatalogError(f"the filter has {len(text)} characters; shorten it to {LONGEST}, or filter in the table")
    parser = _Parser(text)
    return Filter(text, parser.whole(), frozenset(parser.names))


def _values(operand: Name | Literal, columns: Columns) -> Operand:
    if isinstance(operand, Name):
        return f"column {operand.name!r}", np.asarray(columns[operand.name])
    one = np.empty(1, dtype=object)
    one[0] = operand
    return repr(operand), one


def _kind(label: str, values_N: NDArray[Any]) -> str | None:
    """The type of the values in words; None where all are missing. Raises TypeError for mixed types."""
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


def _tokens(text: str) -> Iterator[Token]:
    end = len(text.rstrip())
    at = 0
    while at < end and (match := TOKEN.match(text, at)):
        kind = match.lastgroup or ""
        yield Token(kind, match.group(kind), match.start(kind))
        at = match.end()
    yield Token("end", "", end)


class _Parser:
    """A recursive descent parser; `names` collects the columns."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.position = 0
        self.depth = 0
        self.names: set[str] = set()

    def whole(self) -> Comparison | Combination:
        """The tree of the whole text."""
        tree = self.chain("or")
        if self.next.kind != "end":
            self.refuse("does not belong there", self.remedy("join comparisons with `and` or `or`"))
        return tree

    @property
    def next(self) -> Token:
        """The next token."""
        return self.tokens[self.position]

    def take(self, *texts: str) -> Token | None:
        """Consume and return the next token if it is one of these words or signs, else None."""
        token = self.next
        if token.kind not in ("word", "sign") or token.text not in texts:
            return None
        self.position += 1
        return token

    def chain(self, word: str) -> Comparison | Combination:
        """Parse parts joined by `word`: `or` joins parts that `and` joins."""
        parts = [self.chain("and") if word == "or" else self.negation()]
        while self.take(word):
            parts.append(self.chain("and") if word == "or" else self.negation())
        return parts[0] if len(parts) == 1 else Combination(word, tuple(parts))

    def negation(self) -> Comparison | Combination:
        """Parse `not`, a filter in brackets, or a comparison."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.refuse(f"is nested more than {DEEPEST} deep", "write it flatter")
        if self.take("not"):
            tree: Comparison | Combination = Combination("not", (self.negation(),))
        elif self.take("("):
            tree = self.chain("or")
            if not self.take(")"):
                self.refuse("is where a bracket should close", self.remedy("add )"))
        else:
            tree = self.comparison()
        self.depth -= 1
        return tree

    def comparison(self) -> Comparison:
        """Parse one comparison."""
        start = self.next
        left = self.operand()
        if self.take("in"):
            return self.checked(Comparison(left, "in", self.listed()), start)
        if self.take("not"):
            if not self.take("in"):
                self.refuse("follows `not`", "write `not in`, or `not` before the comparison")
            return self.checked(Comparison(left, "not in", self.listed()), start)
        sign = self.take(*COMPARISONS)
        if sign is None:
            known = "compare with == != < <= > >= or `in [...]`, as in `purity >= 0.6`"
            self.refuse("is where a comparison should be", self.remedy(known))
        tree = self.checked(Comparison(left, sign.text, self.operand()), start)
        if None in (tree.left, tree.right) and sign.text not in ("==", "!="):
            self.refuse("follows an order with null", "compare null with == or !=", sign)
        if self.next.kind == "sign" and self.next.text in COMPARISONS:
            self.refuse("makes a chain", "write `a < b and b < c`")
        return tree

    def checked(self, tree: Comparison, start: Token) -> Comparison:
        """Return `tree`; refuse it where neither side is a column."""
        if not isinstance(tree.left, Name) and not isinstance(tree.right, Name):
            self.refuse("begins a comparison without a column", "name a column of the table", start)
        return tree

    def operand(self) -> Name | Literal:
        """Parse a column or a literal."""
        token = self.next
        if token.kind == "quoted" or (
            token.kind == "word" and token.text not in CONSTANTS and token.text not in RESERVED
        ):
            if token.text.startswith("__"):
                self.refuse("is not the name of an attribute", "name a column of the table")
            self.position += 1
            name = token.text.strip("`")
            self.names.add(name)
            return Name(name)
        return self.literal("a column or a value")

    def literal(self, expected: str = "a value") -> Literal:
        """Parse a number, text or constant; `expected` names in messages what is allowed."""
        token = self.next
        if token.kind == "number":
            value: Literal = float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        elif token.kind == "text":
            value = re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
        elif token.kind == "word" and token.text in CONSTANTS:
            value = CONSTANTS[token.text]
        else:
            quotable = token.kind == "date" or (token.kind == "word" and token.text not in RESERVED)
            remedy = f"put {'dates' if token.kind == 'date' else 'text'} in quotes" if quotable else f"write {expected}"
            self.refuse(f"is where {expected} should be", self.remedy(remedy))
        self.position += 1
        return value

    def listed(self) -> tuple[Literal, ...]:
        """Parse a list of literals in square brackets."""
        if not self.take("["):
            self.refuse("follows `in`", "write a list in square brackets, as in `['a', 'b']`")
        values: list[Literal] = []
        while not self.take("]"):
            values.append(self.literal())
            if not self.take(",") and self.next.text != "]":
                self.refuse("is where the list should go on", "separate values by commas and close with ]")
        return tuple(values)

    def remedy(self, otherwise: str) -> str:
        """The remedy for an unexpected next token; `otherwise` where it has no specific one."""
        if self.next.kind == "sign" and self.next.text in "+-*/%^@":
            return "nothing is computed; put the computed value in a column of the table"
        return REMEDIES.get(self.next.text, otherwise) if self.next.kind == "sign" else otherwise

    def refuse(self, problem: str, remedy: str, token: Token | None = None) -> NoReturn:
        """Raise CatalogError about `token`, by default the next one."""
        token = token or self.next
        shown = repr(token.text) if token.kind != "end" else "the end"
        raise CatalogError(f"{self.text!r}, character {token.at + 1}: {shown} {problem}; {remedy}")
