"""What tests share: real data where it is present, a cache of their own, and the command as a process."""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest
from helpers import SIXTY, called, command, options, write_catalog, write_scenes
from processes import forked

ROOT = Path(__file__).parents[1]
# Threads of one process that wait for each other, while others want the same cores, are slower than one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
WORKER_GIB = 3  # memory of a worker with the processes that its tests start
ABSENT = pytest.StashKey[list[str]]()
BESIDE = ("real satellite data is absent", "reference numbers are absent", "published weights are absent")


def pytest_addoption(parser: pytest.Parser) -> None:
    """A change that is meant shows as a diff of a file in tests/golden, which this option writes."""
    parser.addoption("--rewrite-golden", action="store_true", help="write the files of tests/golden anew")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores, where there is memory for it: tests wait for disks, signals and other processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores + 1, int(psutil.virtual_memory().total / 1024**3 / WORKER_GIB)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Remember what was skipped because real data or reference numbers are absent."""
    skipped = terminalreporter.stats.get("skipped", ())
    absent = [report.nodeid for report in skipped if any(one in str(report.longrepr) for one in BESIDE)]
    terminalreporter.config.stash[ABSENT] = sorted(absent)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Name it in the last line of the run, where nobody overlooks it."""
    absent = config.stash.get(ABSENT, [])
    if absent:
        print(f"{len(absent)} skipped, because real data are absent: {', '.join(absent)}")


@pytest.fixture(scope="session")
def rewrite_golden(pytestconfig: pytest.Config) -> bool:
    """Whether the files of tests/golden are written instead of compared."""
    return bool(pytestconfig.getoption("--rewrite-golden"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real satellite data beside the project."""
    folder = (ROOT / "../shared/data").resolve()
    if not (folder / "catalog.yaml").is_file():
        pytest.skip(f"the real satellite data is absent ({folder})")
    return folder


@pytest.fixture(scope="session")
def shared_parity() -> Path:
    """Reference numbers of the published masked autoencoder beside the project."""
    folder = (ROOT / "../shared/parity").resolve()
    if not folder.is_dir():
        pytest.skip(f"the reference numbers are absent ({folder})")
    return folder


@pytest.fixture(scope="session")
def shared_galileo() -> Path:
    """Published weights of Galileo nano, with the output of their authors' code, beside the project."""
    folder = (ROOT / "../shared/weights/galileo_nano").resolve()
    if not (folder / "expected.safetensors").is_file():
        pytest.skip(f"the published weights are absent ({folder})")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache out of the tests; all tests of a session share one."""
    os.environ["GEOMAE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session", autouse=True)
def _coarse_pictures() -> Iterator[None]:
    """Draw pictures with few dots, which takes less time; commands as processes of their own draw all."""
    from geomae.reports import canvas

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "DPI", 55)
        yield


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def geomae() -> Command:
    """Run the real command as a process: `geomae("pretrain", "--dry-run", cwd=tmp_path)`."""

    def run(
        *arguments: object, cwd: Path, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=cwd,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with scenes and no catalogue yet, which is the current folder."""
    write_scenes(tmp_path / "scenes", scenes=2, side=32)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of four small scenes with 64 tiles, for tests that only read it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_scenes(folder / "scenes")
    return write_catalog(folder)


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tracking store for all tests: to make its tables takes MLflow some seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def little_encoder() -> Iterator[None]:
    """Make the preset `tiny` smaller in this process, for tests of what is around a model and not of models."""
    from geomae.models.architecture import PRESETS, Size

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", Size(width=48, depth=4, heads=3))
        yield


@pytest.fixture(scope="session")
def sixty_steps(
    tiny_catalog: Path, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """Folders of runs of 60 steps that nothing interrupted, by number of processes; for tests that only read them.

    All workers of pytest share them: the first to ask trains, while the others wait.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    @cache
    def run(devices: int) -> Path:
        out = folder / f"sixty-steps-on-{devices}"
        with (folder / f"{out.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (out / "summary.json").is_file():
                done = (called if devices == 1 else forked)(
                    "pretrain", "--catalog", tiny_catalog, *options(*SIXTY), "--precision", "32", "--devices", devices,
                    "--tracking-uri", tracking_uri, "--out", out, cwd=folder,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
        return out

    return run
