"""The owner speaks to real processes: everybody pauses, steps on, learns slower and ends; nobody else is obeyed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import GossipProcess, wait_until

from gossip.observe import read_events

Start = Callable[..., GossipProcess]
WriteSpec = Callable[..., Path]

KNOWN_WITHIN_S = 5.0


def swarm_of(start_node: Start, spec: Path, *words: Any) -> list[GossipProcess]:
    """Three nodes that train."""
    first = start_node(spec, *words, name="first")
    nodes = [first, *(start_node("--join", first.ticket(), name=name) for name in ("second", "third"))]
    for node in nodes:
        node.wait_for("training")
        node.wait_for("status", when=lambda event: event["members"] == 3)
    return nodes


def settled_step(node: GossipProcess) -> int:
    """Its step, once it says twice in a row that it is paused there."""
    first = node.wait_for("status", when=lambda event: event["phase"] == "paused")
    second = node.wait_for("status", when=lambda event: event["t"] > first["t"] and event["phase"] == "paused")
    return second["step"]


@pytest.mark.slow
def test_the_owner_pauses_resumes_slows_and_stops_a_swarm(
    start: Start, start_node: Start, write_spec: WriteSpec
) -> None:
    """Each command is known to every node within seconds; only the founder's run folder holds the key."""
    nodes = swarm_of(start_node, write_spec())
    first = nodes[0]
    keys = [node for node in nodes if (node.run / "owner.key").exists()]
    assert keys == [first] and (first.run / "owner.key").stat().st_mode & 0o777 == 0o600

    def say(*words: str) -> dict[str, Any]:
        result = start(*words, "--run", first.run, "--json").result()
        assert result["members"] == 3 and not result["missing"]
        assert result["seconds"] < KNOWN_WITHIN_S
        return result

    say("pause")
    steps = [settled_step(node) for node in nodes]
    late = start_node("--join", first.ticket(), name="late")
    late.wait_for("paused")
    assert [node.all("status")[-1]["step"] for node in nodes] == steps, "nobody steps"
    late.interrupt()
    assert late.wait() == 0
    say("resume")
    for node, step in zip(nodes, steps, strict=True):
        node.wait_for("status", when=lambda event, step=step: event["step"] > step)
    slower = say("set", "lr=0.001")
    for node in nodes:
        node.wait_for("command", when=lambda event: event["sequence"] == slower["sequence"])
    say("stop")
    for node in nodes:
        assert node.wait() == 0, node.story()
        (end,) = node.all("finished")
        assert (end["outcome"], end["why"]) == ("finished", "stopped by the owner")


def test_an_owner_who_pinned_a_key_speaks_from_anywhere(start: Start, start_node: Start, write_spec: WriteSpec) -> None:
    """With the key and a ticket, from a machine that never saw the run; another key, a wrong value are refused."""
    key, other, spec = Path("owner.key"), Path("other.key"), write_spec()
    made = start("owner-key", key)
    assert made.wait() == 0 and start("owner-key", other).wait() == 0
    spec.write_text(made.out.read_text() + spec.read_text())
    node = start_node(spec, name="node")
    node.wait_for("status", when=lambda event: event["samples"] > 1)
    assert not (node.run / "owner.key").exists()
    at = ("--run", node.ticket(), "--owner-key")
    refused = {
        "this key is not the owner's": start("stop", *at, other),
        "lr=-1: expected a number above 0": start("set", "lr=-1", *at, key),
        "has trained on": start("set", "samples=1", *at, key),
        "expected lr=NUMBER or samples=NUMBER": start("set", "rate=1", *at, key),
        "give the owner's key with --owner-key FILE": start("pause", "--run", node.ticket()),
        "no owner.key": start("stop", "--run", node.run),
    }
    for words, process in refused.items():
        assert process.wait(10.0) == 1, process.story()
        (line,) = process.err.read_text().splitlines()
        assert line.startswith("gossip: ") and words in line
    assert not node.all("command")
    assert start("stop", *at, key, "--json").result()["missing"] == []
    assert node.wait() == 0


@pytest.mark.slow
def test_a_swarm_of_the_launcher_has_one_owner(start: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """`gossip train` makes the key for all its nodes, and its run's name is all one has to know."""
    launcher = start("train", write_spec(), "--nodes", 2, "--alone-steps", 0, "--json")
    run = tmp_path / "runs" / "test"
    n0, n1 = (GossipProcessFolder(run / "nodes" / name) for name in ("n0", "n1"))
    for node in (n0, n1):
        wait_until(lambda node=node: node.all("training"), 30.0, "it trains")
    assert sorted(path.name for path in run.rglob("owner.key")) == ["owner.key"]
    report = start("status", "test", "--json").result()
    assert report["when"] == "now" and sorted(node["name"] for node in report["nodes"]) == ["n0", "n1"]
    assert start("stop", "--run", "test", "--json").result()["missing"] == []
    result = launcher.result(40.0)
    assert [node["end"] for node in result["nodes"]] == ["finished", "finished"]
    assert start("status", "--json").result()["when"] == "past"


def test_status_from_every_side(start: Start, start_node: Start, write_spec: WriteSpec, tmp_path: Path) -> None:
    """By folder, by ticket, by address; and after the end what the folder remembers, marked as past."""
    node = start_node(write_spec(), "--run-dir", tmp_path / "runs" / "mine", name="node")
    ticket = node.ticket()
    node.run = tmp_path / "runs" / "mine"
    address = node.wait_for("started")["address"]
    node.wait_for("training")
    for words in ([], ["mine"], [address], [ticket]):
        report = start("status", *words, "--json").result()
        assert report["when"] == "now" and report["swarm"]["members"] == 1, words
        (row,) = report["nodes"]
        assert row["address"] == address and row["name"] == ("node" if words != [ticket] else row["key"][:8])
    assert "127.0.0.1:1" in complaint_of(start("status", "127.0.0.1:1"))
    node.process.kill()
    node.wait()
    past = start("status", "mine")
    assert past.wait() == 0
    text = past.out.read_text()
    assert "PAST" in text and "was training" in text and "no member answers" in text
    assert "no member answers" in complaint_of(start("status", ticket))


def complaint_of(process: GossipProcess) -> str:
    assert process.wait(10.0) == 1, process.story()
    (line,) = process.err.read_text().splitlines()
    return line


class GossipProcessFolder:
    """The events of a node somebody else started."""

    def __init__(self, folder: Path) -> None:
        self._events = folder / "events.jsonl"

    def all(self, name: str) -> list[dict[str, Any]]:
        events = read_events(self._events) if self._events.exists() else ()
        return [event for event in events if event["event"] == name]
