"""A rank that dies is named, and the others end instead of waiting for it.

Every rank holds a connection to the first for as long as it works. The kernel closes it when a process ends, however
it ends, and finds within seconds that a machine is gone. A rank takes leave when its work is done; one whose connection
closes without that has died. The first rank then says which it was and tells the others, and all end with exit code 1.
"""

import contextlib
import os
import secrets
import select
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

DONE, ERROR = b"done", b"error"  # how a rank takes leave; after an error it has said itself what is wrong
GIVE_UP = b"end"
GRACE_S = 5.0  # in which the others end by themselves where all meet the same error
CONNECT_S = 60.0
PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # of a silent machine: it is lost after 20 s
LONGEST = 4096  # bytes of a message
_CONNECTIONS: dict[socket.socket, str] = {}  # of this rank, with whose is at the other end


def watch_peers(rank: int, ranks: int, nodes: int, broadcast: Callable[[Any], Any]) -> None:
    """Connect all ranks, and from now on end this process when another one dies. Every rank must call it, once.

    `broadcast` gives to all what the first has.
    """
    if rank == 0:
        with socket.create_server(("" if nodes > 1 else "127.0.0.1", 0), backlog=ranks) as server:
            server.settimeout(CONNECT_S)
            token = secrets.token_hex()  # whoever else finds the port is no rank
            broadcast((server.getsockname()[1], token))
            _accept(server, ranks, token)
        threading.Thread(target=_watch, args=(dict(_CONNECTIONS),), name="peers", daemon=True).start()
        return
    port, token = broadcast(None)
    host = os.environ.get("MASTER_ADDR", "127.0.0.1") if nodes > 1 else "127.0.0.1"
    first = _probed(socket.create_connection((host, port), timeout=CONNECT_S))
    first.sendall(f"{token} rank {rank} on {socket.gethostname()} (process {os.getpid()})".encode().ljust(LONGEST))
    _CONNECTIONS[first] = f"rank 0 on {host}"
    threading.Thread(target=_watch, args=(dict(_CONNECTIONS),), name="peers", daemon=True).start()


def take_leave(well: bool) -> None:
    """Tell the others that this rank ends, because its work is done or because of an error; before it does."""
    for connection in _CONNECTIONS:
        with contextlib.suppress(OSError):
            connection.sendall(DONE if well else ERROR)
    _CONNECTIONS.clear()


def _accept(server: socket.socket, ranks: int, token: str) -> None:
    """Wait for the connections of all other ranks, who say who they are."""
    while len(_CONNECTIONS) < ranks - 1:
        connection, _ = server.accept()
        connection.settimeout(CONNECT_S)
        said = connection.recv(LONGEST, socket.MSG_WAITALL).decode(errors="replace").strip()
        if secrets.compare_digest(said.partition(" ")[0].encode(), token.encode()):
            _CONNECTIONS[_probed(connection)] = said.partition(" ")[2]


def _probed(connection: socket.socket) -> socket.socket:
    """The connection, which closes soon after the machine at its other end is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PROBES.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def _watch(connections: Mapping[socket.socket, str]) -> None:
    """Listen to the others until all have taken leave; end this process when one does not."""
    waiting = dict(connections)
    while waiting:
        for connection in select.select(list(waiting), [], [])[0]:
            who = waiting.pop(connection)
            try:
                said = connection.recv(LONGEST)
            except OSError:
                said = b""
            if said.startswith(ERROR):
                timer = threading.Timer(GRACE_S, _end, (f"{who} stopped at an error", waiting))
                timer.daemon = True
                timer.start()
            elif said == GIVE_UP:  # by the first rank, which has said what is wrong
                os._exit(1)
            elif not said.startswith(DONE):
                _end(f"{who} ended before its work was done", waiting)


def _end(problem: str, others: Mapping[socket.socket, str]) -> None:
    """Say what is wrong, tell the others, and end this process."""
    if not _CONNECTIONS:
        return  # this rank's work is done, too
    for connection in others:
        with contextlib.suppress(OSError):
            connection.sendall(GIVE_UP)
    print(f"error: {problem}; all ranks end; start again with the same --out", file=sys.stderr, flush=True)
    os._exit(1)
