"""Ctrl-C, SIGTERM, and a launcher that is gone: whatever a process is doing, it ends, and keeps what it has."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import GossipProcess, is_running, patient, wait_until

from gossip.live.security import KeyPair
from gossip.live.tickets import mint
from gossip.observe import read_events

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]
STOPS = [signal.SIGINT, signal.SIGTERM]
GONE_WITHIN_S = 2.0
HUNG_WITHIN_S = 5.0  # with a backup that does not end


def check_saved(run: Path) -> None:
    assert (run / "model.safetensors").stat().st_size > 0
    assert json.loads((run / "run.json").read_text())["result"]["steps"] > 0


def status_after(process: GossipProcess, number: int) -> int:
    """Its exit status after a signal, which must take effect within GONE_WITHIN_S."""
    process.interrupt(number)
    return process.wait(GONE_WITHIN_S)


def nodes_of(launcher: GossipProcess, count: int) -> list[int]:
    """The process ids of the launcher's nodes, once `count` of them train."""

    def training() -> list[int] | None:
        logs = sorted((launcher.cwd / "runs").glob("*/nodes/*/events.jsonl"))
        stories = [{event["event"]: event for event in read_events(log)} for log in logs]
        pids = [story["started"]["pid"] for story in stories if "training" in story]
        assert launcher.process.poll() is None, launcher.story()
        return pids if len(pids) == count else None

    return wait_until(training, 30.0, f"{count} nodes train\n{launcher.story()}")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_training_node_says_goodbye_and_saves(start_node: Start, write_spec: WriteSpec, number: int) -> None:
    """In order: exit status 0, the model written, and the others hear of it at once."""
    first = start_node(write_spec(), name="first")
    second = start_node("--join", first.ticket(), "--json", name="second")
    second.wait_for("exchange_mixed")
    assert status_after(second, number) == 0
    assert json.loads(second.out.read_text().splitlines()[-1])["why"] == f"stopped by {signal.Signals(number).name}"
    check_saved(second.run)
    first.wait_for("member_left", 2.0)
    assert not first.all("member_dead")
    assert status_after(first, number) == 0
    check_saved(first.run)


@pytest.mark.parametrize("number", STOPS)
def test_a_node_that_has_nothing_to_lose_ends_where_it_stands(
    start: Start, start_node: Start, write_spec: WriteSpec, tmp_path: Path, number: int
) -> None:
    """While kernels compile, while Numba is imported: no traceback, no wait."""
    compiling = start_node(write_spec(), name="compiling", NUMBA_CACHE_DIR=str(tmp_path / "cold"))
    compiling.wait_for("started")
    importing = start_node(write_spec(), name="importing")
    maps = Path(f"/proc/{importing.process.pid}/maps")
    wait_until(lambda: "llvmlite" in maps.read_text(), 10.0, "the compiler is being imported")
    for process in (compiling, importing):
        assert status_after(process, number) == -number
        assert "Traceback" not in process.err.read_text()
        assert not (process.run / "model.safetensors").exists()


