"""Adding up nodes, and what a shard is worth alone."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gossip import summary
from gossip.console import SwarmConsole
from gossip.data.store import load_dataset
from gossip.launcher import Child
from gossip.spec import load

SPEC = """
[data]
recipe = "glyphs"
partition = "classes(3)"
shards = 4
[model]
preset = "mlp"
[train]
learning_rate = 0.03
"""


def child(name: str, **fields: Any) -> Child:
    made = Child(name, 0, SimpleNamespace(returncode=0), Path(), began_at=100.0)  # type: ignore[arg-type]
    for field, value in fields.items():
        setattr(made, field, value)
    return made


RESULT = {
    "event": "finished", "steps": 10, "samples": 320, "accuracy": 0.9, "bytes_sent": 7, "bytes_received": 8,
    "exchanges": 2, "exchanges_failed": 1, "longest_gap_s": 0.1, "swarm_samples": 500,
    "bytes_by_kind": {"state": {"sent": 3, "received": 4}, "exchange": {"sent": 4, "received": 4}},
    "lz4_gain_by_kind": {"planes": {"raw": 100, "stored": 25}},
}  # fmt: skip
STATUS = {"event": "status", "step": 5, "samples": 160, "accuracy": -1.0, "bytes_sent": 2, "bytes_received": 1}


def test_a_shard_of_three_digits_is_worth_three_digits(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SPEC)
    experiment = load(tmp_path / "small.toml")
    dataset = load_dataset(experiment.recipe)
    accuracy = summary.train_alone(experiment, dataset, shard=1, steps=150)
    assert 0.2 < accuracy <= 0.35


def test_a_node_that_finished_reports_what_it_said_and_one_that_was_killed_what_was_last_heard() -> None:
    """Nobody knows better: a killed node's row comes from its last status."""
    whole = summary._node_result(child("n0", end="finished", result=RESULT, joined_at=101.5, ended_at=109.0), 100.0)
    assert (whole["steps"], whole["accuracy"], whole["joined_at"], whole["left"]) == (10, 0.9, 1.5, None)
    killed = summary._node_result(child("n1", end="killed", status=STATUS, joined_at=102.0, ended_at=105.0), 100.0)
    assert (killed["steps"], killed["samples"], killed["bytes_sent"]) == (5, 160, 2)
    assert (killed["accuracy"], killed["left"]) == (None, 5.0)
    never = summary._node_result(child("n2", end="failed", ended_at=101.0), 100.0)
    assert (never["steps"], never["joined_at"]) == (0, None)


def test_a_node_that_failed_says_why_and_one_that_never_trained_has_no_accuracy() -> None:
    failed = summary._node_result(child("n1", end="failed", why="the loss became nan", ended_at=101.0), 100.0)
    assert failed["why"] == "the loss became nan"
    idle = summary._node_result(child("n2", end="left", result=RESULT | {"steps": 0, "accuracy": 0.0975}), 100.0)
    assert (idle["accuracy"], idle["why"]) == (None, "")


def test_bytes_and_gains_add_up_over_nodes() -> None:
    """Of a killed node only the sum is known."""
    children = [child("n0", result=RESULT), child("n1", result=RESULT), child("n2", end="killed", status=STATUS)]
    assert summary._bytes_by_kind(children) == {
        "exchange": {"sent": 8, "received": 8},
        "state": {"sent": 6, "received": 8},
        "unsorted": {"sent": 2, "received": 1},
    }
    assert summary._gains(children) == {"planes": {"raw": 200, "stored": 50, "ratio": 4.0}}


def test_the_mean_of_models_is_summed_wide() -> None:
    """Half of float32's digits would be lost in a long sum of equal numbers."""
    models = [np.full(4, 1.0 + 2.0**-23, np.float32)] * 1000
    mean = summary._mean(models)
    assert mean.dtype == np.float32
    assert (mean == models[0]).all()


def test_a_curve_has_what_was_sent_by_the_time_of_each_look() -> None:
    look = {"event": "evaluated", "swarm_samples": 300, "accuracy": 0.5, "bytes_sent": 2}
    curve = summary._curve(child("n0", end="finished", status=STATUS, looks=[look, RESULT]))
    assert curve.points == [(300, 2, 0.5), (500, 7, 0.9)]
    assert not curve.joined
    assert summary._curve(child("n1", is_late=True)).joined


ROW = {
    "id": "n12", "end": "finished", "why": "", "joined_at": 1234.5, "steps": 1_234_567, "accuracy": 1.0,
    "bytes_sent": 12_345_678_900, "bytes_received": 12_345_678_900, "exchanges": 123_456,
    "exchanges_failed": 1_234, "longest_gap_s": 12.345,
}  # fmt: skip


def printed(width: int = 80, **changes: Any) -> str:
    out = io.StringIO()
    result = {
        "name": "test", "nodes": [ROW, ROW | {"accuracy": None, "joined_at": None}], "accuracy_alone_max": 1.0,
        "alone_steps": 1000, "accuracy_min": 1.0, "accuracy_mean": 1.0, "accuracy_of_mean_model": 1.0,
        "seconds": 12_345.6, "picture": "p", "bytes_by_kind": {
            kind: {"sent": 1_234_567} for kind in ("exchange", "handshake", "heartbeat", "membership", "state")
        },
    }  # fmt: skip
    summary.print_summary(result | changes, SwarmConsole("test", Console(file=out, width=width)))
    return out.getvalue()


def test_the_summary_fits_eighty_columns() -> None:
    text = printed()
    assert "…" not in text
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "never" in text
    assert "2 of 2 nodes finished\n" in text


@pytest.mark.parametrize("width", [79, 60, 40])
def test_a_narrow_summary_leaves_columns_out_and_no_digits(width: int) -> None:
    text = printed(width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines() if line.startswith("n12")) <= width
    assert "100.0%" in text


def test_the_summary_tells_who_failed_and_why() -> None:
    ends = [ROW, ROW | {"id": "n1", "end": "failed", "why": "no room [/x]"}, ROW | {"id": "n2", "end": "killed"}]
    text = printed(nodes=ends)
    assert "1 of 3 nodes finished, 1 failed, 1 killed" in text
    assert "n1 failed: no room [/x]" in text


def test_bytes_are_told_in_words_and_nothing_is_nothing() -> None:
    """A run of one node sends nothing; of a killed one nobody knows of what kind its bytes were."""
    assert "s of training, nothing sent\n" in printed(bytes_by_kind={})
    text = printed(
        bytes_by_kind={"exchange": {"sent": 1_000_000}, "state": {"sent": 0}, "unsorted": {"sent": 3_210_000}}
    )
    assert "4.21 MB sent in all:\n  exchange 1.00, of nodes killed or failed 3.21\n" in text
