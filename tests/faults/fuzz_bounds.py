"""What no case of a fuzz campaign may do: end in a traceback, read outside its folder, take a GiB or ten seconds.

An audit hook hears what Python opens. GDAL opens files in C, which it does not hear: of the decoys, which lie outside
where a catalogue, a link or a side file could lead to, the kernel (inotify) tells every opening, whoever opens them.
What neither sees is GDAL opening a file outside that is no decoy; and a folder outside that a pattern reaches through a
link may be listed before it is refused. A hook cannot be taken off: a campaign has a process of its own.
"""

import contextlib
import ctypes
import faulthandler
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geomae.commands.catalog_check import run
from geomae.commands.options import CommonOptions
from geomae.errors import GeomaeError

LONGEST_S = 10  # of processor time: on a machine that others use too, a clock on the wall measures them
LARGEST_MIB = 1024
STOP_MIB = 3072  # what would take more gets a MemoryError, before the machine is out of memory
STUCK_S = 600  # on the wall: whoever sleeps, or is in C, where no signal is heard, ends with all stacks
PROJECT = Path(__file__).parents[2]
OWN = (sys.prefix, sys.base_prefix, str(PROJECT), "/proc", "/dev/null", "/sys", "/usr/share/zoneinfo", "/etc/localtime")
IN_OPEN, IN_ISDIR, IN_Q_OVERFLOW, IN_NONBLOCK = 0x20, 0x40000000, 0x4000, 0x800
EVENT = struct.Struct("iIII")


def peak_mib() -> int:
    """The most memory this program has held; `getrusage` would count what its parent held when it started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) >> 10


class TooLong(BaseException):
    """A case took more than LONGEST_S; no `except Exception` takes it for a fault of the data."""


@dataclass
class Figures:
    """What a campaign measured; `outcomes` counts its cases by how they ended."""

    cases: int = 0
    seconds: float = 0.0
    peak_mib: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    outcomes: dict[str, int] = field(default_factory=dict)

    def count(self, outcome: str) -> None:
        """One more case that ended so."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Outcome:
    """How `catalog check` ended: with an error or without, what it showed, and what it wrote into audit.json."""

    error: GeomaeError | None
    shown: str
    audit: dict[str, Any]


class Bounds:
    """Runs cases below `folder`, and says of each whether it kept within the bounds."""

    def __init__(self, folder: Path, decoys: Sequence[Path]) -> None:
        self.folder = folder
        self.figures = Figures()
        inside = (folder / name for name in ("catalogue", "cache", "out"))
        self.allowed = tuple(os.path.realpath(one) for one in (*inside, *OWN))
        self.read: set[str] = set()
        self.decoys = _Watch(decoys)
        self.listening = False
        os.environ["GEOMAE_CACHE"] = str(folder / "cache")
        resource.setrlimit(resource.RLIMIT_DATA, (STOP_MIB << 20, resource.RLIM_INFINITY))
        signal.signal(signal.SIGPROF, _too_long)
        warnings.simplefilter("error")
        sys.addaudithook(self._hear)

    def check(self, catalog: Path, selectors: Sequence[str], what: str, *, outside: bool = False) -> Outcome:
        """`geomae catalog check` of one catalogue. Raises where it leaves a bound; `what` names the case."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        self.read.clear()
        self.decoys.opened()
        start = time.process_time()
        with self._limited():
            error, shown = _check(catalog, selectors, out)
        seconds = time.process_time() - start
        touched = sorted(self.read | self.decoys.opened())
        self._measure(seconds, what)
        assert outside or not touched, f"read outside of the catalogue's folder: {touched}"
        assert self.figures.peak_mib < LARGEST_MIB, f"{self.figures.peak_mib} MiB"
        if error is not None:
            message = str(error)
            assert message.strip(), "an error without words"
            assert len(message) < 2000 + 2 * len(f"{what}{selectors}"), f"an error of {len(message)} characters"
        written = out / "audit.json"
        audit = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
        return Outcome(error, shown, audit)

    def _measure(self, seconds: float, what: str) -> None:
        figures = self.figures
        figures.cases += 1
        figures.seconds += seconds
        if seconds > figures.slowest_s:
            figures.slowest_s, figures.slowest = seconds, what
        figures.peak_mib = peak_mib()

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
        self.listening = True
        try:
            yield
        finally:
            self.listening = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listening or event != "open":
            return
        path = arguments[0]
        if isinstance(path, (str, bytes)) and not self._is_inside(os.fsdecode(path)):
            self.read.add(os.fsdecode(path))

    def _is_inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == one or real.startswith(f"{one}/") for one in self.allowed)


class _Watch:
    """Openings of what lies in some folders, by anyone."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.handle = self.libc.inotify_init1(IN_NONBLOCK)
        assert self.handle >= 0, os.strerror(ctypes.get_errno())
        self.folders: dict[int, Path] = {}
        for folder in folders:
            number = self.libc.inotify_add_watch(self.handle, os.fsencode(folder), IN_OPEN)
            assert number >= 0, os.strerror(ctypes.get_errno())
            self.folders[number] = folder

    def opened(self) -> set[str]:
        """What was opened since the last call."""
        found = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.handle, 1 << 16):
                while data:
                    number, mask, _, length = EVENT.unpack_from(data)
                    name = data[EVENT.size : EVENT.size + length].rstrip(b"\0")
                    data = data[EVENT.size + length :]
                    if not mask & (IN_ISDIR | IN_Q_OVERFLOW):  # links in circles are listed until the queue is full
                        found.add(str(self.folders[number] / os.fsdecode(name)))
        return found


def _too_long(number: int, frame: object) -> None:
    raise TooLong(f"more than {LONGEST_S} s")


def _check(catalog: Path, selectors: Sequence[str], out: Path) -> tuple[GeomaeError | None, str]:
    """The command as a person starts it: shown on an output of UTF-8 that refuses what is none, warnings are faults."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    error_output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error_output):
        try:
            run(CommonOptions(catalog=catalog, out=out), selectors)
        except GeomaeError as error:
            return error, ""
        output.flush()
        error_output.flush()
    return None, (output.buffer.getvalue() + error_output.buffer.getvalue()).decode()
