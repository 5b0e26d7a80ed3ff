"""`gossip status` on narrow and wide terminals, and how long ago is said."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from gossip.board import Board, duration, headlines


def node(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "key": "ab" * 32, "name": name, "address": "203.0.113.77:40075", "state": "alive", "phase": "training",
        "incarnation": 12, "step": 123_456, "samples": 3_950_592, "samples_per_s": 12_345.6, "loss": 0.12345,
        "accuracy": 0.9712, "links": 8, "bytes_sent": 123_456_789, "bytes_received": 98_765_432, "command": 0,
        "heard_s": 7.5,
    } | changes  # fmt: skip


def now(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    swarm = {
        "experiment": "mnist-mlp", "members": len(nodes), "training": 1, "samples": 123_456_789,
        "samples_total": 10**9, "samples_per_s": 98_765.4, "run_s": 7_500.0, "progress": 0.1234,
        "ends_in_s": 90_061.0, "owner_wants": {},
    }  # fmt: skip
    return {"when": "now", "swarm": swarm | changes, "nodes": list(nodes)}


def drawn(report: dict[str, Any], width: int, note: str = "") -> list[str]:
    console = Console(width=width, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(Board(report, note))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_a_board_fits_and_cuts_no_number(width: int) -> None:
    """Columns go, in the order of what one can do without; digits and addresses stay whole."""
    lines = drawn(now(node("n0"), node("a-node-of-long-name", phase="paused")), width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    for part in ("123,456", "12,346", "97.1%", "203.0.113.77:40075", "paused", "12.3% of 1,000,000,000 samples"):
        assert part in text
    assert "…" not in text
    assert ("123.5" in text) == (width == 120), "megabytes go first"


def test_the_swarm_in_two_lines() -> None:
    report = now(node("n0"), owner_wants={"lr": "0.01", "run": "pause"})
    assert headlines(report) == [
        "mnist-mlp: 1 member, 1 training, running for 2 h 5 min",
        "12.3% of 1,000,000,000 samples, 98,765 samples/s, about 1 d 1 h left",
        "the owner's word: lr 0.01, run pause",
    ]
    assert "left" not in headlines(now(node("n0"), ends_in_s=None))[1]


def test_the_past_is_marked_as_such() -> None:
    """A table of a swarm that is gone must not look like one that lives."""
    swarm = {"experiment": "mnist-mlp", "result": None, "progress": 0.5, "last_event": 1_700_000_000.0}
    past = {"when": "past", "run": "runs/x", "swarm": swarm, "nodes": [node("n0"), node("n1", state="finished")]}
    text = "\n".join(drawn(past, 80, "no member answers: 127.0.0.1:1: UNREACHABLE"))
    assert "PAST: mnist-mlp does not answer; this is what runs/x says" in text
    over = past | {"nodes": [node("n0", state="killed"), node("n1", state="finished")]}
    assert headlines(over)[0].startswith("PAST: mnist-mlp is over;")
    assert "was training" in text and "finished" in text and "UNREACHABLE" in text


def test_what_others_chose_cannot_steer_the_terminal() -> None:
    text = "\n".join(drawn(now(node("[/x]\x1b[2J", address="\x1b[2J:1")), 120))
    assert "[/x]?[2J" in text and "\x1b" not in text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7_500, "2 h 5 min"), (3600 * 25 + 61, "1 d 1 h"),
     (86_400 + 65, "1 d"), (-3, "0 s")],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
