"""What a swarm's report says, of the living and of those that are gone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gossip.errors import GossipError
from gossip.live.client import Seen
from gossip.protocol.messages import Phase, State, Status, Update
from gossip.runs import RunFolder
from gossip.spec import Experiment, load
from gossip.status import _node, _swarm, look, names_in, report_past

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    path = tmp_path / "small.toml"
    path.write_text('[data]\nrecipe = "glyphs"\n[model]\npreset = "mlp"\n[train]\nsamples = 1000\ntime = "100 s"\n')
    return load(path)


def seen(key: bytes = A, told_by: bytes = A, **status: object) -> Seen:
    state = status.pop("state", State.ALIVE)
    said = Status(1, **status)  # type: ignore[arg-type]
    return Seen(Update(key, "a.example:1", 3, state, said), told_by, time.monotonic())  # type: ignore[arg-type]


def test_the_swarms_clock_is_what_most_say(experiment: Experiment) -> None:
    """One that lies about it, or has just come, does not move it."""
    said = [
        seen(swarm_samples=count, samples_per_s=10.0, run_s=20.0, phase=Phase.TRAINING) for count in (500, 510, 990)
    ]
    report = _swarm(said, experiment, {})
    assert report["samples"] == 510 and report["progress"] == 0.51 and report["training"] == 3
    assert report["ends_in_s"] == round((1000 - 510) / 30, 1)


def test_the_end_is_by_samples_or_by_time_whichever_is_first(experiment: Experiment) -> None:
    slow = [seen(swarm_samples=100, samples_per_s=1.0, run_s=60.0)]
    assert (_swarm(slow, experiment, {})["progress"], _swarm(slow, experiment, {})["ends_in_s"]) == (0.6, 40.0)
    assert _swarm(slow, experiment, {"samples": "110"})["ends_in_s"] == 10.0, "the owner made it shorter"
    paused = [seen(swarm_samples=100, run_s=60.0, phase=Phase.PAUSED)]
    assert _swarm(paused, experiment, {})["ends_in_s"] is None


def test_before_anybody_says_the_clock_it_is_the_sum(experiment: Experiment) -> None:
    assert _swarm([seen(samples=30), seen(B, samples=40)], experiment, {})["samples"] == 70
    assert _swarm([], experiment, {})["members"] == 0


def test_a_member_is_as_old_as_its_own_clock_says() -> None:
    """Others' words of it travel for seconds; the run's clock in them tells for how many."""
    assert _node(seen(A, told_by=B, run_s=50.0), {}, latest_s=57.0)["heard_s"] == pytest.approx(7.0, abs=0.2)
    assert _node(seen(A, told_by=A, run_s=50.0), {}, latest_s=57.0)["heard_s"] == pytest.approx(0.0, abs=0.2)
    assert _node(seen(A), {A.hex()[:8]: "n0"}, 0.0)["name"] == "n0"


def test_a_folder_remembers(experiment: Experiment, tmp_path: Path) -> None:
    """The last word of each node, and how it ended."""
    run = RunFolder.create(experiment, tmp_path / "run")
    events = [
        {"t": 1.0, "node": "n0", "event": "started", "key": "aaaaaaaa", "address": "a.example:1"},
        {"t": 1.0, "node": "n1", "event": "started", "key": "bbbbbbbb", "address": "b.example:1"},
        {"t": 2.0, "node": "n0", "event": "status", "phase": "training", "step": 8, "accuracy": -1.0, "progress": 0.25},
        {"t": 3.0, "node": "n1", "event": "status", "phase": "paused", "step": 9, "accuracy": 0.5, "progress": 0.5},
        {"t": 4.0, "node": "n0", "event": "finished", "outcome": "left", "steps": 16, "accuracy": 0.75, "samples": 512},
    ]
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"t": 5.0, "no')
    report = look(None, run, {})
    n0, n1 = report["nodes"]
    assert (n0["state"], n0["step"], n0["accuracy"], n0["samples"]) == ("left", 16, 0.75, 512)
    assert (n1["state"], n1["step"], n1["accuracy"], n1["address"]) == ("paused", 9, 0.5, "b.example:1")
    assert report["when"] == "past" and report["swarm"]["progress"] == 0.5 and report["swarm"]["last_event"] == 4.0
    assert names_in(run) == {"aaaaaaaa": "n0", "bbbbbbbb": "n1"}


def test_a_run_that_never_began_has_a_report_too(experiment: Experiment, tmp_path: Path) -> None:
    assert report_past(RunFolder.create(experiment, tmp_path / "run"))["nodes"] == []
    with pytest.raises(GossipError, match="no run folder here"):
        look(None, None, {})
