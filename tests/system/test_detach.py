"""A node in the background: begun when the command comes back, and stopped by its folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import GossipProcess, is_running, wait_until

from gossip.pidfile import running_pid

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]
QUIET = ("--listen", "tcp://127.0.0.1:0")


@pytest.fixture(autouse=True)
def no_node_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    for file in tmp_path.rglob("node.pid"):
        if pid := running_pid(file.parent):
            os.kill(pid, signal.SIGKILL)


def test_a_life_in_the_background(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """It trains once the command is back, in a session of its own, lets others in, and is stopped in order."""
    begun = start("node", write_spec(), "--detach", *QUIET, "--json", "--name", "a").result(60)
    run, pid = tmp_path / begun["run"], begun["pid"]
    assert begun["began"] == "training"
    assert running_pid(run) == pid != os.getpid()
    assert os.getsid(pid) == pid
    assert (run / "node.log").stat().st_mode & 0o077 == 0, "it holds a ticket"

    joined = start("node", "--join", begun["ticket"], "--detach", *QUIET, "--run-dir", "b", "--json").result(60)
    assert begun["ticket"].encode() not in Path(f"/proc/{joined['pid']}/cmdline").read_bytes()
    assert start("stop", "b", "--json").result(60)["result"]["outcome"] == "left"
    assert not is_running(joined["pid"])

    stopped = start("stop", "--json").result(60)  # the only one under runs/
    assert stopped["pid"] == pid
    assert stopped["result"]["steps"] > 0
    assert not is_running(pid)
    assert not (run / "node.pid").exists()
    assert "leaving: stopped by SIGTERM" in (run / "node.log").read_text()

    again = start("node", "--run-dir", begun["run"], "--detach", "--json").result(60)
    assert "resuming" in (run / "node.log").read_text()
    os.kill(again["pid"], signal.SIGKILL)
    wait_until(lambda: not is_running(again["pid"]), 10, "the node's end")
    nobody = start("stop", begun["run"])
    assert nobody.wait() == 1
    assert "no node of its own runs there" in nobody.err.read_text()


def test_a_node_that_cannot_begin_says_why(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """In the words it would have said in front of us; whether or not it had a folder by then."""
    spec = write_spec()
    for words, why in [
        (("--join", "hello, world!"), "not a ticket"),
        ((spec, "--listen", "tcp://192.0.2.1:7700"), "192.0.2.1"),
        ((spec, *QUIET, "--shard", "7"), "this experiment has shards 0 to 1"),
    ]:
        process = start("node", "--detach", *words)
        assert process.wait(60) == 1
        lines = process.err.read_text().splitlines()
        assert len(lines) == 1, process.story()
        assert why in lines[0]
    assert not [path for path in tmp_path.rglob("node.pid") if running_pid(path.parent)]


def test_of_several_nodes_stop_wants_to_know_which(start: Start, write_spec: WriteSpec) -> None:
    spec = write_spec()
    runs = [start("node", spec, "--fresh", "--detach", *QUIET, "--json").result(60)["run"] for _ in range(2)]
    process = start("stop")
    assert process.wait() == 1
    assert f"2 nodes run there; say which: {runs[0]}, {runs[1]}" in process.err.read_text()


def test_a_unit_is_made_of_a_node_that_has_begun_once(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """By its spec: it is begun, stopped, and its unit goes on from the folder; only the unit is printed."""
    process = start("unit", write_spec(), *QUIET, "--run-dir", "kept")
    assert process.wait(60) == 0, process.story()
    unit = process.out.read_text()
    assert unit.startswith("# Made by: gossip unit.")
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert not running_pid(tmp_path / "kept")
    again = start(*line.partition(" -m gossip ")[2].split(), name="again")
    again.run = tmp_path / "kept"
    again.wait_for("restored")
    again.ticket()
    again.interrupt(signal.SIGTERM)
    assert again.wait(30) == 0
