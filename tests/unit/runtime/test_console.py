"""What a person sees of a command."""

import contextlib
import io
import os

from geomae.runtime.console import Screen


def test_a_name_that_the_terminal_cannot_write_is_shown_by_its_numbers():
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(terminal):
        screen = Screen()
        screen.result(os.fsdecode(b"caf\xe9.tif") + ", 東京.tif")
        screen.table("", ["file"], [[os.fsdecode(b"caf\xe9.tif")]])
    terminal.flush()
    lines = terminal.buffer.getvalue().decode("ascii").splitlines()
    assert lines[0] == r"caf\udce9.tif, \u6771\u4eac.tif"
    assert r"caf\udce9.tif" in lines[-1]


def test_progress_says_how_fast_it_goes_and_for_how_long_still(monkeypatch):
    times = iter((0.0, 0.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0))
    monkeypatch.setattr("geomae.runtime.console.time.monotonic", lambda: next(times))
    terminal = io.StringIO()
    with contextlib.redirect_stderr(terminal):
        screen = Screen()
        for done in (100, 20_100, 100_100):
            screen.step("auditing many", done, 200_100)
    assert "auditing many 20100/200100 2,000/s, 1:30 left" in terminal.getvalue().splitlines()


def test_rare_steps_have_their_duration_in_place_of_a_rate_of_zero(monkeypatch):
    times = iter((0.0, 0.0, 40.0, 40.0, 40.0))
    monkeypatch.setattr("geomae.runtime.console.time.monotonic", lambda: next(times))
    terminal = io.StringIO()
    with contextlib.redirect_stderr(terminal):
        screen = Screen()
        for done in (1, 3):
            screen.step("probing encoders", done, 8)
    assert "probing encoders 3/8 20 s each, 1:40 left" in terminal.getvalue().splitlines()


def test_a_table_in_a_file_is_as_wide_as_it_needs():
    terminal = io.StringIO()
    with contextlib.redirect_stdout(terminal):
        Screen().table("scores", [f"a long heading {n}" for n in range(12)], [[f"value {n}" for n in range(12)]])
    title, heading, row = (line.strip() for line in terminal.getvalue().splitlines())
    assert title == "scores"
    assert heading.split("  ")[-1].strip() == "a long heading 11" and row.endswith("value 11")
