"""What a person sees: a table that fits the terminal, plain lines where there is none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import GOSSIP, ONE_THREAD, GossipProcess, wait_until

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]
COLUMNS = 80
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def screen_of(words: list[str], cwd: Path, until: str = "") -> tuple[str, int]:
    """All that a command wrote to a terminal of 80 columns, and its exit status. Ctrl-C once it wrote `until`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    env = os.environ | ONE_THREAD | {"TERM": "xterm"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(
        [*GOSSIP, *words], cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=env, process_group=0
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    text = bytearray()

    def has_ended() -> bool:
        nonlocal until
        with contextlib.suppress(OSError):  # nothing there yet, or the other end is closed
            text.extend(os.read(ours, 65_536))
        if until and until.encode() in text:
            until = ""
            process.send_signal(signal.SIGINT)
        return process.poll() is not None

    try:
        wait_until(has_ended, 60.0, f"{words} ends; {text.decode()[-2000:]}")
        with contextlib.suppress(OSError):
            while more := os.read(ours, 65_536):
                text.extend(more)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return text.decode(), process.returncode


def rows(screen: str) -> list[str]:
    """Lines as they stand on the terminal, but for what is made to be copied whole: tickets and paths."""
    plain = [ESCAPE.sub("", line).rsplit("\r", 1)[-1] for line in screen.replace("\r\n", "\n").split("\n")]
    return [line for line in plain if not line.startswith(("gossip node --join", "run folder", "picture"))]


@pytest.mark.slow
def test_a_swarm_on_a_terminal_is_a_table_that_fits(write_spec: WriteSpec, tmp_path: Path) -> None:
    spec = write_spec(train_samples=4_000_000)
    screen, status = screen_of(["train", str(spec), "--nodes", "2", "--alone-steps", "50", "--json"], tmp_path)
    assert status == 0, screen
    assert "\x1b[?25l" in screen, "the table was never drawn"
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l"), "the cursor stayed hidden"
    table = rows(screen)
    assert any(line.startswith("n0") and "training" in line for line in table), screen
    *shown, last = [line for line in table if line.strip()]
    assert json.loads(last)["nodes"]
    assert [line for line in shown if len(line) > COLUMNS] == []
    assert "…" not in screen, "a column was cut short"


def test_a_node_stopped_on_a_terminal_gives_the_cursor_back(write_spec: WriteSpec, tmp_path: Path) -> None:
    screen, status = screen_of(["node", str(write_spec()), "--listen", "tcp://127.0.0.1:0"], tmp_path, until="training")
    assert status == 0, screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")
    assert "leaving: stopped by SIGINT" in screen


@pytest.mark.slow
def test_without_a_terminal_there_are_plain_lines(start: Start, write_spec: WriteSpec) -> None:
    swarm = start("train", write_spec(train_samples=4_000_000), "--nodes", 2, "--alone-steps", 0)
    assert swarm.wait(60) == 0, swarm.story()
    text = swarm.out.read_text()
    assert "\x1b" not in text
    assert "\r" not in text
    assert re.search(r"^ *\d+%  \d nodes? training  worst accuracy .* samples/s", text, re.M), text
    assert not swarm.err.read_text()
