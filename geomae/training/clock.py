"""How fast a training is, and how much of its time it waits for data."""

import time


class Clock:
    """Tiles per second, and the share of the time that was spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was counted: validation and saving are not training time."""
        self._start, self._waited, self._tiles, self._entered = time.perf_counter(), 0.0, 0, 0.0

    def waiting(self) -> "Clock":
        """Count the time of the `with` block as waiting."""
        return self

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *unused: object) -> None:
        self._waited += time.perf_counter() - self._entered

    def count(self, tiles: int) -> None:
        """Note that a step has gone through `tiles` tiles."""
        self._tiles += tiles

    def lap(self) -> dict[str, float]:
        """Figures since the last lap."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        figures = {"tiles_per_s": self._tiles / seconds, "data_wait_share": self._waited / seconds}
        self.restart()
        return figures
