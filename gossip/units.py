"""Quantities as people write them: "90 s", "2 h", "1 mbit/s", "200 kB/s"."""

from __future__ import annotations

import re

from gossip.errors import SpecError

DURATION_EXPECTED = 'a number and a unit, such as "90 s", "30 min", "2 h" or "3 days"'
RATE_EXPECTED = 'a number and a unit, such as "1 mbit/s" or "200 kB/s"'

_SECONDS = {
    "s": 1, "sec": 1, "second": 1, "seconds": 1, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hour": 3600, "hours": 3600, "d": 86_400, "day": 86_400, "days": 86_400,
}  # fmt: skip
# Bit or byte is told by the word, or by the case of a lone b; the prefix may be written in any case.
_PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]+)\s*", re.ASCII)
_RATE = re.compile(r"([kmgKMG]?)(bit|bits|Bit|b|B|byte|bytes|Byte)(/s|ps)")


def seconds_of(text: str) -> float:
    """A duration in seconds. Raises SpecError, which names `text` and what was expected."""
    match = _QUANTITY.fullmatch(text)
    unit = _SECONDS.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) <= 0:
        raise SpecError(f"{text!r}: expected {DURATION_EXPECTED}")
    return float(match[1]) * unit


def bytes_per_s_of(text: str) -> float:
    """A data rate in bytes per second. Raises SpecError, which names `text` and what was expected."""
    match = _QUANTITY.fullmatch(text)
    unit = _RATE.fullmatch(match[2]) if match else None
    if match is None or unit is None or float(match[1]) <= 0:
        raise SpecError(f"{text!r}: expected {RATE_EXPECTED}")
    is_bytes = unit[2] == "B" or unit[2].lower().startswith("byte")
    return float(match[1]) * _PREFIXES[unit[1].lower()] / (1 if is_bytes else 8)
