"""What gossip doctor found: a verdict, a line, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, BAD, UNKNOWN = "ok", "warn", "bad", "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """verdict: OK, WARN (works, with a price), BAD (a node would fail), UNKNOWN (could not be looked at)."""

    name: str
    verdict: str
    found: str
    fix: str = ""
