"""What a person sees while a swarm trains: a live table on a terminal, plain lines elsewhere.

Reads events and nothing else, so the same view serves one node, a launcher, and a replayed log.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gossip.observe import Event

LINE_EVERY_S = 5.0  # between plain progress lines
COLOURS = {"training": "green", "settling": "cyan", "joining": "yellow", "finished": "bold", "left": "blue"}


@dataclass(slots=True)
class NodeRow:
    """One node, as its last events tell."""

    name: str
    state: str = "starting"
    status: dict[str, Any] = field(default_factory=dict)
    seen_at: float = 0.0  # event time of the last status
    up_bytes_per_s: float = 0.0
    down_bytes_per_s: float = 0.0

    def on_event(self, event: Event) -> None:
        match event["event"]:
            case "status":
                self._on_status(event)
            case "settling":
                self.state = "settling"
            case "training":
                self.state = "training"
            case "finished":
                self.status |= {"accuracy": event["accuracy"], "step": event["steps"], "samples_per_s": 0.0}
                self.state = event["outcome"]
                self.up_bytes_per_s = self.down_bytes_per_s = 0.0
            case "killed" | "failed":
                self.state = event["event"]
                self.status["samples_per_s"] = self.up_bytes_per_s = self.down_bytes_per_s = 0.0

    def _on_status(self, event: Event) -> None:
        seconds = event["t"] - self.seen_at
        if self.seen_at and seconds > 0:
            self.up_bytes_per_s = (event["bytes_sent"] - self.status.get("bytes_sent", 0)) / seconds
            self.down_bytes_per_s = (event["bytes_received"] - self.status.get("bytes_received", 0)) / seconds
        self.seen_at = event["t"]
        self.status = dict(event)
        self.state = event["phase"]


class SwarmView:
    """Rows of nodes and how far the swarm is."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: dict[str, NodeRow] = {}
        self.progress = 0.0
        self.notes: list[str] = []  # the latest happenings, newest last
        self._began = time.monotonic()

    def on_event(self, event: Event) -> None:
        row = self.rows.setdefault(event["node"], NodeRow(event["node"]))
        row.on_event(event)
        self.progress = max(self.progress, event.get("progress", 0.0))

    def note(self, text: str) -> None:
        self.notes = [*self.notes[-3:], text]

    def __rich__(self) -> Group:
        columns = (
            "step",
            "loss",
            "accu-\nracy",
            "samples\n/s",
            "kB/s\nup",
            "kB/s\ndown",
            "peers",
            "ex-\nchanges",
            "failed",
        )
        table = narrow_table(self.title, ("node", "state"), columns)
        for row in self.rows.values():
            table.add_row(*_cells(row))
        seconds = time.monotonic() - self._began
        bar = Table.grid(padding=(0, 1))
        bar.add_row("swarm", ProgressBar(total=1.0, completed=self.progress, width=40),
                    f"{self.progress:4.0%} of its samples, {seconds:.0f} s")  # fmt: skip
        return Group(table, bar, *(Text("  " + note, style="dim") for note in self.notes))

    def line(self) -> str:
        """The whole swarm in one plain line."""
        live = [row for row in self.rows.values() if row.state in ("training", "settling")]
        accuracies = [row.status["accuracy"] for row in live if row.status.get("accuracy", -1) >= 0]
        worst = f"{min(accuracies):.1%}" if accuracies else "-"
        rate = sum(row.status.get("samples_per_s", 0.0) for row in live)
        up = sum(row.up_bytes_per_s for row in live)
        return (
            f"{self.progress:4.0%}  {len(live)} nodes training  worst accuracy {worst}  "
            f"{rate:,.0f} samples/s  {up / 1000:,.0f} kB/s sent"
        )


def narrow_table(title: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """An empty table whose columns fit 80 characters: names first, numbers to the right."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 0), show_edge=False
    )
    for name in words:
        table.add_column(name, no_wrap=True, style="bold" if name == "node" else "")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(row: NodeRow) -> list[Text | str]:
    status = row.status
    accuracy = status.get("accuracy", -1.0)
    return [
        row.name,
        Text(row.state, style=COLOURS.get(row.state, "red")),
        f"{status.get('step', 0):,}",
        f"{status.get('loss', 0.0):.3f}",
        f"{accuracy:.1%}" if accuracy >= 0 else "-",
        f"{status.get('samples_per_s', 0.0):,.0f}",
        _kilobytes(row.up_bytes_per_s),
        _kilobytes(row.down_bytes_per_s),
        str(status.get("links", 0)),
        f"{status.get('exchanges', 0):,}",
        f"{status.get('exchanges_failed', 0):,}",
    ]


def _kilobytes(count: float) -> str:
    return f"{count / 1000:.1f}" if count < 1e6 else f"{count / 1000:,.0f}"


class SwarmConsole:
    """A view on standard output: drawn four times a second on a terminal, else a line now and then."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.view = SwarmView(title)
        self.console = console or Console(highlight=False)
        self._live = Live(self.view, console=self.console, refresh_per_second=4) if self.console.is_terminal else None
        self._line_at = 0.0

    def __enter__(self) -> SwarmConsole:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_event(self, event: Event) -> None:
        self.view.on_event(event)
        if self._live is not None and event["event"] == "status":
            self._live.start()  # not before: a table hides the cursor, and nobody could bring it back yet
        if self._live is None and event["event"] == "status" and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + LINE_EVERY_S
            self.say(self.view.line())

    def say(self, line: str) -> None:
        """A line that stays, above the table."""
        self.console.print(line, markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Something happened: under the table on a terminal, a line elsewhere."""
        if self._live is None:
            self.say(line)
        else:
            self.view.note(line)


class NodeConsole(SwarmConsole):
    """One node at a terminal."""

    def __init__(self) -> None:
        super().__init__("this node")

    def __enter__(self) -> NodeConsole:
        super().__enter__()
        return self

    def on_event(self, event: Event) -> None:
        super().on_event(event)
        note = NODE_NOTES.get(event["event"])
        if note is not None:
            self.note(note(event))


NODE_NOTES: dict[str, Callable[[Event], str]] = {
    "started": lambda e: f"{e['key']} listens at {e['address']}, shard {e['shard']}",
    "prepared": lambda e: f"{e['parameters']:,} parameters, {e['train_samples']:,} samples of its own",
    "state_received": lambda e: f"state received from {', '.join(e['donors'])}",
    "member_alive": lambda e: f"{e['peer']} is here",
    "member_dead": lambda e: f"{e['peer']} is dead: {e['why']}",
    "member_left": lambda e: f"{e['peer']} said goodbye",
    "link_refused": lambda e: f"no link with {e['peer']} at {e['address'] or 'an unknown address'}: {e['reason']}",
    "leaving": lambda e: f"leaving: {e['why']}",
    "finished": lambda e: f"accuracy {e['accuracy']:.2%} on {e['looked_at']:,} held-out samples",
}


# Hundreds a second: they stay in the node's own events.jsonl.
TOO_MANY_TO_FOLLOW = ("exchange_mixed", "exchange_answered", "exchange_skipped")


class FollowedConsole:
    """The launcher is at the other end: events as lines on standard output, nothing else."""

    def __enter__(self) -> FollowedConsole:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, line: str) -> None:
        """Lines for a person go the launcher's way, as events."""
        self.on_event({"event": "said", "node": "", "line": line})

    def on_event(self, event: Event) -> None:
        if event["event"] in TOO_MANY_TO_FOLLOW:
            return
        try:
            sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            pass  # the launcher is gone; the end of standard input says so too, and ends this node in order
