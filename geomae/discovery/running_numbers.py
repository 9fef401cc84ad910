"""Running numbers in names: `plot_s1` and `plot_s2` are not Sentinels, `line_L1` to `line_L9` are not Landsats.

A number is a running number if files with the same bands and data type have names that differ only in numbers, and
sensors cannot explain it: Sentinel-1 and Sentinel-2 never have the same bands, and only some numbers are Landsats.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

SHORT = re.compile(r"(?<![A-Za-z0-9])(?P<letter>[SL])(?P<number>\d+)", re.IGNORECASE)  # could also name a sensor
DIGITS = re.compile(r"\d+")
LANDSATS = frozenset(("4", "5", "7", "8", "9"))  # the Landsats whose imagery is read


def without_running_numbers(alike: Mapping[str, object]) -> Callable[[str], str]:
    """A function that replaces running numbers in a path by `#`; `alike` has the kind of each file, by path."""
    numbers: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for path, kind in alike.items():
        for key, match in _short(path):
            numbers[kind, *key].add(match["number"])
    running = {key[1:] for key, found in numbers.items() if _counts(str(key[-1]), found)}

    def telling(path: str) -> str:
        for key, match in reversed(list(_short(path))):
            if key in running:
                path = f"{path[: match.start('number')]}#{path[match.end('number') :]}"
        return path

    return telling


def _short(path: str) -> Iterator[tuple[tuple[object, ...], re.Match[str]]]:
    """Parts of a path that could name a sensor: (the path without numbers, position, letter), and the match."""
    shape = DIGITS.sub("#", path)
    for place, match in enumerate(SHORT.finditer(path)):
        yield (shape, place, match["letter"].upper()), match


def _counts(letter: str, numbers: set[str]) -> bool:
    return len(numbers) > 1 and (letter == "S" or not numbers <= LANDSATS)
