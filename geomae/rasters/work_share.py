"""Division of a list of work among processes, and exchange of their results."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

MOST_THREADS = 16  # each thread holds the pixels of its piece in memory
Item = TypeVar("Item")


def reading_threads(processes: int = 1) -> int:
    """The number of reading threads for each of `processes` processes on this machine: one per available core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // processes, MOST_THREADS))


def _alone(own: Any) -> list[Any]:
    return [own]


@dataclass(frozen=True)
class WorkShare:
    """This process is number `rank` of `ranks`; `exchange` gathers a value of each process, by rank, in all of them."""

    rank: int = 0
    ranks: int = 1
    exchange: Callable[[Any], list[Any]] = _alone

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `ranks`-th item, starting at `rank`, because neighbours in a list have similar cost."""
        return items[self.rank :: self.ranks]

    @property
    def leads(self) -> bool:
        """Whether this process writes the results of all."""
        return self.rank == 0


ALONE = WorkShare()
