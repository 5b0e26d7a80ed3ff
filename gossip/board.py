"""`gossip status` before a person's eyes: a line about the swarm, and a table with a row per node."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from gossip.console import COLOURS, Cell, counted, printable, table_that_fits
from gossip.status import Report

COLUMNS = (
    "node", "state", "step", "loss", "accu-\nracy", "samples\n/s", "peers", "MB\nsent", "MB re-\nceived", "life",
    "heard", "address",
)  # fmt: skip
FIRST_TO_GO = (
    "life", "MB re-\nceived", "MB\nsent", "heard", "loss", "peers", "address", "samples\n/s", "step",
)  # fmt: skip


ENDED = ("finished", "left", "killed", "failed")


class Board:
    """A report, drawn as wide as there is room."""

    def __init__(self, report: Report, note: str = "") -> None:
        self._report = report
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        title, *more = headlines(self._report)
        rows = [_cells(node, self._report["when"]) for node in self._report["nodes"]]
        yield table_that_fits(title, COLUMNS, rows, FIRST_TO_GO, console, options.max_width)
        yield from (Text("  " + printable(line)) for line in more)
        if self._note and "is over" not in title:
            yield Text("  " + printable(self._note), style="dim")


def headlines(report: Report) -> list[str]:
    """The swarm as a whole, in plain lines; the first is the title."""
    swarm = report["swarm"]
    if report["when"] == "past":
        return _past_lines(report)
    of = f"of {swarm['samples_total']:,} samples"
    ends = "" if swarm["ends_in_s"] is None else f", about {duration(swarm['ends_in_s'])} left"
    wants = ", ".join(f"{name} {value}" for name, value in swarm["owner_wants"].items())
    return [
        f"{swarm['experiment']}: {counted(swarm['members'], 'member')}, {swarm['training']} training, "
        f"running for {duration(swarm['run_s'])}",
        f"{swarm['progress']:.1%} {of}, {swarm['samples_per_s']:,.0f} samples/s{ends}",
        *([f"the owner's word: {wants}"] if wants else []),
    ]


def _past_lines(report: Report) -> list[str]:
    swarm = report["swarm"]
    is_over = all(node["state"] in ENDED for node in report["nodes"])
    how_it_is = "is over" if is_over and report["nodes"] else "does not answer"
    at = swarm["last_event"]
    when = (
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}, {duration(time.time() - at)} ago" if at else "never"
    )
    result = swarm["result"] or {}
    accuracy = result.get("accuracy")
    how = f", {result['outcome']}: {result['why']}" if result.get("outcome") and result.get("why") else ""
    return [
        f"PAST: {swarm['experiment']} {how_it_is}; this is what {report['run']} says",
        f"last event {when}; {swarm['progress']:.1%} done{how}"
        + (f", accuracy {accuracy:.1%}" if isinstance(accuracy, float) else ""),
    ]


def duration(seconds: float) -> str:
    """ "8 s", "3 min 20 s", "2 h 5 min", "3 d 4 h": two parts at most."""
    parts = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    left, shown = int(max(0.0, seconds)), list[str]()
    for size, unit in parts:
        count, left = divmod(left, size)
        if count or (unit == "s" and not shown):
            shown.append(f"{count} {unit}")
        elif shown:
            break
    return " ".join(shown[:2])


def _cells(node: Report, when: str) -> list[Cell]:
    """One per name in COLUMNS."""
    state = node["state"] if node["state"] in ("suspect", "dead", "left") or not node["phase"] else node["phase"]
    if node["state"] in ENDED:
        state = node["state"]
    elif when == "past":
        state = f"was {state}"
    accuracy, heard_s = node["accuracy"], node["heard_s"]
    return [
        node["name"],
        Text(state, style=COLOURS.get(state, "dim" if when == "past" else "red")),
        f"{node['step']:,}",
        f"{node['loss']:.3f}" if node["loss"] else "-",
        f"{accuracy:.1%}" if accuracy is not None else "-",
        f"{node['samples_per_s']:,.0f}",
        str(node["links"]),
        f"{node['bytes_sent'] / 1e6:,.1f}",
        f"{node['bytes_received'] / 1e6:,.1f}",
        str(node["incarnation"]),
        "-" if heard_s is None else "now" if heard_s < 2 and when == "now" else duration(heard_s),
        node["address"].partition(",")[0] or "-",
    ]
