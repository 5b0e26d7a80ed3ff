"""The picture of a run, as SVG text: every node's accuracy over samples trained and over bytes sent.

Plain data in, one string out: no files, no clock, nothing to install. Names may come from peers and are
escaped. The picture brings its own background, so it reads the same on a light and on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gossip import drawing as draw


@dataclass(frozen=True, slots=True)
class Curve:
    """One node's story. points: (samples the swarm had trained on, bytes this node had sent, accuracy 0..1).

    joined: the node came mid-run. end: "finished", "killed", "left", or anything else for no mark.
    """

    name: str
    points: Sequence[tuple[int, int, float]]
    joined: bool = False
    end: str = "finished"


DASHES = ("", "6 3", "2 3")  # a second and third round through the colours
WIDTH, PANEL_WIDTH, PANEL_HEIGHT, PANEL_TOP = 1080, 444, 300, 112
PANEL_LEFTS = (68, 596)
LEGEND_TOP = PANEL_TOP + PANEL_HEIGHT + 72
LEGEND_LINE = 22
LEGEND_ENTRIES_MAX = 24
POINTS_MAX = 400  # per curve: more than the pixels of a panel can show
CHARACTER_WIDTH = 6.9  # of the 12-pixel text, on the generous side: nobody measures fonts here
MARKS = {
    "joined": ("M 0 -6.5 L 6 4.5 L -6 4.5 Z", "joined mid-run"),
    "killed": ("M -5 -5 L 5 5 M -5 5 L 5 -5", "killed"),
    "left": ("M -4.5 -4.5 H 4.5 V 4.5 H -4.5 Z", "said goodbye"),
    "finished": ("M -3.5 0 A 3.5 3.5 0 1 1 3.5 0 A 3.5 3.5 0 1 1 -3.5 0 Z", "finished"),
}


def accuracy_picture(
    history: Sequence[Curve],
    title: str,
    subtitle: str = "",
    target: float | None = None,
    alone: float | None = None,
) -> str:
    """Two panels side by side as a complete SVG document.

    target: the accuracy asked for, a dashed line. alone: what a node reaches without the others, a dotted line.
    Points whose accuracy is not from 0 to 1 are left out, nan among them; a curve may have none.
    """
    curves = [_Drawn(curve, *_style(number)) for number, curve in enumerate(history)]
    points = [point for drawn in curves for point in drawn.points]
    references = [level for level in (target, alone) if level is not None]
    accuracy_low = _floor(min([accuracy for _, _, accuracy in points] + references, default=0.0))
    legend, legend_height = _legend(curves)
    height = LEGEND_TOP + legend_height + 6
    body = [
        draw.text(28, 40, title, size=20, weight=600),
        draw.text(28, 63, subtitle, colour=draw.SOFT, size=13),
    ]
    axes: tuple[tuple[int, str, Callable[[float], str]], ...] = (
        (0, "samples trained by the whole swarm", draw.count),
        (1, "bytes sent by the node itself", _bytes),
    )
    for (column, label, unit), left in zip(axes, PANEL_LEFTS, strict=True):
        high = max([point[column] for point in points], default=0) or 1
        x = draw.Scale(0, high * 1.03, left, left + PANEL_WIDTH)
        y = draw.Scale(accuracy_low, 1.0, PANEL_TOP + PANEL_HEIGHT, PANEL_TOP)
        body += _axes(x, y, label, unit)
        for drawn in curves:
            body += drawn.line(x, y, column)
        body += _reference(x, y, target, "target", "7 4", x.stop - 4)
        body += _reference(x, y, alone, "alone", "2 4", x.stop - 110)  # readable even where the two are close
        for drawn in curves:  # marks lie above all lines
            body += drawn.marks(x, y, column)
        if not points:
            body.append(
                draw.text((x.start + x.stop) / 2, PANEL_TOP + 150, "nothing measured yet", draw.SOFT, anchor="middle")
            )
    return draw.document(WIDTH, height, title, [*body, *legend])


class _Drawn:
    """A curve with its colour: knows how to draw itself, not where."""

    def __init__(self, curve: Curve, colour: str, dash: str) -> None:
        self.curve, self.colour, self.dash = curve, colour, dash
        self.points = [point for point in curve.points if 0 <= point[2] <= 1]  # nan is not

    def line(self, x: draw.Scale, y: draw.Scale, column: int) -> Iterator[str]:
        if len(self.points) > 1:
            thinned = self.points[:: -(-len(self.points) // POINTS_MAX)]
            if thinned[-1] is not self.points[-1]:
                thinned.append(self.points[-1])
            path = " ".join(f"{x(point[column]):.1f},{y(point[2]):.1f}" for point in thinned)
            yield (
                f'<polyline points="{path}" fill="none" stroke="{self.colour}" stroke-width="1.8" '
                f'stroke-linejoin="round" stroke-linecap="round"{draw.dashed(self.dash)}/>'
            )

    def marks(self, x: draw.Scale, y: draw.Scale, column: int) -> Iterator[str]:
        if self.points and self.curve.end in MARKS:
            yield _mark(self.curve.end, x(self.points[-1][column]), y(self.points[-1][2]), self.colour)
        if self.points and self.curve.joined:
            yield _mark("joined", x(self.points[0][column]), y(self.points[0][2]), self.colour)


def _style(number: int) -> tuple[str, str]:
    """Colour and dash of the node with this number."""
    return draw.COLOURS[number % len(draw.COLOURS)], DASHES[number // len(draw.COLOURS) % len(DASHES)]


def _axes(x: draw.Scale, y: draw.Scale, label: str, unit: Callable[[float], str]) -> Iterator[str]:
    """Grid, tick labels and the axis' name."""
    for value in draw.ticks(y.low, y.high, 5):
        yield draw.rule(x.start, y(value), x.stop, y(value), draw.RULE)
        yield draw.text(x.start - 10, y(value) + 4, f"{100 * value:.0f} %", draw.SOFT, anchor="end")
    for value in draw.ticks(x.low, x.high, 5):
        yield draw.rule(x(value), y.start, x(value), y.start + 5, draw.SOFT)
        yield draw.text(x(value), y.start + 20, unit(value), draw.SOFT, anchor="middle")
    yield draw.rule(x.start, y.start, x.stop, y.start, draw.SOFT)
    yield draw.text(x.start, y.stop - 14, "test accuracy", draw.INK, weight=600)
    yield draw.text(x.stop, y.start + 42, label, draw.INK, anchor="end", weight=600)


