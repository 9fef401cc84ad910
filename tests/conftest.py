"""What tests share: real data where it is present, a cache of their own, and the command as a process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Threads of one process that wait for each other, while others want the same cores, are slower than one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")


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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache out of the tests; all tests of a session share one."""
    os.environ["GEOMAE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):  # every process would compile all of torch again
        os.environ["PYTHONPYCACHEPREFIX"] = str(tmp_path_factory.mktemp("bytecode"))


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def geomae() -> Command:
    """Run the real command as a process: `geomae("pretrain", "--dry-run", cwd=tmp_path)`."""

    def run(*arguments: object, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from geomae.cli import main; main()", *map(str, arguments)]
        installed = Path(sys.executable).with_name("geomae")
        if installed.exists():
            command = [str(installed), *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
