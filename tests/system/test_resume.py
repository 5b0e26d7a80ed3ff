"""Killed and started again: a node goes on where its disk says it stood, as who it was, and says so in one line."""

from __future__ import annotations

import json
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kill_in_swarm import kill_in_swarm
from kill_often import kill_often
from lives import INTERVAL_S, SLACK_S
from processes import GossipProcess, patient, wait_until

from gossip.checkpoint import Checkpoints, read_checkpoint
from gossip.observe import Event
from gossip.swarmfile import read_swarm_file

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]
LOCAL = {"train_warmup": 0.0, "node_checkpoint_every_s": 1, "node_listen": "tcp://127.0.0.1:0"}


def wait_for_checkpoint(process: GossipProcess) -> int:
    """The step of its next checkpoint in this life."""
    return process.wait_for("checkpoint_saved", when=lambda e: e["t"] > process.began_at)["step"]


def event_of_this_life(process: GossipProcess, name: str) -> Event:
    return process.wait_for(name, when=lambda e: e["t"] > process.began_at)


def knows_somebody(process: GossipProcess) -> bool:
    file = read_swarm_file(process.run)
    return file is not None and bool(file.members)


def kill(process: GossipProcess) -> None:
    process.process.kill()
    process.process.wait()


def test_a_killed_node_goes_on_where_it_stood(start: Start, start_node: Start, write_spec: WriteSpec) -> None:
    """With nothing but the folder: same key, same address, higher incarnation, steps and clock that only grow."""
    first = start_node(write_spec(**LOCAL), name="it")
    saved = wait_for_checkpoint(first)
    kill(first)
    before = first.all("started")[0]
    again = start("node", "--run-dir", first.run, name="it")
    assert again.wait_for_text("resuming ").startswith(f"{again.run} at step ")
    restored, started = event_of_this_life(again, "restored"), event_of_this_life(again, "started")
    assert restored["step"] >= saved
    assert (started["key"], started["address"]) == (before["key"], before["address"])
    assert (before["incarnation"], started["incarnation"]) == (0, 1)
    status = event_of_this_life(again, "status")
    assert status["step"] >= restored["step"] and status["swarm_samples"] > 0
    assert wait_for_checkpoint(again) > restored["step"]
    for secret in ("node.key", "swarm.json", "owner.key"):
        assert stat.S_IMODE((again.run / secret).stat().st_mode) == 0o600
    again.interrupt()
    again.wait()


