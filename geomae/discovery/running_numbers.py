"""Numbers in names that merely count: `plot_s1` and `plot_s2` are no Sentinels, `line_L1` to `line_L9` no Landsats.

A number counts where files alike in bands and type have names that differ in numbers only, and no sensors explain that:
Sentinel-1 and Sentinel-2 never have the same bands, and there are Landsats of a few numbers only.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

SHORT = re.compile(r"(?<![A-Za-z0-9])(?P<letter>[SL])(?P<number>\d+)", re.IGNORECASE)  # what may also name a sensor
DIGITS = re.compile(r"\d+")
LANDSATS = frozenset(("4", "5", "7", "8", "9"))  # whose imagery is read


def without_running_numbers(alike: Mapping[str, object]) -> Callable[[str], str]:
    """A function that gives a path with `#` for each number that counts; `alike` has what files are like, by path."""
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
    """What may name a sensor in a path: (the path without numbers, its place, its letter), and the match."""
    shape = DIGITS.sub("#", path)
    for place, match in enumerate(SHORT.finditer(path)):
        yield (shape, place, match["letter"].upper()), match


def _counts(letter: str, numbers: set[str]) -> bool:
    return len(numbers) > 1 and (letter == "S" or not numbers <= LANDSATS)
