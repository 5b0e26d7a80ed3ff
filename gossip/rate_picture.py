"""The picture of a learning-rate test, as SVG text: the loss over a rate that grew until training diverged.

Plain data in, one string out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gossip import drawing as draw

WIDTH, HEIGHT = 760, 470
LEFT, RIGHT, TOP, BOTTOM = 68, WIDTH - 28, 112, HEIGHT - 68
WORDS_WIDTH = 120
LOSS, GOOD, BAD = draw.COLOURS[0], draw.COLOURS[2], draw.COLOURS[1]


def rate_picture(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    title: str,
    subtitle: str = "",
    *,
    suggested: float | None = None,
    diverged_at: float | None = None,
) -> str:
    """A complete SVG document. rates: growing, above 0. What is not finite, or beyond the panel, is left out."""
    x = draw.Scale(math.log10(rates[0]), math.log10(max(rates[-1], 1.01 * rates[0])), LEFT, RIGHT)
    finite = [loss for loss in smoothed if math.isfinite(loss)]
    y = draw.Scale(0.0, 1.5 * max(smoothed[0], min(finite, default=1.0), 1e-9), BOTTOM, TOP)
    body = [
        draw.text(28, 40, title, size=20, weight=600),
        draw.text(28, 63, subtitle, colour=draw.SOFT, size=13),
        *_axes(x, y),
        *_dots(x, y, rates, losses),
        _line(x, y, rates, smoothed),
        *_mark(x, suggested, "suggested", GOOD, "", "end"),
        *_mark(x, diverged_at, "diverges", BAD, "6 4", "start"),
    ]
    return draw.document(WIDTH, HEIGHT, title, body)


def _axes(x: draw.Scale, y: draw.Scale) -> Iterator[str]:
    for value in draw.ticks(y.low, y.high, 5):
        yield draw.rule(LEFT, y(value), RIGHT, y(value), draw.RULE)
        yield draw.text(LEFT - 10, y(value) + 4, f"{value:g}", draw.SOFT, anchor="end")
    for power in range(math.ceil(x.low - 1e-9), math.floor(x.high + 1e-9) + 1):
        yield draw.rule(x(power), BOTTOM, x(power), BOTTOM + 5, draw.SOFT)
        yield draw.text(x(power), BOTTOM + 20, f"{10.0**power:g}", draw.SOFT, anchor="middle")
    yield draw.rule(LEFT, BOTTOM, RIGHT, BOTTOM, draw.SOFT)
    yield draw.text(LEFT, TOP - 20, "training loss", draw.INK, weight=600)
    yield draw.text(RIGHT, BOTTOM + 42, "learning rate", draw.INK, anchor="end", weight=600)


def _dots(x: draw.Scale, y: draw.Scale, rates: Sequence[float], losses: Sequence[float]) -> Iterator[str]:
    """The loss of every batch."""
    for rate, loss in zip(rates, losses, strict=True):
        if 0 <= loss <= y.high:  # nan is not
            at = f'cx="{x(math.log10(rate)):.1f}" cy="{y(loss):.1f}"'
            yield f'<circle {at} r="1.6" fill="{LOSS}" opacity="0.3"/>'


def _line(x: draw.Scale, y: draw.Scale, rates: Sequence[float], smoothed: Sequence[float]) -> str:
    points = [
        f"{x(math.log10(rate)):.1f},{y(loss):.1f}"
        for rate, loss in zip(rates, smoothed, strict=True)
        if 0 <= loss <= y.high
    ]
    return (
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{LOSS}" stroke-width="2" '
        'stroke-linejoin="round" stroke-linecap="round"/>'
    )


def _mark(x: draw.Scale, rate: float | None, words: str, colour: str, dash: str, anchor: str) -> Iterator[str]:
    """A level of the rate, named above the panel, to the left ("end") or the right of it, where there is room."""
    if rate is not None:
        at = min(max(x(math.log10(rate)), x.start), x.stop)
        anchor = "end" if at > RIGHT - WORDS_WIDTH else "start" if at < LEFT + WORDS_WIDTH else anchor
        yield draw.rule(at, TOP, at, BOTTOM, colour, dash)
        yield draw.text(at, TOP - 6, f"{words} {rate:.2g}", colour, anchor=anchor, weight=600)
