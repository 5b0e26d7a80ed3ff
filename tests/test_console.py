"""The live table and the plain lines, from events alone."""

from __future__ import annotations

import io
import json
import math
import os
from typing import Any

import pytest
from rich.console import Console

from gossip.console import NODE_NOTES, FollowedConsole, NodeConsole, SwarmConsole
from gossip.observe import Event
from gossip.sim.swarm import Swarm, SwarmSettings


def status(node: str = "n0", t: float = 1.0, **fields: Any) -> Event:
    usual = {
        "phase": "training", "step": 123_456, "loss": 12.34567, "accuracy": 1.0, "samples_per_s": 123_456.7,
        "bytes_sent": 0, "bytes_received": 0, "links": 16, "exchanges": 12_345, "exchanges_failed": 1_234,
        "progress": 0.5,
    }  # fmt: skip
    return {"t": t, "node": node, "event": "status", **usual, **fields}


def finished(node: str = "n0", outcome: str = "finished") -> Event:
    return {"t": 9.0, "node": node, "event": "finished", "outcome": outcome, "accuracy": 0.5, "steps": 9}


def drawn(console: SwarmConsole, width: int = 80) -> str:
    paper = Console(file=io.StringIO(), width=width, force_terminal=False)
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


@pytest.mark.parametrize("width", [79, 70, 60, 50, 40, 30])
def test_where_it_is_narrow_columns_go_and_digits_stay(width: int) -> None:
    """ "2,3…" is a lie about a number; a column that is not there is none."""
    console, _ = plain()
    console.on_event(status("n12", bytes_sent=0))
    console.on_event(status("n12", t=2.0, bytes_sent=12_345_678, bytes_received=12_345_678, phase="settling"))
    text = drawn(console, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("12.346" in text) == (width == 79), "what fits stays, and the loss goes first"
    assert "100.0%" in text


def test_what_is_in_a_name_is_taken_as_it_is() -> None:
    """Square brackets are no markup, and nobody else's words steer this terminal."""
    console, out = plain()
    console.on_event(status("[/x]"))
    assert "[/x]" in drawn(console)
    console.say("[bold]a \x1b[2J :smile: \ud800")
    assert out.getvalue().splitlines()[-1] == "[bold]a ?[2J :smile: ?"


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
    assert " 50%  1 node training" in lines[0]
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


def node_console() -> tuple[NodeConsole, io.StringIO]:
    out = io.StringIO()
    return NodeConsole(Console(file=out, width=80, highlight=False)), out


def test_a_node_counts_the_members_it_sees_not_itself() -> None:
    """One node's view of a swarm: nothing of worst and best, since it knows its own alone."""
    console, out = node_console()
    console.on_event(status("node", accuracy=0.568, samples_per_s=47_846.2, progress=0.39, members=2))
    assert out.getvalue() == " 39%  of 2 members  accuracy 56.8%  47,846 samples/s  0 kB/s sent\n"
    console, out = node_console()
    console.on_event(status("node", accuracy=-1.0, members=1))
    assert "of 1 member  accuracy -" in out.getvalue()


def test_a_node_that_never_trained_claims_no_accuracy() -> None:
    """Of its first random numbers a model reads one digit in ten: that is no result."""
    console, out = node_console()
    end = finished("node", "left") | {"steps": 0, "accuracy": 0.0975, "looked_at": 2_000}
    console.on_event(status("node", phase="joining", accuracy=-1.0))
    console.on_event(end)
    assert out.getvalue().splitlines()[-1] == "it never got the swarm's state"
    assert "9.8%" not in drawn(console)
    console, out = node_console()
    console.on_event({"t": 1.0, "node": "node", "event": "training", "progress": 0.0})
    console.on_event(end)
    assert out.getvalue().splitlines()[-1] == "it did not train a single step"
    console.on_event(end | {"steps": 3})
    assert out.getvalue().splitlines()[-1] == "accuracy 9.75% on 2,000 held-out samples"


def test_everything_a_swarm_says_can_be_told() -> None:
    """A kill, a goodbye, a joiner who hears of the dead second hand: a line for a person never stops a node."""
    swarm = Swarm(4, SwarmSettings(samples_total=200_000))
    swarm.add("n0")
    for name in ("n1", "n2", "n3"):
        swarm.add(name, ("n0",))
    assert swarm.run(20, swarm.views_agree)
    swarm.kill("n1")
    swarm.stop("n2")
    swarm.run(8)
    swarm.add("n4", ("n0",))
    swarm.run(3)
    swarm.add("n5", ("n1", "n4"))  # one of its doors is dead
    swarm.run(600, lambda: not swarm.alive())
    told = set()
    for node in swarm.nodes.values():
        console, _ = node_console()
        for t, name, fields in node.events:
            console.on_event({"t": t, "node": node.name, "event": name, **fields})
            if name in NODE_NOTES:
                note = NODE_NOTES[name]({"t": t, "node": node.name, "event": name, **fields})
                is_no_news = (name == "reachability" and not fields["code"]) or fields.get("is_known")
                assert bool(note) != bool(is_no_news)
            told.add(name)
        drawn(console)
    assert {"status", "training", "state_received", "member_alive", "member_dead", "member_left", "leaving"} <= told


@pytest.mark.parametrize("name", NODE_NOTES)
def test_a_note_needs_no_field(name: str) -> None:
    console, out = node_console()
    console.on_event({"t": 1.0, "node": "node", "event": name})
    line = out.getvalue().strip()
    assert line
    assert "None" not in line


def test_the_launcher_is_sent_what_it_can_read_and_not_every_exchange() -> None:
    reader, writer = os.pipe()
    with FollowedConsole(writer) as console:
        console.say("a line")
        console.on_event({"t": 1, "node": "n0", "event": "exchange_mixed"})
        console.on_event(status() | {"loss": math.nan})
    lines = followed(reader, writer)
    assert [line["event"] for line in lines] == ["said", "status"]
    assert lines[0]["line"] == "a line"
    assert lines[1]["loss"] is None


def test_a_launcher_that_does_not_read_holds_up_no_node() -> None:
    """Ctrl-Z of `gossip train`: statuses are dropped and counted; the ticket, and how it ended, arrive."""
    reader, writer = os.pipe()
    seen = b""
    with FollowedConsole(writer) as console:
        for _ in range(2_000):  # some 600 kB; a pipe holds 64
            console.on_event(status())
        console.say("gossip node --join TICKET")
        console.on_event({"t": 9.0, "node": "n0", "event": "finished", "why": "x" * 10_000})
        os.set_blocking(reader, False)
        seen += _read_some(reader)
        console.on_event(status() | {"node": "after"})
        seen += _read_some(reader)
    lines = [json.loads(line) for line in (seen + _rest(reader, writer)).splitlines()]
    names = [line["event"] for line in lines]
    assert names.count("said") == names.count("finished") == 1
    assert sum(line.get("missed", 0) for line in lines) + names.count("status") == 2_001
    assert lines[-1]["node"] == "after"


def test_a_launcher_that_is_gone_is_nobodys_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with FollowedConsole(writer) as console:
        console.on_event(status())
    os.close(writer)


def followed(reader: int, writer: int) -> list[Event]:
    return [json.loads(line) for line in _rest(reader, writer).splitlines()]


def _rest(reader: int, writer: int) -> bytes:
    os.close(writer)
    os.set_blocking(reader, True)
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read()


def _read_some(reader: int) -> bytes:
    try:
        return os.read(reader, 65_536)
    except BlockingIOError:
        return b""
