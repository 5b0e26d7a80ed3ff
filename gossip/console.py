"""What a person sees while a swarm trains: a live table on a terminal, plain lines elsewhere.

Reads events and nothing else, so the same view serves one node, a launcher, and a replayed log.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gossip.observe import Event, strict_json

LINE_EVERY_S = 5.0  # between plain progress lines
COLOURS = {
    "training": "green",
    "settling": "cyan",
    "paused": "yellow",
    "joining": "yellow",
    "finished": "bold",
    "left": "blue",
}


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
                steps = event.get("steps", 0)
                accuracy = event.get("accuracy", -1.0) if steps else -1.0  # of the first random numbers: worth nothing
                self.status |= {"accuracy": accuracy, "step": steps, "samples_per_s": 0.0}
                self.state = event.get("outcome", "finished")
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

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        rows = [_cells(row) for row in self.rows.values()]
        yield table_that_fits(self.title, COLUMNS, rows, FIRST_TO_GO, console, options.max_width)
        text = f"{self.progress:4.0%} of its samples, {time.monotonic() - self._began:.0f} s"
        bar = Table.grid(padding=(0, 1))
        bar_width = min(40, max(4, options.max_width - len("swarm") - len(text) - 2))
        bar.add_row("swarm", ProgressBar(total=1.0, completed=self.progress, width=bar_width), text)
        yield bar
        yield from (Text("  " + note, style="dim") for note in self.notes)

    def line(self) -> str:
        """The whole swarm in one plain line."""
        live = [row for row in self.rows.values() if row.state in ("training", "settling")]
        accuracies = [row.status["accuracy"] for row in live if row.status.get("accuracy", -1) >= 0]
        worst = f"{min(accuracies):.1%}" if accuracies else "-"
        rate = sum(row.status.get("samples_per_s", 0.0) for row in live)
        up = sum(row.up_bytes_per_s for row in live)
        return (
            f"{self.progress:4.0%}  {counted(len(live), 'node')} training  worst accuracy {worst}  "
            f"{rate:,.0f} samples/s  {up / 1000:,.0f} kB/s sent"
        )


def counted(number: int, thing: str) -> str:
    """ "1 node", "2 nodes"."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def printable(text: str) -> str:
    """Others chose these words: what would steer a terminal is shown as a question mark."""
    return "".join("?" if unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t" else sign for sign in text)


Cell = str | Text
WORDS = ("host", "node", "state", "end")  # columns to the left; the others are numbers


def table_that_fits(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    first_to_go: Sequence[str],
    console: Console,
    width: int,
) -> Table:
    """A table at most `width` wide. Digits are never cut: columns of `first_to_go` are left out, in this order."""
    rows = list(rows)
    kept = list(columns)
    for name in ("", *first_to_go):
        kept = [column for column in kept if column != name]
        table = _table(title, kept, [[row[columns.index(column)] for column in kept] for row in rows])
        if Measurement.get(console, console.options.update(width=10_000), table).maximum <= width:
            break
    return table


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Every cell is taken as it is: square brackets in a name are no markup."""
    table = Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 0),
                  show_edge=False)  # fmt: skip
    for name in columns:
        is_word = name in WORDS
        table.add_column(
            Text(name), justify="left" if is_word else "right", no_wrap=True, style="bold" if name == "node" else ""
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in row))
    return table


COLUMNS = (
    "node", "state", "step", "loss", "accu-\nracy", "samples\n/s", "kB/s\nup", "kB/s\ndown", "peers", "ex-\nchanges",
    "failed",
)  # fmt: skip
FIRST_TO_GO = ("loss", "kB/s\ndown", "kB/s\nup", "peers", "failed", "ex-\nchanges", "samples\n/s", "step")


def _cells(row: NodeRow) -> list[Cell]:
    """One per name in COLUMNS."""
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

    line_every_s = LINE_EVERY_S

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
            self._line_at = time.monotonic() + self.line_every_s
            self.say(self.line())

    def line(self) -> str:
        """How it goes, in one plain line."""
        return self.view.line()

    def say(self, line: str) -> None:
        """A line that stays, above the table."""
        self.console.print(printable(line), markup=False, emoji=False, soft_wrap=True)

    def on_warm_up(self, done: int, total: int, name: str) -> None:
        """Kernels are being compiled: a line that changes on a terminal, one now and then elsewhere."""
        line = f"compiling kernels, once per machine: {done} of {total}, {name}" if done < total else ""
        if self.console.is_terminal:
            self.console.print(f"{line:<78.78}", end="\r", markup=False, highlight=False)
        elif line and done and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + self.line_every_s
            self.say(line)

    def note(self, line: str) -> None:
        """Something happened: under the table on a terminal, a line elsewhere."""
        if self._live is None:
            self.say(line)
        else:
            self.view.note(printable(line))


class NodeConsole(SwarmConsole):
    """One node at a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__("this node", console)
        self._status: Event = {}
        self._has_begun = False  # to train

    def __enter__(self) -> NodeConsole:
        super().__enter__()
        return self

    def on_event(self, event: Event) -> None:
        self._has_begun |= event["event"] in ("training", "state_received")
        if event["event"] == "status":
            self._status = event
        super().on_event(event)
        if event["event"] == "finished" and not event.get("steps"):
            self.note("it did not train a single step" if self._has_begun else "it never got the swarm's state")
            return
        note = NODE_NOTES.get(event["event"], lambda _: "")(event)
        if note:
            self.note(note)

    def line(self) -> str:
        status = self._status
        accuracy = status.get("accuracy", -1.0)
        row = self.view.rows[status["node"]]
        return (
            f"{self.view.progress:4.0%}  of {counted(status.get('members', 1), 'member')}  "
            f"accuracy {f'{accuracy:.1%}' if accuracy >= 0 else '-'}  "
            f"{status.get('samples_per_s', 0.0):,.0f} samples/s  {row.up_bytes_per_s / 1000:,.0f} kB/s sent"
        )


def _with(event: Event, words: str, reason: str = "why") -> str:
    """The words, and the reason where one is given."""
    return f"{words}: {event[reason]}" if event.get(reason) else words


def _peer(event: Event) -> str:
    return event.get("peer") or "a peer"


def command_note(event: Event) -> str:
    return f"the owner says: {event.get('name', 'something')} {event.get('value', '')}".rstrip()


# What a person should know of, also of nodes a launcher has started.
TROUBLES: dict[str, Callable[[Event], str]] = {
    "checkpoint_refused": lambda e: _with(e, "a checkpoint is of no use, the one before is taken"),
    "checkpoint_failed": lambda e: _with(e, "no checkpoint could be written, training goes on and the last one stays"),
    "backup_failed": lambda e: _with(e, "no backup could be made, training goes on"),
    "backup_given_up": lambda e: _with(e, f"the last backup was given up, the run is in {e.get('run', 'its folder')}"),
}
# A field may be missing, or come from another version: a line for a person is no reason to stop a node.
NODE_NOTES: dict[str, Callable[[Event], str]] = {
    "started": lambda e: f"{e.get('key', 'it')} listens at {e.get('address') or '-'}, shard {e.get('shard', '-')}",
    "started_from": lambda e: _with(
        e, f"begins with {e.get('file') or '-'}, {e.get('frozen', 0):,} frozen, afresh: {e.get('fresh') or 'nothing'}"
    ),
    "prepared": lambda e: (
        f"{e.get('parameters', 0):,} parameters, {counted(e.get('train_samples', 0), 'sample')} of its own"
    ),
    "no_donor": lambda e: f"nobody alive holds a state to give, for {e.get('seconds', 0.0):.0f} s now; waiting",
    "donor_distrusted": lambda e: f"{_peer(e)} gave a state that is no good: it is thrown away, others are asked",
    "state_received": lambda e: f"state received from {', '.join(e.get('donors') or ['the swarm'])}",
    "member_alive": lambda e: f"{_peer(e)} is here",
    "member_dead": lambda e: _with(e, f"{_peer(e)} is dead"),
    "member_left": lambda e: f"{_peer(e)} said goodbye",
    "link_refused": lambda e: (
        ""  # the same as before
        if e.get("is_known")
        else _with(e, f"no link with {_peer(e)} at {e.get('address') or 'an unknown address'}", "reason")
    ),
    "command": command_note,
    "partition_suspected": lambda e: (
        f"{counted(e.get('lost', 0), 'member')} lost at once, maybe by a cut; they are looked for, training goes on"
    ),
    "partition_over": lambda e: f"whoever was lost is back, or given up, after {e.get('after_s', 0.0):.0f} s",
    "views_differ": lambda e: (
        f"{_peer(e)} sees {counted(e.get('theirs', 0), 'member')} and this node {e.get('mine', 0)}: asking it for them"
    ),
    "reachability": lambda e: e.get("advice", "it is being found out whether others can reach this node"),
    "same_key_elsewhere": lambda e: _with(e, f"{_peer(e)} keeps coming from two places", "advice"),
    "far_behind": lambda e: "the swarm is far ahead: taking its state",
    **TROUBLES,
    "leaving": lambda e: _with(e, "leaving"),
    "finished": lambda e: f"accuracy {e.get('accuracy', 0.0):.2%} on {e.get('looked_at', 0):,} held-out samples",
}


# Hundreds a second: they stay in the node's own events.jsonl.
TOO_MANY_TO_FOLLOW = ("exchange_mixed", "exchange_answered", "exchange_skipped")


# What the launcher acts on: it waits where the pipe is full. The rest tells how things go, and is told again.
MUST_ARRIVE = ("said", "started", "training", "command", "evaluated", "finished")
WAITING_BYTES_MAX = 1 << 20


class FollowedConsole:
    """The launcher is at the other end: events as lines on standard output, nothing else.

    A launcher that does not read, be it suspended with Ctrl-Z, never holds up its nodes: while the pipe is full
    events are dropped, and the next one that goes out says in `missed` how many were.
    """

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._waiting = bytearray()  # the rest of a line, and what must arrive
        self._missed = 0

    def __enter__(self) -> FollowedConsole:
        os.set_blocking(self._fd, False)
        return self

    def __exit__(self, *_: object) -> None:
        """The node is done, so that it may wait now."""
        os.set_blocking(self._fd, True)
        self._push()

    def say(self, line: str) -> None:
        """Lines for a person go the launcher's way, as events."""
        self.on_event({"event": "said", "node": "", "line": line})

    def on_warm_up(self, done: int, total: int, name: str) -> None:
        """The launcher has done it."""

    def on_event(self, event: Event) -> None:
        name = event["event"]
        if name in TOO_MANY_TO_FOLLOW:
            return
        is_free = self._push()
        if not is_free and (name not in MUST_ARRIVE or len(self._waiting) > WAITING_BYTES_MAX):
            self._missed += 1
            return
        if self._missed:
            event = event | {"missed": self._missed}
            self._missed = 0
        self._waiting += strict_json(event).encode() + b"\n"
        self._push()

    def _push(self) -> bool:
        """Write what waits. False: the pipe is full."""
        while self._waiting:
            try:
                del self._waiting[: os.write(self._fd, self._waiting)]
            except BlockingIOError:
                return False
            except BrokenPipeError:
                self._waiting.clear()  # the launcher is gone; the end of standard input says so too, and ends this node
        return True
