"""Detection of ranks that die: the dead rank is named, and the others end instead of waiting for it.

Every rank keeps a connection to rank 0. The kernel closes it whenever the process ends, and detects within seconds
that a machine is gone. Before a rank ends it sends a message; a connection that closes without one means that its rank
has died. Rank 0 then prints which rank it was and informs the others, and all end with exit code 1.
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

DONE, ERROR = b"done", b"error"  # a rank's last message; with ERROR it has printed the error itself
GIVE_UP = b"end"  # sent by a rank that ends because another one has died or failed
GRACE_S = 5.0  # time for the others to end on their own, where all ranks raise the same error
CONNECT_S = 60.0
PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a silent machine counts as lost after 20 s
LONGEST = 4096  # bytes of a message
_CONNECTIONS: dict[socket.socket, str] = {}  # connections of this rank -> description of the rank at the other end


def watch_peers(rank: int, ranks: int, nodes: int, broadcast: Callable[[Any], Any]) -> None:
    """Connect all ranks, and end this process when another rank dies from now on. Every rank must call this once.

    `broadcast` returns rank 0's object on all ranks.
    """
    if rank == 0:
        with socket.create_server(("" if nodes > 1 else "127.0.0.1", 0), backlog=ranks) as server:
            server.settimeout(CONNECT_S)
            token = secrets.token_hex()  # rejects connections of other programs that find the port
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
    """Tell the other ranks that this one is about to end: with its work done (`well`), or by an error."""
    for connection in _CONNECTIONS:
        with contextlib.suppress(OSError):
            connection.sendall(DONE if well else ERROR)
    _CONNECTIONS.clear()


def _accept(server: socket.socket, ranks: int, token: str) -> None:
    """Wait for the connections of all other ranks; each sends the token and its description."""
    while len(_CONNECTIONS) < ranks - 1:
        connection, _ = server.accept()
        connection.settimeout(CONNECT_S)
        said = connection.recv(LONGEST, socket.MSG_WAITALL).decode(errors="replace").strip()
        if secrets.compare_digest(said.partition(" ")[0].encode(), token.encode()):
            _CONNECTIONS[_probed(connection)] = said.partition(" ")[2]


def _probed(connection: socket.socket) -> socket.socket:
    """Switch on keep-alive probes, so that the connection closes soon after the machine at its other end is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PROBES.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def _watch(connections: Mapping[socket.socket, str]) -> None:
    """Wait for the last message of each other rank; end this process when a rank dies or fails."""
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
            elif said == GIVE_UP:  # the sender has printed what is wrong
                os._exit(1)
            elif not said.startswith(DONE):
                _end(f"{who} ended before its work was done", waiting)


def _end(problem: str, others: Mapping[socket.socket, str]) -> None:
    """Print what is wrong, inform the others, and end this process."""
    if not _CONNECTIONS:
        return  # this rank's work is done too
    for connection in others:
        with contextlib.suppress(OSError):
            connection.sendall(GIVE_UP)
    print(f"error: {problem}; all ranks end; start again with the same --out", file=sys.stderr, flush=True)
    os._exit(1)
