"""The live table and the plain lines, from events alone."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from gossip.console import FollowedConsole, NodeConsole, SwarmConsole
from gossip.observe import Event


def status(node: str = "n0", t: float = 1.0, **fields: Any) -> Event:
    usual = {
        "phase": "training", "step": 123_456, "loss": 12.34567, "accuracy": 1.0, "samples_per_s": 123_456.7,
        "bytes_sent": 0, "bytes_received": 0, "links": 16, "exchanges": 12_345, "exchanges_failed": 1_234,
        "progress": 0.5,
    }  # fmt: skip
    return {"t": t, "node": node, "event": "status", **usual, **fields}


def finished(node: str = "n0", outcome: str = "finished") -> Event:
    return {"t": 9.0, "node": node, "event": "finished", "outcome": outcome, "accuracy": 0.5, "steps": 9}


def drawn(console: SwarmConsole) -> str:
    paper = Console(file=io.StringIO(), width=80, force_terminal=False)
    paper.print(console.view)
    return paper.file.getvalue()  # type: ignore[attr-defined]


def plain() -> tuple[SwarmConsole, io.StringIO]:
    out = io.StringIO()
    return SwarmConsole("test", Console(file=out, width=80, highlight=False)), out


def test_the_widest_table_fits_eighty_columns() -> None:
    """Big numbers, every column: nothing is cut short."""
    console, _ = plain()
    console.on_event(status("n12", bytes_sent=0))
    console.on_event(status("n12", t=2.0, bytes_sent=12_345_678, bytes_received=12_345_678, phase="settling"))
    text = drawn(console)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for part in ("123,456", "12.346", "100.0%", "12,346", "settling", "1,234"):
        assert part in text


def test_rates_come_from_two_reports() -> None:
    console, _ = plain()
    console.on_event(status(t=1.0, bytes_sent=1_000, bytes_received=5_000))
    console.on_event(status(t=3.0, bytes_sent=5_000, bytes_received=6_000))
    row = console.view.rows["n0"]
    assert (row.up_bytes_per_s, row.down_bytes_per_s) == (2_000, 500)
    console.on_event(finished())
    assert (row.state, row.up_bytes_per_s) == ("finished", 0.0)


@pytest.mark.parametrize("end", ["killed", "failed"])
def test_a_node_that_is_gone_says_so_and_does_nothing_any_more(end: str) -> None:
    console, _ = plain()
    console.on_event(status())
    console.on_event({"t": 2.0, "node": "n0", "event": end})
    assert end in drawn(console)
    assert "0 nodes training" in console.view.line()
    assert " 0 samples/s" in console.view.line()


def test_progress_never_goes_back() -> None:
    console, _ = plain()
    console.on_event(status("n0", progress=0.5))
    console.on_event(status("n1", progress=0.4))
    assert console.view.progress == 0.5


def test_without_a_terminal_a_line_now_and_then() -> None:
    """A log of a long run stays short: not every report is a line."""
    console, out = plain()
    with console:
        for t in range(100):
            console.on_event(status(t=float(t)))
        console.note("something happened")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert " 50%  1 nodes training" in lines[0]
    assert lines[1] == "something happened"


def test_a_long_line_is_not_broken_so_that_it_can_be_copied() -> None:
    console, out = plain()
    console.say("gossip node --join " + "A" * 300)
    assert out.getvalue().count("\n") == 1


def test_a_node_tells_what_happens_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    console = NodeConsole()
    console.on_event({"t": 1, "node": "node", "event": "member_dead", "peer": "abcd", "why": "no answer"})
    console.on_event({"t": 1, "node": "node", "event": "exchange_mixed", "id": 1})
    console.on_event(
        {"t": 1, "node": "node", "event": "link_refused", "peer": "abcd", "address": "", "code": "X", "reason": "why"}
    )
    assert capsys.readouterr().out.splitlines() == [
        "abcd is dead: no answer",
        "no link with abcd at an unknown address: why",
    ]


def test_the_launcher_is_sent_what_it_can_read_and_not_every_exchange(capsys: pytest.CaptureFixture[str]) -> None:
    console = FollowedConsole()
    console.say("a line")
    console.on_event({"t": 1, "node": "n0", "event": "exchange_mixed"})
    console.on_event(status())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["said", "status"]
    assert lines[0]["line"] == "a line"
