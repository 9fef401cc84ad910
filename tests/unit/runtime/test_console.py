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
