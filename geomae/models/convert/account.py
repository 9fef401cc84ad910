"""What became of every key of a conversion."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BLOCK = re.compile(r"(.*?blocks\.)(\d+)(\..+)")


@dataclass
class Account:
    """Every key of the source and of the result, once.

    An entry is a key, where something is to be said followed by that in brackets: `pos_embed (computed)`. `taken` and
    `adapted` name keys of the source that went over as they were, or changed; `left` those that did not go over; `new`
    is what the result has and the source had not. `notes` are lines on what is no weight: bands, statistics, tiles.
    """

    taken: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The account for people: all keys; those of a row of blocks are one entry (`blocks.0-11.norm1.bias`)."""
        kinds = {"taken": self.taken, "adapted": self.adapted, "left": self.left, "new": self.new}
        said = [f"{kind} {len(keys)}{': ' if keys else ''}{', '.join(fold(keys))}" for kind, keys in kinds.items()]
        return said + self.notes

    def followed_by(self, later: "Account", names: Mapping[str, str]) -> "Account":
        """This conversion and then `later`, whose keys are those of `names` (key of our source -> its key)."""
        changed = {_key(entry): _remark(entry) for entry in later.adapted}
        result = Account(left=list(self.left), new=[*self.new, *later.new], notes=[*self.notes, *later.notes])
        for entry in [*self.taken, *self.adapted]:
            more = changed.get(names.get(_key(entry), ""))
            remarks = [one for one in (_remark(entry), more) if one]
            kind = result.adapted if remarks else result.taken
            kind.append(f"{_key(entry)} ({'; '.join(remarks)})" if remarks else entry)
        return result


def fold(entries: Iterable[str]) -> list[str]:
    """Entries in their order, where those that differ in the number of a block alone are one."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for entry in entries:
        block = BLOCK.fullmatch(entry)
        before, after = (block[1], block[3]) if block else (entry, "")
        numbers.setdefault((before, after), []).extend([int(block[2])] if block else [])
    return [f"{before}{_ranges(found)}{after}" for (before, after), found in numbers.items()]


def _ranges(numbers: list[int]) -> str:
    """`0-2,5` of 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _key(entry: str) -> str:
    return entry.partition(" (")[0]


def _remark(entry: str) -> str:
    return entry.partition(" (")[2].removesuffix(")")
