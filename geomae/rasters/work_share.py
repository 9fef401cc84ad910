"""Which part of a list of work is this process's, and how the parts of all processes come together."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

MOST_THREADS = 16  # each holds the pixels of its piece
Item = TypeVar("Item")


def reading_threads(processes: int = 1) -> int:
    """Threads that read, for each of some processes of this machine: one per core that they may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // processes, MOST_THREADS))


def _alone(own: Any) -> list[Any]:
    return [own]


@dataclass(frozen=True)
class WorkShare:
    """This process is the `rank`-th of `ranks`; `exchange` gives what each has, in their order, to all of them."""

    rank: int = 0
    ranks: int = 1
    exchange: Callable[[Any], list[Any]] = _alone

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `ranks`-th item, from that of this process on: neighbours in a list are alike and cost the same."""
        return items[self.rank :: self.ranks]

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have found."""
        return self.rank == 0


ALONE = WorkShare()
