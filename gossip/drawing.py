"""What every picture is made of, as SVG text: axes' scales, round numbers, lines, words.

Plain data in, strings out. Words may come from peers and are escaped. A picture brings its own background, so
that it reads the same on a light and on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

# Okabe and Ito's colours, told apart by colour-blind readers too, without the yellow that white swallows.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b4fa3", "#6b7280")
PAPER, INK, SOFT, RULE = "#fdfdfc", "#1f2933", "#66727f", "#e4e7ea"
FONTS = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, DejaVu Sans, sans-serif"


class Scale(NamedTuple):
    """One axis: data from `low` to `high`, drawn from pixel `start` to pixel `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def document(width: int, height: int, title: str, body: Sequence[str]) -> str:
    """A complete SVG document on paper."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="{FONTS}">'
    )
    paper = f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>'
    return "\n".join([head, f"<title>{safe(title)}</title>", paper, *body, "</svg>"]) + "\n"


def ticks(low: float, high: float, wanted: int) -> Iterable[float]:
    """About `wanted` round numbers (1, 2 or 5 times a power of ten apart) from low to high."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def count(value: float) -> str:
    """1500000 as "1.5 M"."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def safe(text: str) -> str:
    """Text as XML takes it: escaped, and without the control characters no SVG may hold."""
    return escape("".join(character for character in text if character.isprintable()))


def text(
    x: float, y: float, text: str, colour: str = INK, size: int = 12, anchor: str = "start", weight: int = 400
) -> str:
    """A line of text with a rim of paper, so that it can be read where a curve passes below."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" xml:space="preserve" paint-order="stroke" stroke="{PAPER}" stroke-width="3">'
        f"{safe(text)}</text>"
    )


def rule(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="1"{dashed(dash)}/>'


def dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""