@pytest.mark.parametrize("number", STOPS)
def test_a_joining_node_ends_at_once(start_node: Start, number: int) -> None:
    """Whoever it knocks at does not answer; nobody has to wait for that to be given up."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(patient(10.0))
        seed = (f"127.0.0.1:{deaf.getsockname()[1]}", KeyPair.new().public)
        joiner = start_node("--join", mint(b"k" * 32, [seed], 600.0, now=time.time()).text())
        deaf.accept()
        assert status_after(joiner, number) == -number
    assert "Traceback" not in joiner.err.read_text()


def test_a_node_stopped_twice_ends_at_once(start_node: Start, write_spec: WriteSpec) -> None:
    """The first signal lets it finish its step and save; whoever is in a hurry asks again."""
    node = start_node(write_spec(model_preset="lenet", train_batch=8192), name="slow")  # a step takes seconds
    node.wait_for("training")
    node.interrupt()
    node.interrupt()
    assert node.wait(GONE_WITHIN_S) in (0, 130)


def test_a_step_that_takes_seconds_does_not_hold_up_ctrl_c(start_node: Start, write_spec: WriteSpec) -> None:
    """The step in hand is not waited for."""
    wide = ["conv 64 5x5 same", "relu", "conv 64 5x5 same", "relu", "dense classes"]
    node = start_node(write_spec(model_preset="", model_layers=wide, train_batch=4096), name="slow")
    node.wait_for("training")
    assert status_after(node, signal.SIGINT) == 0


@pytest.mark.parametrize("number", STOPS[:1])
def test_a_settling_node_leaves_in_order(start: Start, start_node: Start, write_spec: WriteSpec, number: int) -> None:
    """It waits for a member that trains no more, because it is stopped: it does not have to."""
    first = start_node(write_spec(exchange_every_steps=4), name="first")
    second = start_node("--join", first.ticket(), name="second")
    second.wait_for("training")
    os.kill(first.process.pid, signal.SIGSTOP)
    start("stop", "--run", second.ticket(), "--owner-key", first.run / "owner.key")
    second.wait_for("settling", 30.0)
    assert status_after(second, number) == 0
    check_saved(second.run)


def test_ctrl_c_ends_a_swarm_in_order(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """Everybody saves; what they have is added up; nothing is left running."""
    launcher = start("train", write_spec(), "--nodes", 2, "--json")
    pids = nodes_of(launcher, 2)
    began = time.monotonic()
    launcher.interrupt()
    result = launcher.result(GONE_WITHIN_S + 3.0)  # the time to write, and the mean model's accuracy
    assert time.monotonic() - began < patient(GONE_WITHIN_S + 3.0)
    assert [node["end"] for node in result["nodes"]] == ["left", "left"]
    assert not any(map(is_running, pids))
    run = tmp_path / "runs" / "test"
    assert {"model.safetensors", "run.json", "accuracy.svg"} <= {path.name for path in run.iterdir()}
    for name in ("n0", "n1"):
        check_saved(run / "nodes" / name)


@pytest.mark.slow
def test_all_nodes_of_a_swarm_are_copied_outside_and_hide_their_ticket(
    start: Start, write_spec: WriteSpec, tmp_path: Path
) -> None:
    """[node] is every node's, not the first one's alone; on no command line is there a ticket."""
    spec = write_spec(node_backup="copies", node_checkpoint_every_s=1)
    launcher = start("train", spec, "--nodes", 2, "--json")
    pids = nodes_of(launcher, 2)
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in pids]
    assert [line[line.index(b"--join") + 1] for line in lines if b"--join" in line] == [b"-"]
    wait_until(lambda: len(list((launcher.cwd / "copies").glob("*/run.json"))) == 2, 30.0, "two copies")
    launcher.interrupt()
    assert [node["end"] for node in launcher.result(20.0)["nodes"]] == ["left", "left"]


def hanging_backup(pipe: Path) -> dict[str, Any]:
    """A backup that never ends, and a pipe that each of its processes holds as long as it lives."""
    os.mkfifo(pipe)
    return {"node_backup": f"sh -c 'exec 3>{pipe}; echo begun >&3; sleep 600; true' {{file}}"}


def test_a_backup_that_hangs_does_not_hold_up_ctrl_c(start_node: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """Five seconds and one sentence; what the run has itself is saved by then."""
    node = start_node(write_spec(node_checkpoint_every_s=1, **hanging_backup(tmp_path / "pipe")), name="it")
    with (tmp_path / "pipe").open() as held:
        held.readline()
        node.interrupt()
        assert node.wait(HUNG_WITHIN_S) == 0
        held.read()  # to its end: whatever the command has started is gone with it
    check_saved(node.run)
    assert node.out.read_text().count("the last backup was given up") == 1
    assert "no backup could be made" not in node.out.read_text()


def test_ctrl_c_twice_leaves_no_backup_behind(start_node: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """Also in the middle of the last one."""
    node = start_node(write_spec(node_checkpoint_every_s=1, **hanging_backup(tmp_path / "pipe")), name="it")
    with (tmp_path / "pipe").open() as held:
        held.readline()
        node.interrupt()
        node.wait_for("finished")
        node.interrupt()
        assert node.wait(GONE_WITHIN_S) == 130
        held.read()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_no_backup_outlives_a_node_that_was_killed(
    start_node: Start, write_spec: WriteSpec, tmp_path: Path, number: int
) -> None:
    """Nobody is there to end it: it notices by itself."""
    node = start_node(write_spec(node_checkpoint_every_s=1, **hanging_backup(tmp_path / "pipe")), name="it")
    with (tmp_path / "pipe").open() as held:
        held.readline()
        node.interrupt(number)
        held.read()


def test_a_run_that_is_over_can_be_told_not_to_wait_for_its_backup(
    start_node: Start, write_spec: WriteSpec, tmp_path: Path
) -> None:
    """It has ten minutes for that, and somebody who wants the terminal back has not."""
    node = start_node(write_spec(train_samples=20_000, **hanging_backup(tmp_path / "pipe")), name="it")
    with (tmp_path / "pipe").open() as held:
        held.readline()
        assert node.wait_for("finished")["outcome"] == "finished"
        node.interrupt()
        assert node.wait(HUNG_WITHIN_S) == 0
        held.read()
    assert node.out.read_text().count("the last backup was given up") == 1


def test_ctrl_c_twice_ends_a_swarm_and_its_backups(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """Whatever the nodes are doing, and whether they end themselves in time or are killed."""
    launcher = start("train", write_spec(node_checkpoint_every_s=1, **hanging_backup(tmp_path / "pipe")), "--nodes", 2)
    with (tmp_path / "pipe").open() as held:
        pids = nodes_of(launcher, 2)
        held.readline()
        launcher.interrupt()
        launcher.wait_for_text("stopping")
        launcher.interrupt()
        assert launcher.wait(GONE_WITHIN_S) in (0, 130)
        held.read()
    assert not any(map(is_running, pids))


def test_ctrl_c_twice_ends_a_swarm_at_once(start: Start, write_spec: WriteSpec) -> None:
    launcher = start("train", write_spec(model_preset="lenet", train_batch=4096), "--nodes", 2)
    pids = nodes_of(launcher, 2)
    launcher.interrupt()
    launcher.wait_for_text("stopping")
    launcher.interrupt()
    assert launcher.wait(GONE_WITHIN_S) in (0, 130)
    assert not any(map(is_running, pids))
    assert "Traceback" not in launcher.err.read_text()


@pytest.mark.parametrize("number", STOPS)
def test_a_launcher_that_still_prepares_ends_where_it_stands(
    start: Start, write_spec: WriteSpec, tmp_path: Path, number: int
) -> None:
    launcher = start("train", write_spec(), "--nodes", 2, NUMBA_CACHE_DIR=str(tmp_path / "cold"))
    launcher.wait_for_text("data ready")
    assert status_after(launcher, number) == -number
    assert "Traceback" not in launcher.err.read_text()


def test_a_launcher_that_measures_shards_alone_ends_where_it_stands(
    start: Start, write_spec: WriteSpec, tmp_path: Path
) -> None:
    """The models are saved by then, and no worker outlives it."""
    launcher = start("train", write_spec(train_samples=40_000), "--nodes", 2, "--alone-steps", 10**6)
    run = tmp_path / "runs" / "test"
    wait_until(lambda: (run / "model.safetensors").exists(), 30.0, "the nodes have ended")
    if launcher.process.poll() is None:
        assert status_after(launcher, signal.SIGINT) in (-signal.SIGINT, 0)
    assert "Traceback" not in launcher.err.read_text()


def test_nodes_do_not_outlive_a_launcher_that_was_killed(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """SIGKILL leaves it no time to tell them; the end of their standard input does. They save before they go."""
    launcher = start("train", write_spec(), "--nodes", 3)
    pids = nodes_of(launcher, 3)
    launcher.process.kill()
    wait_until(lambda: not any(map(is_running, pids)), GONE_WITHIN_S + 2.0, "the nodes are gone")
    for name in ("n0", "n1", "n2"):
        check_saved(tmp_path / "runs" / "test" / "nodes" / name)
