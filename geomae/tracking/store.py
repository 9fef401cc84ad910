"""Where runs are tracked, as an address: which store counts, whether it can be written, and its user interface.

Everything here works without importing MLflow, which takes seconds; `tracking` does the rest.
"""

import contextlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from geomae.errors import ConfigError

SQLITE = "sqlite:///"
LOCKED_S = 5.0  # how long to wait for a database that another process is writing
STOPPING = (signal.SIGINT, signal.SIGTERM)
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
QUICK_S, PATIENT_S = "10", "60"
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    TIMEOUT: QUICK_S,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # no open database is carried into forked data workers
}


def resolve_uri(given: str | None) -> str:
    """Say which store counts: `given`, else MLFLOW_TRACKING_URI, else `mlflow.db` here; sqlite paths absolute.

    Where both are one address, and the variable's has a user's name and password, these count. Raises ConfigError for
    a sqlite store whose path no address can hold.
    """
    own = os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or own or f"{SQLITE}mlflow.db"
    if own and without_password(own) == uri:
        uri = own
    database = database_path(uri)
    if database is None:
        return uri
    if "?" in str(database):
        raise ConfigError(
            f"{database}: an address of MLflow ends its path at a question mark; start the command in a folder without "
            "one, or name another store with --tracking-uri"
        )
    return f"{SQLITE}{database}" + (f"?{uri.partition('?')[2]}" if "?" in uri else "")


def database_path(uri: str) -> Path | None:
    """Give the absolute path of a sqlite store's file; None for every other store."""
    name = uri.removeprefix(SQLITE).partition("?")[0]
    if not uri.startswith(SQLITE) or name in ("", ":memory:"):
        return None
    return Path.cwd() / name  # not resolved: a link stays the name that people know


def artifact_root(uri: str) -> str | None:
    """Give the folder, as a URI, that holds the artifacts of a sqlite store; None where the server decides."""
    database = database_path(uri)
    return None if database is None else (database.parent / "mlruns").as_uri()


def without_password(text: str) -> str:
    """Give the text without user names and passwords of the addresses in it."""
    return re.sub(r"://[^/\s]+@", "://", text)


def set_defaults() -> None:
    """Make MLflow quiet and quick to give up, where its user has not said otherwise in the environment."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def trust_server() -> None:
    """Wait longer for a server that has answered: it stores a large file before it says so."""
    if os.environ.get(TIMEOUT) == QUICK_S:
        os.environ[TIMEOUT] = PATIENT_S


def check_database(uri: str) -> None:
    """Raise OSError when a sqlite store cannot be written now; MLflow itself tries for minutes before it says so."""
    path = database_path(uri)
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=LOCKED_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.Error as error:
        raise OSError(str(error)) from error


def ready_database(uri: str, make_tables: Callable[[str], object]) -> None:
    """Make a sqlite store where there is none; raise OSError when it cannot be written now."""
    path = database_path(uri)
    if path is not None and not path.exists():
        make_database(path, make_tables)
    check_database(uri)


def make_database(path: Path, make_tables: Callable[[str], object]) -> None:
    """Make the tables of a sqlite store beside `path`, which gets its name when all are there.

    MLflow makes them in many steps. A process that ends in between would leave a file that no other can open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder:
        made = Path(folder) / path.name
        check_database(f"{SQLITE}{made}")
        make_tables(f"{SQLITE}{made}")
        try:
            os.link(made, path)
        except FileExistsError:  # another process was quicker
            pass
        except OSError:  # no hard links here: a rename, whose only fault is that two can make it at the same moment
            if not path.exists():
                made.replace(path)


def ui(uri: str, host: str, port: int) -> int:
    """Run MLflow's user interface on a store until it ends or is stopped; its exit code, or 128 + the signal's number.

    Raises ConfigError when the port is taken, or when the store is a server, which has an interface of its own.
    """
    if uri.startswith(("http://", "https://")):
        raise ConfigError(f"{without_password(uri)} is a tracking server; open this address in a browser")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"{host}:{port} cannot be served ({error.strerror}); choose another --port") from error
    set_defaults()
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"{address}: choose `Model training` at the upper left once; new MLflow begins with GenAI", file=sys.stderr)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    root = artifact_root(uri)
    command += ["--workers", "1", *(["--default-artifact-root", root] if root else [])]
    with _signals_raise():
        # A session of its own: the interface consists of several processes, and all of them have to end.
        child = subprocess.Popen(command, start_new_session=True)
        try:
            return child.wait()
        except _StoppedError as stopped:
            return 128 + stopped.number
        finally:
            _end(child)


class _StoppedError(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for one in STOPPING:  # Ctrl-C reaches a process twice where `uv run` passes it on: once is enough
            signal.signal(one, signal.SIG_IGN)
        raise _StoppedError(number)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