def test_the_spec_alone_finds_the_run_again(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """As somebody types it the second time; --fresh, and a finished run, begin a new one."""
    spec = write_spec(**LOCAL)
    runs = tmp_path / "runs"
    for name, words, folder in (("a", (), "test"), ("b", (), "test"), ("c", ("--fresh",), "test-2")):
        node = start("node", spec, *words, name=name)
        wait_until(lambda folder=folder: Checkpoints(runs / folder / "checkpoints").paths(), 30.0, "a checkpoint")
        node.ticket()
        node.interrupt()
        node.wait()
        assert ("resuming runs/test at step" in node.out.read_text()) == (name == "b")
    for folder in ("test", "test-2"):
        notes = json.loads((runs / folder / "run.json").read_text())
        notes["result"]["outcome"] = "finished"
        (runs / folder / "run.json").write_text(json.dumps(notes))
    last = start("node", spec, name="d")
    last.ticket()
    assert (runs / "test-3").is_dir()


def test_one_process_per_run_folder(start_node: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """The second one refuses in a sentence; the lock dies with its process, however that ends."""
    spec = write_spec(**LOCAL)
    first = start_node(spec, name="it")
    wait_for_checkpoint(first)
    second = start_node(spec, "--run-dir", first.run, name="second")
    assert second.wait() == 1
    assert "another process runs in this folder; stop it, or choose another --run-dir" in second.err.read_text()
    kill(first)
    third = start_node("--run-dir", first.run, name="third")
    third.wait_for_text("resuming ")


def test_a_folder_of_something_else_is_refused_in_a_sentence(
    start_node: Start, write_spec: WriteSpec, tmp_path: Path
) -> None:
    """Another experiment, another key, a finished run, no run at all: each says what to do."""
    node = start_node(write_spec(**LOCAL), name="it")
    wait_for_checkpoint(node)
    node.interrupt()
    node.wait()
    other = write_spec("other.toml", train_learning_rate=0.01, **LOCAL)
    finished = tmp_path / "finished"
    shutil.copytree(node.run, finished)
    notes = json.loads((finished / "run.json").read_text())
    notes["result"]["outcome"] = "finished"
    (finished / "run.json").write_text(json.dumps(notes))
    for words, sentence in (
        ((other, "--run-dir", node.run), "and the experiment given is"),
        (("--run-dir", node.run, "--key", tmp_path / "x.key"), "no key there"),
        (("--run-dir", node.run, "--fresh"), "holds a run already; choose another --run-dir or remove it"),
        (("--run-dir", finished), "this run is finished"),
        (("--run-dir", tmp_path / "nothing"), "no run there to go on with"),
    ):
        refused = start_node(*words, name=f"refused-{len(sentence)}")
        assert refused.wait() == (3 if "finished" in sentence else 1)  # systemd need not try that again
        assert sentence in refused.err.read_text() and "Traceback" not in refused.err.read_text()


@pytest.mark.slow
def test_a_member_that_was_killed_is_the_same_member_again(
    start: Start, start_node: Start, write_spec: WriteSpec
) -> None:
    """The others dial no stranger: same key, next incarnation, and exchanges go on; no ticket is needed."""
    first = start_node(write_spec(**LOCAL), name="first")
    second = start_node("--join", first.ticket(), name="second")
    key = second.wait_for("started")["key"]
    second.wait_for("exchange_mixed")
    # A joiner's checkpoint is a minute away: before it is written a kill costs the state and not the name.
    kill(second)
    first.wait_for("member_dead", when=lambda e: e["peer"] == key)
    again = start("node", "--run-dir", second.run, name="second")
    again.wait_for("state_received", when=lambda e: e["t"] > again.began_at)
    event_of_this_life(again, "exchange_mixed")
    assert event_of_this_life(again, "started")["key"] == key
    first.wait_for("member_alive", when=lambda e: e["peer"] == key and e["t"] > again.began_at)
    wait_until(lambda: knows_somebody(first), 20.0, "the founder noted its members")
    again.interrupt()
    again.wait()
    assert Checkpoints(again.run / "checkpoints").paths()
    # And now the founder: it knows whom to knock at.
    kill(first)
    third = start("node", "--run-dir", second.run, name="second")
    back = start("node", "--run-dir", first.run, name="first")
    event_of_this_life(back, "exchange_mixed")
    event_of_this_life(third, "exchange_mixed")


@pytest.mark.slow
def test_a_rotten_checkpoint_costs_one_interval_and_two_are_no_silent_fresh_start(
    start: Start, start_node: Start, write_spec: WriteSpec
) -> None:
    first = start_node(write_spec(**LOCAL), name="it")
    wait_until(lambda: len(first.all("checkpoint_saved")) >= 2, 30.0, "two checkpoints")
    kill(first)
    newer, older = Checkpoints(first.run / "checkpoints").paths()
    newer.write_bytes(newer.read_bytes()[:-100])
    step = read_checkpoint(older).step
    again = start("node", "--run-dir", first.run, name="it")
    assert event_of_this_life(again, "restored")["step"] == step
    assert newer.name in event_of_this_life(again, "checkpoint_refused")["why"]
    kill(again)
    for path in Checkpoints(first.run / "checkpoints").paths():
        path.write_bytes(b"rotten")
    last = start("node", "--run-dir", first.run, name="it")
    assert last.wait() == 1
    assert "damaged" in last.err.read_text() and "start anew with --fresh" in last.err.read_text()


@pytest.mark.slow
def test_a_full_disk_stops_nothing_and_is_said_once(start_node: Start, write_spec: WriteSpec) -> None:
    """Files may not grow beyond 600 kB, a checkpoint needs twice that: training goes on, the model fits at the end."""
    limited: dict[str, Any] = {"prefix": ("bash", "-c", 'ulimit -f 600; exec "$@"', "bash")}
    node = start_node(write_spec(**LOCAL), name="it", **limited)
    failed = node.wait_for("checkpoint_failed")
    assert failed["kind"] == "EFBIG"
    step = node.wait_for("status", when=lambda e: e["t"] > failed["t"])["step"]
    node.wait_for("status", when=lambda e: e["t"] > failed["t"] + 2.5 and e["step"] > step)  # two more attempts
    assert len(node.all("checkpoint_failed")) == 1
    assert node.out.read_text().count("no checkpoint could be written") == 1
    assert list((node.run / "checkpoints").iterdir()) == []
    node.interrupt(signal.SIGTERM)
    assert node.wait() == 0
    assert (node.run / "model.safetensors").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_killed_again_and_again_ends_where_a_calm_one_does(tmp_path: Path) -> None:
    """Twenty lives of a second or two; `python tests/system/kill_often.py --kills 200` plays ten times as many."""
    found = kill_often(tmp_path, kills=20, seed=3, samples=9_000_000)
    assert found["kills"] == 20 and found["restored"] >= 10
    assert found["longest_lost_s"] < patient(INTERVAL_S + SLACK_S)
    assert abs(found["accuracy_killed"] - found["accuracy_calm"]) < 0.005


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("founds", [True, False], ids=["founder", "joiner"])
def test_a_member_that_is_killed_again_and_again_ends_where_its_swarm_does(tmp_path: Path, founds: bool) -> None:
    """Five lives among two others; `kill_often.py --kills 30 --others 2` plays more of them, and longer runs."""
    found = kill_in_swarm(tmp_path, kills=5, seed=3, others=2, founds=founds)
    assert found["longest_lost_s"] < patient(INTERVAL_S + SLACK_S)
    calm = found["accuracy_calm"].values()
    for name, accuracy in found["accuracy_killed"].items():
        assert abs(accuracy - sum(calm) / len(calm)) < 0.005, (name, found)


def test_a_run_is_copied_outside_the_swarm(start: Start, start_node: Start, write_spec: WriteSpec) -> None:
    """From its first checkpoint on; what is there can be evaluated by itself, and holds no key."""
    spec = write_spec(node_backup="copies", **LOCAL)
    node = start_node(spec, name="it")
    node.wait_for("backup_made")
    node.interrupt()
    assert node.wait() == 0
    (copy,) = (node.cwd / "copies").iterdir()
    assert copy.name.startswith("it-it-")
    found = start("eval", copy, "--json", name="eval").result()
    assert found["accuracy"] == json.loads((copy / "run.json").read_text())["result"]["accuracy"] > 0.5
    assert sorted(path.name for path in copy.iterdir()) == ["checkpoints", "model.safetensors", "run.json", "spec.toml"]


def test_a_backup_that_fails_is_said_once_and_stops_nothing(start_node: Start, write_spec: WriteSpec) -> None:
    node = start_node(write_spec(node_backup="no-such-command {file}", **LOCAL), name="it")
    failed = node.wait_for("backup_failed")
    assert "no-such-command: cannot be run" in failed["why"]
    node.wait_for("checkpoint_saved", when=lambda e: e["t"] > failed["t"])
    node.interrupt()
    assert node.wait() == 0
    assert len(node.all("backup_failed")) == 1
    assert node.out.read_text().count("no backup could be made") == 1


def test_what_a_killed_process_left_half_written_is_swept(
    start: Start, start_node: Start, write_spec: WriteSpec
) -> None:
    """Whoever is killed often enough would fill the disk; files of the user's stay."""
    first = start_node(write_spec(**LOCAL), name="it")
    wait_until(lambda: len(first.all("checkpoint_saved")) >= 2, 30.0, "two checkpoints")
    kill(first)
    left = [
        first.run / name for name in (".model.safetensors.123", ".swarm.json.7", "checkpoints/checkpoint-1.damaged")
    ]
    for path in [*left, first.run / ".hidden", first.run / "mine.1"]:
        path.touch()
    again = start("node", "--run-dir", first.run, name="it")
    event_of_this_life(again, "restored")
    assert not any(path.exists() for path in left)
    assert (first.run / ".hidden").exists() and (first.run / "mine.1").exists()


def test_a_disk_that_does_not_take_the_model_fails_the_run_with_a_result(
    start_node: Start, write_spec: WriteSpec
) -> None:
    """No traceback, `finished` is said, and the checkpoints are there to go on from."""
    node = start_node(write_spec(**LOCAL), name="it", prefix=("bash", "-c", 'ulimit -f 300; exec "$@"', "bash"))
    node.wait_for("checkpoint_failed")
    node.interrupt()
    assert node.wait() == 1
    (finished,) = node.all("finished")
    assert finished["outcome"] == "failed" and "model.safetensors: cannot be written" in finished["why"]
    assert "Traceback" not in node.err.read_text()


def latest(process: GossipProcess) -> Event:
    return event_of_this_life(process, "status") and process.all("status")[-1]


def wait_until_ahead(process: GossipProcess, share: float, within_s: float = 60.0) -> None:
    """Until it has gone on by so much of the run."""
    goal = latest(process)["progress"] + share
    process.wait_for("status", within_s, when=lambda e: e["progress"] > goal)


def check_far_behind(back: GossipProcess) -> None:
    """It has taken the swarm's state, and is who it was."""
    restored = event_of_this_life(back, "restored")
    lives = back.all("started")
    assert lives[0]["key"] == lives[1]["key"] and lives[1]["incarnation"] == lives[0]["incarnation"] + 1
    behind, received = event_of_this_life(back, "far_behind"), event_of_this_life(back, "state_received")
    training = back.wait_for("training", when=lambda e: e["t"] >= received["t"])
    assert behind["step"] >= restored["step"] > 0 and training["progress"] >= behind["progress"] - 0.001
    status = back.wait_for("status", when=lambda e: e["t"] > training["t"])
    assert status["samples"] >= restored["samples"] and status["swarm_samples"] > restored["samples"]


@pytest.mark.slow
def test_who_was_away_for_long_comes_back_with_the_swarms_model(
    start: Start, start_node: Start, write_spec: WriteSpec
) -> None:
    """Killed, and back when much of the run has passed: no old model is mixed in, and the end is the same for all."""
    first = start_node(write_spec(train_time="40 s", **LOCAL), name="first")
    others = [start_node("--join", first.ticket(), "--json", name=name) for name in ("second", "third")]
    for node in others:
        node.wait_for("exchange_mixed")
    wait_until(lambda: knows_somebody(first), 20.0, "the founder noted its members")
    wait_for_checkpoint(first)
    kill(first)
    wait_until_ahead(others[0], 0.15)
    back = start("node", "--run-dir", first.run, "--json", name="first")
    check_far_behind(back)
    results = [node.result(60.0) for node in (back, *others)]
    assert [result["outcome"] for result in results] == 3 * ["finished"]
    accuracies = [result["accuracy"] for result in results]
    assert max(accuracies) - min(accuracies) < 0.005 and min(accuracies) > 0.5


@pytest.mark.slow
def test_a_swarm_that_answers_late_is_followed_all_the_same(
    start: Start, start_node: Start, write_spec: WriteSpec
) -> None:
    """Its only member stands still while we come back: we go on alone, until it speaks and is far ahead."""
    first = start_node(write_spec(train_time="300 s", **LOCAL), name="first")
    second = start_node("--join", first.ticket(), name="second")
    second.wait_for("exchange_mixed")
    wait_until(lambda: knows_somebody(first), 20.0, "the founder noted its members")
    wait_for_checkpoint(first)
    kill(first)
    wait_until_ahead(second, 0.06)
    second.interrupt(signal.SIGSTOP)
    back = start("node", "--run-dir", first.run, name="first")
    alone = event_of_this_life(back, "training")
    second.interrupt(signal.SIGCONT)
    check_far_behind(back)
    assert event_of_this_life(back, "far_behind")["t"] > alone["t"]
    event_of_this_life(back, "exchange_mixed")
