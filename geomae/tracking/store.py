"""The address of the tracking store: which one is used, whether it can be written, and its user interface.

Nothing here imports MLflow, which takes seconds; `runs` does.
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
LOCKED_S = 5.0  # how long to wait for a database that another process has locked
STOPPING = (signal.SIGINT, signal.SIGTERM)
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
QUICK_S, PATIENT_S = "10", "60"
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    TIMEOUT: QUICK_S,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # forked data workers must not inherit an open connection
}


def resolve_uri(given: str | None) -> str:
    """Return the address of the store: `given`, else MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder.

    The path of a sqlite store is made absolute. Where `given` equals the variable apart from the user name and
    password, the variable is returned, with them. Raises ConfigError for a sqlite path that contains a question mark.
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
            f"{database}: in an MLflow address the path ends at a question mark; start the command in a folder without "
            "one, or name another store with --tracking-uri"
        )
    return f"{SQLITE}{database}" + (f"?{uri.partition('?')[2]}" if "?" in uri else "")


def database_path(uri: str) -> Path | None:
    """Return the absolute path of a sqlite store's file, and None for any other store."""
    name = uri.removeprefix(SQLITE).partition("?")[0]
    if not uri.startswith(SQLITE) or name in ("", ":memory:"):
        return None
    return Path.cwd() / name  # symbolic links are not resolved: messages then show the path that the user wrote


def artifact_root(uri: str) -> str | None:
    """Return the folder of a sqlite store's artifacts as a URI, and None where the tracking server chooses it."""
    database = database_path(uri)
    return None if database is None else (database.parent / "mlruns").as_uri()


def without_password(text: str) -> str:
    """Remove user names and passwords from the addresses in `text`."""
    return re.sub(r"://[^/\s]+@", "://", text)


def set_defaults() -> None:
    """Set MLflow's environment variables to few messages and short timeouts, unless the user has set them."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def trust_server() -> None:
    """Raise the default timeout after a server has answered once: it replies to an upload only after storing it."""
    if os.environ.get(TIMEOUT) == QUICK_S:
        os.environ[TIMEOUT] = PATIENT_S


def check_database(uri: str) -> None:
    """Raise OSError when a sqlite store cannot be written now; MLflow itself would retry for minutes."""
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
    """Create a sqlite store that does not exist yet. Raises OSError when the store cannot be written now."""
    path = database_path(uri)
    if path is not None and not path.exists():
        make_database(path, make_tables)
    check_database(uri)


def make_database(path: Path, make_tables: Callable[[str], object]) -> None:
    """Create the sqlite store `path`: its tables are made in a temporary file, which is renamed when complete.

    MLflow creates the tables in many steps. A process that ends in between would leave a file that cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder:
        made = Path(folder) / path.name
        check_database(f"{SQLITE}{made}")
        make_tables(f"{SQLITE}{made}")
        try:
            os.link(made, path)
        except FileExistsError:  # another process created it in the meantime
            pass
        except OSError:  # no hard links on this file system; a rename can race with that of another process
            if not path.exists():
                made.replace(path)


def ui(uri: str, host: str, port: int) -> int:
    """Run MLflow's user interface until it ends or is stopped. Returns its exit code, or 128 + the signal number.

    Raises ConfigError when the port is taken, or when the store is a tracking server, which has its own interface.
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
        # In a new session, so that `_end` reaches all the processes that the interface consists of.
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
        for one in STOPPING:  # under `uv run`, Ctrl-C arrives twice: from the terminal and passed on by uv
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
