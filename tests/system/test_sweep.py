"""gossip sweep with real processes: whatever ends it, what had ended is kept, and nobody is left behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import GossipProcess, is_running, spec_text, wait_until

from gossip.spec import load

Start = Callable[..., GossipProcess]
RATES = "train.learning_rate=0.01,0.03,0.1,0.2,0.3,0.4"
SAMPLES = ("--samples", "60000")


def sweep(start: Start, tmp_path: Path, *words: str, name: str = "sweep", **changes: Any) -> GossipProcess:
    (tmp_path / "small.toml").write_text(spec_text(**changes))
    return start("sweep", "small.toml", "--folder", "kept", "--json", *words, name=name)


def ended(process: GossipProcess, status: int = 0) -> dict[str, Any]:
    """Its table, as JSON."""
    assert process.process.wait(90) == status, process.story()
    lines = [line for line in process.out.read_text().splitlines() if line.startswith('{"folder"')]
    return json.loads(lines[-1])


def records(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "kept" / "trials.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def workers_of(process: GossipProcess) -> list[int]:
    return [child.pid for child in psutil.Process(process.process.pid).children()]


@pytest.mark.slow
def test_a_sweep_finds_the_better_rate_and_a_diverging_one_is_a_row(start: Start, tmp_path: Path) -> None:
    """From the command to the promoted file."""
    words = ("--grid", "train.learning_rate=0.0001,0.05,100", *SAMPLES, "--sample", "20%")
    told = ended(sweep(start, tmp_path, *words, model_preset="lenet"))
    assert [row["state"] for row in told["rows"]] == ["finished", "finished", "diverged"]
    assert told["best"] == 2 and told["is_whole"] and told["rows"][0]["accuracy"] > 0.9
    assert "not finite after" in told["rows"][2]["why"]
    assert told["training_samples"] == 2160 and told["validation_samples"] == 1200
    promoted = start("sweep", "promote", "kept", "best.toml", name="promote")
    assert promoted.process.wait(30) == 0, promoted.story()
    best = load(tmp_path / "best.toml")
    assert best.train.learning_rate == 0.05 and best.data.sample == ""
    twice = start("sweep", "promote", "kept", "best.toml", name="twice")
    assert twice.process.wait(30) == 1 and "is there already" in twice.err.read_text()


def test_ctrl_c_keeps_what_has_ended_and_the_same_command_goes_on(start: Start, tmp_path: Path) -> None:
    first = sweep(start, tmp_path, "--grid", RATES, "--jobs", "2", *SAMPLES)
    first.wait_for_text("2 of 6", 60)
    workers = workers_of(first)
    first.process.send_signal(signal.SIGINT)
    told = ended(first, 128 + signal.SIGINT)
    kept = records(tmp_path)
    assert 2 <= len(kept) < 6 and not told["is_whole"]
    assert sorted(row["state"] for row in told["rows"]) == ["finished"] * len(kept) + ["waiting"] * (6 - len(kept))
    assert "the same command goes on" in first.err.read_text()
    assert not [pid for pid in workers if is_running(pid)]
    told = ended(sweep(start, tmp_path, "--grid", RATES, "--jobs", "2", *SAMPLES, name="again"))
    assert told["is_whole"] and len(told["rows"]) == 6
    assert records(tmp_path)[: len(kept)] == kept and len(records(tmp_path)) == 6
    assert f"{len(kept)} of 6 trials are there already" in (tmp_path / "again.out").read_text()
    third = ended(sweep(start, tmp_path, "--grid", RATES, *SAMPLES, name="third"))
    assert third["rows"] == told["rows"] and len(records(tmp_path)) == 6


def test_a_kill_leaves_no_worker_behind(start: Start, tmp_path: Path) -> None:
    """Nobody is left to end them: they notice by themselves."""
    process = sweep(start, tmp_path, "--grid", RATES, "--jobs", "2", "--samples", str(10**12))
    found = wait_until(lambda: workers if len(workers := workers_of(process)) == 2 else None, 60, "two workers")
    process.process.kill()
    process.process.wait()
    wait_until(lambda: not any(map(is_running, found)), 20, "the workers end")


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_trial_only(start: Start, tmp_path: Path) -> None:
    """As where memory runs out: the others go on, and the same command tries that one again."""
    grid = ("--grid", "train.samples=6000,10000000000000")
    process = sweep(start, tmp_path, *grid, "--jobs", "2")
    process.wait_for_text("1 of 2", 60)
    for pid in workers_of(process):
        psutil.Process(pid).kill()
    told = ended(process, 1)
    assert [(row["number"], row["state"]) for row in told["rows"]] == [(1, "finished"), (2, "failed")]
    assert "status -9" in told["rows"][1]["why"]
    assert [record["trial"] for record in records(tmp_path)] == [1]
    assert "1 trial failed" in process.err.read_text()


def test_hopeless_trials_are_given_up_and_the_table_says_why(start: Start, tmp_path: Path) -> None:
    rates = "train.learning_rate=0.02,0.03,0.04,0.05,0.06,0.00001"
    told = ended(sweep(start, tmp_path, "--grid", rates, "--jobs", "1", "--stop-early", *SAMPLES))
    rows = {row["number"]: row for row in told["rows"]}
    assert rows[6]["state"] == "stopped" and "where the median of 5 was" in rows[6]["why"]
    assert rows[6]["samples"] < 30_000 and told["rows"][0]["state"] == "finished"
    assert "trial 6 stopped: " in (tmp_path / "sweep.out").read_text()


@pytest.mark.slow
def test_seeds_share_a_row(start: Start, tmp_path: Path) -> None:
    told = ended(sweep(start, tmp_path, "--grid", "train.learning_rate=0.05,0.1", "--seeds", "2", "--samples", "6000"))
    assert [row["seeds"] for row in told["rows"]] == [2, 2] and told["rows"][0]["spread"] > 0
    assert len(records(tmp_path)) == 4
