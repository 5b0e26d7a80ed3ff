"""A command that ends with whoever wants it, at any moment of its life or theirs; and otherwise is left to itself."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gossip.lifeline import Lifeline

# Holds a pipe as long as it or what it has started lives.
HOLDING = "exec 3>{pipe}; echo ready >&3; sleep 600 & sleep 600; true"


def holding(pipe: Path) -> list[str]:
    os.mkfifo(pipe)
    return ["sh", "-c", HOLDING.format(pipe=shlex.quote(str(pipe)))]


def ended(words: list[str]) -> tuple[int, str]:
    """The exit status of a command that is let run, and its words."""
    with Lifeline() as lifeline:
        process = lifeline.start(words)
        _, errors = process.communicate()
    return process.returncode, errors.decode()


def test_a_command_is_told_nothing_and_heard_out() -> None:
    """It runs as if we had started it: words as they are, nothing to read, its exit status and its errors."""
    assert ended(["sh", "-c", 'read line; echo "$1" >&2; exit 7', "sh", "two; $HOME"]) == (7, "two; $HOME\n")
    assert ended(["sh", "-c", "kill -TERM $$"]) == (128 + signal.SIGTERM, "")
    assert ended(["true"]) == (0, "")
    status, words = ended(["no-such-command"])
    assert status == 127 and "cannot be run" in words


def test_what_it_leaves_running_is_waited_for(tmp_path: Path) -> None:
    """As long as that may still complain: a copy is not made before it is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Lifeline() as lifeline:
        process = lifeline.start(["sh", "-c", '(read line < "$1"; echo late >&2) & exit 0', "sh", str(pipe)])
        pipe.write_text("go\n")
        assert process.communicate() == (None, b"late\n")
    assert process.returncode == 0


def test_a_closed_lifeline_ends_it_and_what_it_has_started(tmp_path: Path) -> None:
    words = holding(tmp_path / "pipe")
    with Lifeline() as lifeline:
        process = lifeline.start(words)
        with (tmp_path / "pipe").open() as held:
            assert held.readline() == "ready\n"
            lifeline.close()
            assert held.read() == ""
        assert process.communicate() == (None, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_guardian_ends_it_all(tmp_path: Path, number: int) -> None:
    """systemd's, to every process of a unit."""
    words = holding(tmp_path / "pipe")
    with Lifeline() as lifeline:
        process = lifeline.start(words)
        with (tmp_path / "pipe").open() as held:
            held.readline()
            process.send_signal(number)
            held.read()
        process.communicate()


def test_there_is_no_moment_at_which_it_is_out_of_reach(tmp_path: Path) -> None:
    """Closed before the guardian runs, while it starts the command, just after: whatever it had come to is gone."""
    words = holding(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # as if somebody listened
    os.set_blocking(held, True)
    for spins in (0, 0, 0, *range(0, 400_000, 10_000)):
        with Lifeline() as lifeline:
            process = lifeline.start(words)
            for _ in range(spins):
                pass
            lifeline.close()
            process.communicate()
        while os.read(held, 4096):  # until nobody holds the other end
            pass
    os.close(held)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_it_does_not_outlive_whoever_started_it(tmp_path: Path, number: int) -> None:
    """However that ended: nobody closes the lifeline but the kernel."""
    words = holding(tmp_path / "pipe")
    program = "import sys; from gossip.lifeline import Lifeline; it = Lifeline(); it.start(sys.argv[1:]).communicate()"
    owner = subprocess.Popen([sys.executable, "-c", program, *words])
    with (tmp_path / "pipe").open() as held:
        held.readline()
        owner.send_signal(number)
        held.read()
    assert owner.wait() == -number
