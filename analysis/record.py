"""A run as a short film: its events.jsonl, replayed through the console's own view, as one animated SVG.

python analysis/record.py RUN OUT.svg [--seconds 20] [--frames 36]

The picture plays wherever an SVG image does, a README included: one CSS animation moves a strip of frames
behind a window, no script, nothing to load. A viewer that does not animate shows the last frame.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console

from gossip.console import NodeRow, SwarmView
from gossip.observe import Event, read_events

HOLD_SHARE = 0.3  # of the film: how long the last frame stays before the film starts again
NAMES_CHARS_MAX = 16
LINE_CHARS_MAX = 92
NOTES_MAX = 4
LATE = 0.02  # whoever starts after this share of the run is a joiner
TOGETHER_S = 1.0  # joiners this close to each other share a note

# The grid: one character of a 14 px monospace font, one line.
CHAR, LINE = 8.43, 22
LEFT, TABLE_TOP = 24, 114
BAR_LEFT, BAR_CHARS = 6, 48
ENDING_INDENT = 9  # "together " and "alone    " stand out


class Column(NamedTuple):
    """One column of the table: its head, its width in characters, and what a row shows there."""

    head: str
    chars: int
    show: Callable[[NodeRow], str]


def _number(key: str, form: str = ",.0f") -> Callable[[NodeRow], str]:
    return lambda row: format(row.status[key], form) if key in row.status else ""


def _now(show: Callable[[NodeRow], str]) -> Callable[[NodeRow], str]:
    """Only while the node is at work: what is no rate any more is not shown as 0."""
    return lambda row: show(row) if row.status and row.state not in OVER else ""


def _accuracy(row: NodeRow) -> str:
    accuracy = row.status.get("accuracy", -1.0)
    return f"{accuracy:.1%}" if accuracy >= 0 else ""


OVER = ("finished", "left", "killed", "failed")
COLUMNS = (
    Column("node", 6, lambda row: row.name[:NAMES_CHARS_MAX]),
    Column("state", 9, lambda row: row.state),
    Column("step", 7, _number("step")),
    Column("loss", 8, _number("loss", ".3f")),
    Column("accuracy", 10, _accuracy),
    Column("samples/s", 11, _now(_number("samples_per_s"))),
    Column("kB/s up", 9, _now(lambda row: f"{row.up_bytes_per_s / 1000:,.0f}")),
    Column("kB/s down", 11, _now(lambda row: f"{row.down_bytes_per_s / 1000:,.0f}")),
    Column("peers", 7, _now(_number("links"))),
    Column("exchanges", 11, _number("exchanges")),
)
WIDTH = round(2 * LEFT + CHAR * sum(column.chars for column in COLUMNS))

STYLE = """\
text{font:14px ui-monospace,SFMono-Regular,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#c9d1d9;
white-space:pre}
.r{text-anchor:end}.t{font-weight:600;fill:#3fb950}.h{fill:#7d8590}.b{font-weight:600;fill:#f0f6fc}.d{fill:#8b949e}.x{fill:#565f6a}
.starting{fill:#6e7681}.training{fill:#3fb950}.settling{fill:#39c5cf}.joining{fill:#d29922}
.finished{fill:#f0f6fc;font-weight:600}.left{fill:#58a6ff}.killed,.failed{fill:#f85149}
"""


# -- The story --------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """What is on the screen at one moment."""

    rows: list[tuple[str, list[str]]]  # (state, cells)
    progress: float
    caption: str
    notes: list[str]
    ending: tuple[str, ...] = ()


class Replay:
    """Events in, the screen out. Time is the events' own."""

    def __init__(self, began_at: float) -> None:
        self.view = SwarmView("")
        self._began_at = began_at
        self._joiners: list[str] = []
        self._joined_at = 0.0

    def on_event(self, event: Event) -> None:
        is_first = event["node"] in list(self.view.rows)[:1]
        self.view.on_event(event)
        match event["event"]:
            case "started" if self.view.progress > LATE:
                self._on_join(event)
            case "killed":
                which = ", the very first node," if is_first else ""
                self.view.note(f"{event['node']}{which} is killed (SIGKILL)")
            case "leaving" if not event.get("why", "").startswith("the run is over"):
                self.view.note(f"{event['node']} says goodbye")
            case "failed":
                self.view.note(f"{event['node']} failed: {event.get('why', '')}")

    def _on_join(self, event: Event) -> None:
        if self._joiners and event["t"] < self._joined_at + TOGETHER_S:
            self.view.notes.pop()
        else:
            self._joiners = []
            self._joined_at = event["t"]
        self._joiners.append(event["node"])
        verb = "joins: it holds" if len(self._joiners) == 1 else "join: they hold"
        self.view.note(f"{' and '.join(self._joiners)} {verb} a ticket, nothing else")

    def frame(self, now: float) -> Frame:
        ordered = sorted(self.view.rows.values(), key=lambda row: (len(row.name), row.name))
        rows = [(row.state, [column.show(row) for column in COLUMNS]) for row in ordered]
        caption = f"{self.view.progress:4.0%} of its samples, {max(0.0, now - self._began_at):.0f} s"
        return Frame(rows, self.view.progress, caption, self.view.notes[-NOTES_MAX:])


def film(events: Iterable[Event], frames: int) -> list[Frame]:
    """`frames` moments, evenly spaced from when training begins to the end of the run."""
    ordered = sorted(events, key=lambda event: event["t"])
    if not ordered:
        raise click.ClickException("no events in this run; was it started by `gossip train` or `gossip demo`?")
    end = ordered[-1]["t"]
    begin = min((event["t"] for event in ordered if event["event"] == "training"), default=ordered[0]["t"])
    replay, shown = Replay(begin), []
    for number in range(frames):
        now = begin + (end - begin) * number / max(1, frames - 1)
        while ordered and ordered[0]["t"] <= now:
            replay.on_event(ordered.pop(0))
        shown.append(replay.frame(now))
    return shown


def last_words(result: dict[str, Any]) -> tuple[str, ...]:
    """What the run printed at its end, as far as it is the message: alone, together, at what cost."""
    from gossip.summary import print_summary

    said = _Said()
    print_summary(result, said)  # type: ignore[arg-type]
    kept = [line for line in said.lines if line.startswith(("alone ", "together "))]
    costs = filter(None, (re.match(r".+ s of training, .+ MB sent in all", line) for line in said.lines))
    cost = [f"{'in':{ENDING_INDENT}}{match[0]}" for match in costs]
    return (*kept, *cost)


class _Said:
    """Stands in for the console: keeps the lines, drops the table."""

    def __init__(self) -> None:
        self.console = Console(file=io.StringIO())
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


# -- The picture ------------------------------------------------------------------------------------


def svg(frames: list[Frame], title: str, command: str, seconds: float) -> str:
    """The film. frames: at least one; the last is held."""
    rows = max(len(frame.rows) for frame in frames)
    words = max(len(frame.notes) + len(frame.ending) for frame in frames)
    strip = round((rows + words + 3.2) * LINE)  # height of one frame
    height = TABLE_TOP + strip
    pictures = "\n".join(
        f'<g transform="translate(0 {number * strip})">{_frame(frame, rows)}</g>' for number, frame in enumerate(frames)
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">
<title>{escape(title)}</title>
<style>
{STYLE}{_animation(len(frames), strip, seconds)}</style>
<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10" fill="#0d1117" stroke="#30363d"/>
<path d="M1 36V10.5a9.5 9.5 0 0 1 9.5-9.5h{WIDTH - 21}a9.5 9.5 0 0 1 9.5 9.5V36z" fill="#161b22"/>
<path d="M0 36.5H{WIDTH}" stroke="#30363d"/>
<circle cx="20" cy="18.5" r="5.5" fill="#ff5f57"/><circle cx="39" cy="18.5" r="5.5" fill="#febc2e"/>\
<circle cx="58" cy="18.5" r="5.5" fill="#28c840"/>
<text x="{WIDTH / 2}" y="23" class="d" text-anchor="middle">{escape(title)}</text>
<text x="{LEFT}" y="66"><tspan class="training">$</tspan> <tspan class="b">{escape(command)}</tspan></text>
{_heads(TABLE_TOP - 12)}
<path d="M{LEFT} {TABLE_TOP - 1.5}H{WIDTH - LEFT}" stroke="#30363d"/>
<svg y="{TABLE_TOP}" width="{WIDTH}" height="{strip}" viewBox="0 0 {WIDTH} {strip}" overflow="hidden"><g class="film">
{pictures}
</g></svg>
</svg>
"""


def _animation(count: int, strip_height: int, seconds: float) -> str:
    """Each frame in its turn, the last one held; still, on the last frame, for who wants no motion."""
    step = 100 * (1 - HOLD_SHARE) / max(1, count - 1)
    moments = "".join(
        f"{number * step:.2f}%{{transform:translateY({-number * strip_height}px)}}\n" for number in range(count)
    )
    last = -(count - 1) * strip_height
    return (
        f".film{{transform:translateY({last}px);animation:film {seconds:g}s step-end infinite}}\n"
        f"@keyframes film{{\n{moments}100%{{transform:translateY({last}px)}}}}\n"
        "@media(prefers-reduced-motion:reduce){.film{animation:none}}\n"
    )


def _heads(y: float) -> str:
    return "".join(_text(x, y, column.head, "h", right) for column, x, right in _places())


def _places() -> Iterable[tuple[Column, float, bool]]:
    """Each column with its x: two of names from the left, the numbers to their right edge."""
    chars = 0
    for number, column in enumerate(COLUMNS):
        is_number = number >= 2
        yield column, LEFT + CHAR * (chars + (column.chars if is_number else 0)), is_number
        chars += column.chars


def _frame(frame: Frame, rows: int) -> str:
    parts = []
    for number, (state, shown) in enumerate(frame.rows):
        is_gone = state in OVER and state != "finished"
        for (column, x, right), text in zip(_places(), shown, strict=True):
            style = {"node": "b", "state": state, "accuracy": "b"}.get(column.head, "")
            dimmed = "x" if is_gone and column.head != "state" else style
            parts.append(_text(x, (number + 1) * LINE, text, dimmed, right))
    y = (rows + 1.4) * LINE
    parts += [_text(LEFT, y, "swarm", "d"), _bar(y - 8, 1.0, "#21262d"), _bar(y - 8, frame.progress, "#3fb950")]
    parts.append(_text(LEFT + (BAR_LEFT + BAR_CHARS + 1.5) * CHAR, y, frame.caption, "d"))
    y += LINE / 4
    for note in frame.notes:
        y += LINE
        parts.append(_text(LEFT, y, f"→ {note}"[:LINE_CHARS_MAX], "d"))
    y += LINE / 2
    for line in frame.ending:
        y += LINE
        first, rest = line[:ENDING_INDENT].strip(), line[ENDING_INDENT:LINE_CHARS_MAX]
        parts.append(_text(LEFT, y, first, "t" if first == "together" else "b"))
        parts.append(_text(LEFT + ENDING_INDENT * CHAR, y, rest))
    return "".join(parts)


def _bar(y: float, share: float, colour: str) -> str:
    x, width = LEFT + BAR_LEFT * CHAR, BAR_CHARS * CHAR * min(1.0, share)
    return f'<rect x="{x:.0f}" y="{y:g}" width="{width:.0f}" height="7" rx="3.5" fill="{colour}"/>'


def _text(x: float, y: float, text: str, style: str = "", right: bool = False) -> str:
    if not text:
        return ""
    names = " ".join(filter(None, (style, "r" if right else "")))
    attribute = f' class="{escape(names)}"' if names else ""
    spaced = escape(text).replace("  ", "\u00a0 ")  # a run of spaces would be drawn as one
    return f'<text x="{x:.0f}" y="{y:g}"{attribute}>{spaced}</text>'


# -- The command ------------------------------------------------------------------------------------


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(1), help="Length of the film.")
@click.option("--frames", default=36, show_default=True, type=click.IntRange(2, 200), help="How many pictures.")
@click.option("--command", default="make demo", show_default=True, help="What stands at the prompt.")
def main(run: Path, out: Path, seconds: float, frames: int, command: str) -> None:
    """Draw the film of RUN, a run's folder, into OUT.svg."""
    shown = film(read_events(run / "events.jsonl"), frames)
    notes = json.loads((run / "run.json").read_text(encoding="utf-8"))
    if "result" in notes:
        shown.append(shown[-1]._replace(ending=last_words(notes["result"])))
    title = f"gossip: {len(shown[-1].rows)} nodes, no server"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(svg(shown, title, command, seconds), encoding="utf-8")
    click.echo(f"{out}: {len(shown)} frames, {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
