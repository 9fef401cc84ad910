"""Work done ahead of its use by threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Made = TypeVar("Made")


def ahead(make: Callable[[Job], Made], jobs: Iterable[Job], threads: int) -> Iterator[Made]:
    """What `make` gives for each job, in order, made by `threads` threads ahead of its use (0: when asked for)."""
    if threads == 0:
        yield from map(make, jobs)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(make, job))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
