"""How many bytes may be under way on lines whose speed nobody told us: ours, and each peer's.

So few that a probe never waits behind seconds of payload, so many that the line is never idle. What we have under way
follows the queue in our own line, and nobody else's: so each node fills its own. With a peer whose line is full there
is a second window, for a peer that only answers could be drowned in answers. It opens the wider: whose line it is
shrinks first. Both only say what fits; pacing.py decides what is made of it.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from gossip.protocol.queues import PEERS_MAX, Queues

# Of our own line, and of a peer's (LEDBAT, RFC 6817, allows 0.1). A probe waits in both, and is given 0.6 s.
OURS_WANTED_S, THEIRS_WANTED_S = 0.12, 0.3
WINDOW_FIRST_BYTES = 32_768  # 0.25 s of a 1 mbit/s link: the first round trips must not stand in a queue of our own
WINDOW_MIN_BYTES = 8_192
WINDOW_MAX_BYTES = 1 << 26
QUEUE_SAMPLES = 4
CLEAR = 0.1  # the share of the queue we aim at that counts as none
GROWTH_BYTES, CLEAR_GROWTH, SHRINK = 2_000, 0.1, 0.2  # per round trip


class Window:
    """Bytes that may be under way, by the queue they stand in."""

    def __init__(self, wanted_s: float) -> None:
        """wanted_s: the queue aimed at."""
        self.bytes = float(WINDOW_FIRST_BYTES)
        self.has_queued = False
        self._wanted_s = wanted_s
        self._recent: deque[float] = deque(maxlen=QUEUE_SAMPLES)

    def on_trip(self, queue_s: float, size: float, under_way: float) -> None:
        """An exchange of `size` bytes, offer and answer, came home.

        under_way: bytes of all that are open, this one included; a window that is not used does not grow (RFC 7661).

        Doubles per round trip until there was a queue. From then on everybody grows by the same and shrinks by a
        share, so that who has more gives more (Chiu and Jain 1989): two nodes on one line end with half of it each,
        where growing by what room is left would keep whatever split there was (LEDBAT's latecomers).
        """
        self._recent.append(queue_s)
        if not self.has_queued and len(self._recent) > 1 and min(list(self._recent)[-2:]) > self._wanted_s:
            self.has_queued = True
            self.bytes /= 2
        is_used = self.bytes < 2 * under_way
        if self.has_queued:
            is_clear = max(self._recent) < CLEAR * self._wanted_s
            growth = max(GROWTH_BYTES, CLEAR_GROWTH * self.bytes) if is_clear else GROWTH_BYTES
            excess = min(1.0, max(0.0, queue_s / self._wanted_s - 1))
            self.bytes += min(1.0, size / self.bytes) * (growth * is_used * (1 - excess) - SHRINK * excess * self.bytes)
        elif is_used and queue_s < self._wanted_s:
            self.bytes += size
        self.bytes = min(WINDOW_MAX_BYTES, max(WINDOW_MIN_BYTES, self.bytes))


class Windows:
    """Our own line's window and one for each peer's line."""

    def __init__(self) -> None:
        self.queues = Queues()
        self.ours = Window(OURS_WANTED_S)
        self._theirs: OrderedDict[bytes, Window] = OrderedDict()

    @property
    def total_bytes(self) -> float:
        """What may be under way in all."""
        return min(self.ours.bytes, sum(window.bytes for window in self._theirs.values()) or self.ours.bytes)

    @property
    def has_queued(self) -> bool:
        """Was there ever a queue that we could do nothing about but send less?"""
        return self.ours.has_queued or (bool(self._theirs) and all(w.has_queued for w in self._theirs.values()))

    @property
    def peers(self) -> int:
        return len(self._theirs)

    def with_peer(self, peer: bytes) -> Window:
        """What may be under way with that peer, by its line."""
        return self._theirs.get(peer) or Window(THEIRS_WANTED_S)

    def on_trip(
        self,
        peer: bytes,
        lags: tuple[int, int],
        round_trip_s: float,
        size: float,
        under_way: tuple[float, float],
        now: float,
    ) -> None:
        """An answer came. under_way: bytes of all open exchanges, and of those with that peer, this one included.

        A peer whose stamps cannot be is treated like one behind a queue: it costs nobody but itself.
        """
        is_plausible = self.queues.on_trip(peer, *lags, round_trip_s, now)
        window = self._theirs.setdefault(peer, Window(THEIRS_WANTED_S))
        self._theirs.move_to_end(peer)
        while len(self._theirs) > PEERS_MAX:
            self._theirs.popitem(last=False)
        window.on_trip(self.queues.theirs_s(peer) if is_plausible else 2 * THEIRS_WANTED_S, size, under_way[1])
        if is_plausible:
            self.ours.on_trip(self.queues.ours_s(now), size, under_way[0])

    def forget(self, peer: bytes) -> None:
        """Its link is gone."""
        self.queues.forget(peer)
        self._theirs.pop(peer, None)
