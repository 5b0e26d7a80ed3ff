"""At which end of the road a queue stands, told by time stamps, as LEDBAT does (RFC 6817).

An offer carries its sender's clock. Its answer brings back how long the offer took by both clocks, the offset between
them included, and the answerer's own clock. What either way takes above its least of late is a queue before that way,
and most of that stands in the sender's own line. Clocks drift, so the least is renewed every BASE_S; what a standing
queue then hides shows in the sum of both ways, which no clock's drift touches.

What a peer may do with false stamps: of its own line it can say what it likes, that only slows or hurries our
exchanges with itself. Of ours each peer has one voice of many, and none above the time its own answer took.
"""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass, field

STAMPS_PER_S = 10_000
STAMPS = 2**32  # they begin anew every five days; only differences are used
TICKS_OFF = 2 / STAMPS_PER_S  # rounding, of two stamps

BASE_S = 60.0  # a clock that is 100 us a second off then shows 12 ms of a queue at most
TRIPS = 2  # the shorter of so many counts: one that waited for a busy process says nothing of a queue
VOICES_S = 3.0  # how long what a peer's trip said of our own line counts
PEERS_MAX = 64


def stamp(now: float) -> int:
    """A clock reading for the wire."""
    return int(now * STAMPS_PER_S) % STAMPS


def lag(sent_at: int, now: float) -> int:
    """What has passed since a stamp of another clock: raw, its offset from ours is in it."""
    return (stamp(now) - sent_at) % STAMPS


def _signed_s(ticks: int) -> float:
    return ((ticks + STAMPS // 2) % STAMPS - STAMPS // 2) / STAMPS_PER_S


@dataclass(slots=True)
class _Least:
    """The least of the last BASE_S to twice that."""

    before_s: float = math.inf
    current_s: float = math.inf
    renew_at: float = -math.inf

    def take(self, seconds: float, now: float) -> float:
        if now >= self.renew_at:
            self.before_s, self.current_s, self.renew_at = self.current_s, math.inf, now + BASE_S
        self.current_s = min(self.current_s, seconds)
        return min(self.before_s, self.current_s)


@dataclass(slots=True)
class _Road:
    """To one peer and back."""

    first: tuple[int, int]  # the first lags, there and back: the others are taken relative to them
    least_s: float = math.inf  # of both ways together, since the link is up
    there: _Least = field(default_factory=_Least)
    back: _Least = field(default_factory=_Least)
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=TRIPS))
    heard_at: float = -math.inf

    def take(self, there: int, back: int, now: float) -> tuple[float, float]:
        """(our queue, the peer's) as this trip shows them."""
        there_s, back_s = (_signed_s(raw - first) for raw, first in zip((there, back), self.first, strict=True))
        self.least_s = min(self.least_s, there_s + back_s)
        there_least, back_least = self.there.take(there_s, now), self.back.take(back_s, now)
        # Nobody knows at which end it hides: half of it at each.
        hidden_s = (there_least + back_least - self.least_s) / 2
        return max(0.0, there_s - there_least + hidden_s), max(0.0, back_s - back_least + hidden_s)


class Queues:
    """Seconds of queue in our own line and in each peer's."""

    def __init__(self) -> None:
        self._roads: OrderedDict[bytes, _Road] = OrderedDict()  # who was heard last comes last

    def on_trip(self, peer: bytes, there: int, back: int, round_trip_s: float, now: float) -> bool:
        """An answer came: its lags, and how long we waited for it by our own clock. False for stamps that cannot be."""
        if not -TICKS_OFF <= _signed_s(there + back) <= round_trip_s + TICKS_OFF:
            self.forget(peer)
            return False
        road = self._roads.pop(peer, None) or _Road((there, back))
        ours_s, theirs_s = road.take(there, back, now)
        if max(ours_s, theirs_s) > round_trip_s + TICKS_OFF:  # a clock that was set, or a process that was started anew
            road = _Road((there, back))
            ours_s, theirs_s = road.take(there, back, now)
        road.recent.append((ours_s, theirs_s))
        road.heard_at = now
        self._roads[peer] = road
        while len(self._roads) > PEERS_MAX:
            self._roads.popitem(last=False)
        return True

    def ours_s(self, now: float) -> float:
        """In our own line: what the middle one of the peers says that were heard of late; 0 where none was."""
        heard = [road.recent for road in self._roads.values() if now - road.heard_at <= VOICES_S]
        if not heard:
            return 0.0
        # Of many voices the middle one is right at once; of few each is asked twice.
        voices = [min(recent) if len(heard) < 3 else recent[-1] for recent in heard]
        return statistics.median_high(ours_s for ours_s, _ in voices)

    def theirs_s(self, peer: bytes) -> float:
        """In that peer's line; 0 where nothing is known."""
        road = self._roads.get(peer)
        return min(theirs_s for _, theirs_s in road.recent) if road is not None and road.recent else 0.0

    def theirs_typical_s(self) -> float:
        """In a typical peer's line; 0 where nothing is known."""
        return statistics.median_low([self.theirs_s(peer) for peer in self._roads]) if self._roads else 0.0

    def forget(self, peer: bytes) -> None:
        """Its link is gone; the next one may take another road."""
        self._roads.pop(peer, None)
