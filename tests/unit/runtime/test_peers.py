"""A rank that dies is named, and the others end."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

from geomae.runtime.peers import take_leave, watch_peers

FORK = multiprocessing.get_context("fork")


def rank_process(rank, ranks, pipes, log, ending):
    """One rank, that waits until it is ended, or ends as `ending` says."""
    sys.stderr = log.open("a")

    def broadcast(value):
        if rank == 0:
            for pipe in pipes[1:]:
                pipe[0].send(value)
            return value
        return pipes[rank][1].recv()

    watch_peers(rank, ranks, 1, broadcast)
    (log.parent / f"ready-{rank}").touch()
    if ending == "done":
        take_leave(well=True)
        return
    if ending == "error" and rank == 1:
        take_leave(well=False)
        os._exit(0)
    time.sleep(60)


@pytest.fixture
def start(tmp_path):
    """Ranks that are connected, and what they say."""
    processes = []

    def started(ranks, ending="wait"):
        pipes = [FORK.Pipe() for _ in range(ranks)]
        log = tmp_path / "log"
        processes.extend(
            FORK.Process(target=rank_process, args=(rank, ranks, pipes, log, ending)) for rank in range(ranks)
        )
        for one in processes:
            one.start()
        while ending == "wait" and len(list(tmp_path.glob("ready-*"))) < ranks:
            time.sleep(0.01)
        return processes, log

    yield started
    for one in processes:
        one.kill()


@pytest.mark.parametrize("dead", [0, 2])
def test_a_rank_that_is_killed_is_named_and_the_others_end(start, dead):
    processes, log = start(4)
    begun = time.monotonic()
    processes[dead].kill()
    for one in processes:
        one.join(30)
    assert time.monotonic() - begun < 30
    assert [one.exitcode for one in processes] == [-signal.SIGKILL if rank == dead else 1 for rank in range(4)]
    lines = log.read_text().splitlines()
    assert f"error: rank {dead} on " in lines[0] and "ended before its work was done" in lines[0]
    assert len(lines) == (1 if dead else 3)


def test_ranks_whose_work_is_done_end_in_any_order(start):
    processes, log = start(3, "done")
    for one in processes:
        one.join(30)
    assert [one.exitcode for one in processes] == [0, 0, 0]
    assert log.read_text() == ""


def test_an_error_of_one_rank_ends_the_others_after_a_while(start, monkeypatch):
    monkeypatch.setattr("geomae.runtime.peers.GRACE_S", 0.1)
    processes, log = start(3, "error")
    for one in processes:
        one.join(30)
    assert [one.exitcode for one in processes] == [1, 0, 1]
    assert "error: rank 1 on " in log.read_text()
    assert "stopped at an error; all ranks end" in log.read_text()