def _reference(
    x: draw.Scale, y: draw.Scale, value: float | None, name: str, dash: str, label_end: float
) -> Iterator[str]:
    """A level across the panel, its name below it and to the right, where curves that got there leave room."""
    if value is not None:
        yield draw.rule(x.start, y(value), x.stop, y(value), draw.SOFT, dash)
        yield draw.text(label_end, y(value) + 15, f"{name} {_percent(value)}", draw.SOFT, anchor="end")


def _legend(curves: Sequence[_Drawn]) -> tuple[list[str], int]:
    """Names with colour and last accuracy, line by line, then the marks in use. Also its height."""
    entries = []
    for drawn in curves[:LEGEND_ENTRIES_MAX]:
        last = f"  {_percent(drawn.points[-1][2])}" if drawn.points else ""
        swatch = f'<path d="M 0 -4 H 22" stroke="{drawn.colour}" stroke-width="3"{draw.dashed(drawn.dash)}/>'
        entries.append((swatch, _short(drawn.curve.name) + last))
    if len(curves) > LEGEND_ENTRIES_MAX:
        entries.append(("", f"and {len(curves) - LEGEND_ENTRIES_MAX} more"))
    used = {drawn.curve.end for drawn in curves} | {"joined" for drawn in curves if drawn.curve.joined}
    marks = [(_mark(kind, 11, -4, draw.SOFT), text) for kind, (_, text) in MARKS.items() if kind in used]
    parts: list[str] = []
    lines = 0
    for group in (entries, marks):
        width = 52 + max((len(text) for _, text in group), default=0) * CHARACTER_WIDTH
        columns = max(1, int((WIDTH - PANEL_LEFTS[0]) // width))
        for number, (swatch, text) in enumerate(group):
            left = PANEL_LEFTS[0] + number % columns * width
            top = LEGEND_TOP + (lines + number // columns) * LEGEND_LINE
            label = draw.text(30, 0, text)
            parts.append(f'<g transform="translate({left:.1f} {top})">{swatch}{label}</g>')
        lines += -(-len(group) // columns)
    return parts, lines * LEGEND_LINE


def _mark(kind: str, x: float, y: float, colour: str) -> str:
    """A mark with a rim of paper around it, so that it stands out from the lines below."""
    outline, _ = MARKS[kind]
    at = f'transform="translate({x:.1f} {y:.1f})"'
    if kind == "killed":
        strokes = ((draw.PAPER, 6), (colour, 2.6))
        return "".join(
            f'<path d="{outline}" {at} fill="none" stroke="{stroke}" stroke-width="{width}" stroke-linecap="round"/>'
            for stroke, width in strokes
        )
    return f'<path d="{outline}" {at} fill="{colour}" stroke="{draw.PAPER}" stroke-width="1.6"/>'


# -- Numbers -------------------------------------------------------------------------------------------------


def _floor(lowest: float) -> float:
    """Where the accuracy axis begins: a round tenth at or below the lowest point, never above one half."""
    return min(max(math.floor(lowest * 10) / 10, 0.0), 0.5)


def _bytes(value: float) -> str:
    """2500000 as "2.5 MB"."""
    return "0" if value == 0 else draw.count(value) + ("B" if value >= 1000 else " B")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "\u2026"
