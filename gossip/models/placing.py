"""Where things lie in memory that live for a while: each at the first place that is free all its life."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Lifetime:
    """So many numbers, needed from `birth` to `death`, both included."""

    numbers: int
    birth: int
    death: int
    at: int = -1


def place(lifetimes: Iterable[Lifetime], begin: int) -> int:
    """Give everything a place from `begin` on, the largest first; returns the end of the last one."""
    placed: list[Lifetime] = []
    for new in sorted(lifetimes, key=lambda lifetime: -lifetime.numbers):
        living = [other for other in placed if other.birth <= new.death and new.birth <= other.death]
        new.at = begin
        for other in sorted(living, key=lambda other: other.at):
            if new.at + new.numbers <= other.at:
                break
            new.at = max(new.at, other.at + other.numbers)
        placed.append(new)
    return max((lifetime.at + lifetime.numbers for lifetime in placed), default=begin)
