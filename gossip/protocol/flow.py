"""How many bytes may leave: a cap somebody set, and the queue of a slow link that nobody told us about.

Bucket keeps what this node sends within its cap. Window keeps what is under way so small that a probe never
waits behind seconds of payload. Both only say what fits; pacing.py decides what is made of it.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque

PAYLOAD_OVERHEAD_BYTES = 150  # header frame, CURVE and framing of a payload; the ledger's count corrects it each second
# Tokens saved while nobody had anything to send, or this process no CPU to do it. With the debt of an offer (below
# 0.2 s) this is how far a window of any length may be off: 0.4 s are 4 % of 10 s.
SAVED_S = 0.2
DEBT_MAX_S = 0.2  # deeper in debt we take no new obligations: offers to answer, fragments to send

QUEUE_WANTED_S = 0.25  # above the least round trip seen (LEDBAT, RFC 6817, allows 0.1); a probe is given 0.6 s
WINDOW_FIRST_BYTES = 32_768  # 0.25 s of a 1 mbit/s link: the first round trips must not stand in a queue of our own
WINDOW_MIN_BYTES = 8_192
WINDOW_MAX_BYTES = 1 << 26
QUEUE_SAMPLES = 4
CLEAR = 0.1  # the share of the queue we aim at that counts as none
GROWTH_BYTES, CLEAR_GROWTH, SHRINK = 2_000, 0.1, 0.3  # per round trip
PEERS_MAX = 256


class Bucket:
    """A token bucket over everything this node sends. Control messages and answers pass, and may leave a debt."""

    def __init__(self, bytes_per_s: float) -> None:
        """bytes_per_s: math.inf for no cap."""
        self.bytes_per_s = bytes_per_s
        self._balance = 0.0
        self._at: float | None = None
        self._counted: int | None = None  # bytes sent by the ledger's last count
        self._ahead = 0  # spent since then: not to be deducted again

    @property
    def has_cap(self) -> bool:
        return self.bytes_per_s < math.inf

    def balance(self, now: float) -> float:
        """Bytes that may be sent now; a debt is negative."""
        if not self.has_cap:
            return math.inf
        if self._at is not None:
            self._balance = min(SAVED_S * self.bytes_per_s, self._balance + (now - self._at) * self.bytes_per_s)
        self._at = now
        return self._balance

    def free_at(self, now: float, promised: float = 0.0) -> float:
        """When debt and promises will be covered, if nothing else is sent."""
        balance = self.balance(now) - promised
        return now if balance >= 0 else now - balance / self.bytes_per_s

    def is_deep_in_debt(self, now: float) -> bool:
        return self.has_cap and self.balance(now) < -DEBT_MAX_S * self.bytes_per_s

    def spend(self, body_bytes: int, now: float) -> None:
        """A payload goes out."""
        if self.has_cap:
            size = body_bytes + PAYLOAD_OVERHEAD_BYTES
            self._balance = self.balance(now) - size
            self._ahead += size

    def on_traffic(self, bytes_sent: int, now: float) -> None:
        """The ledger's count of all bytes ever sent: control messages, handshakes and heartbeats are in it.

        The first one only tells where the count stands: what a former life sent is no debt of this one.
        """
        if self.has_cap and self._counted is not None:
            self._balance = self.balance(now) - (bytes_sent - self._counted - self._ahead)
        self._counted, self._ahead = bytes_sent, 0


class Window:
    """Bytes of our own exchanges that may be under way, by the queue their round trips betray.

    A queue is what a round trip takes above the least one seen with that peer. Peers answer between two steps, which
    looks the same for a slow peer, so only what the shortest of the last few shows counts as a standing queue (CoDel,
    RFC 8289), and the window grows again as soon as one trip is quick.
    """

    def __init__(self) -> None:
        self.bytes = float(WINDOW_FIRST_BYTES)
        self.queue_s = 0.0
        self.has_queued = False
        self._least_s: OrderedDict[bytes, float] = OrderedDict()
        self._recent: deque[float] = deque(maxlen=QUEUE_SAMPLES)

    def on_round_trip(self, peer: bytes, seconds: float, size: float, under_way: float, allowed_s: float = 0.0) -> None:
        """An exchange of `size` bytes, offer and answer, came home.

        under_way: bytes of all that are open, this one included; a window that is not used does not grow (RFC 7661).
        allowed_s: what waiting for steps may have taken.

        Doubles per round trip until there was a queue. From then on everybody grows by the same and shrinks by a
        share, so that who has more gives more (Chiu and Jain 1989): two nodes on one line end with half of it each,
        where growing by what room is left would keep whatever split there was (LEDBAT's latecomers).
        """
        least = min(seconds, self._least_s.pop(peer, seconds))
        self._least_s[peer] = least
        while len(self._least_s) > PEERS_MAX:
            self._least_s.popitem(last=False)
        self._recent.append(max(0.0, seconds - least - allowed_s))
        self.queue_s = min(self._recent)
        self.has_queued |= len(self._recent) == QUEUE_SAMPLES and self.queue_s > QUEUE_WANTED_S
        is_used = self.bytes < 2 * under_way
        if self.has_queued:
            is_clear = max(self._recent) < CLEAR * QUEUE_WANTED_S
            growth = max(GROWTH_BYTES, CLEAR_GROWTH * self.bytes) if is_clear else GROWTH_BYTES
            excess = min(1.0, max(0.0, self.queue_s / QUEUE_WANTED_S - 1))
            self.bytes += min(1.0, size / self.bytes) * (growth * is_used - SHRINK * excess * self.bytes)
        elif is_used and self._recent[-1] < QUEUE_WANTED_S:
            self.bytes += size
        self.bytes = min(WINDOW_MAX_BYTES, max(WINDOW_MIN_BYTES, self.bytes))

    def forget(self, peer: bytes) -> None:
        """Its link is gone; the next one may take another road."""
        self._least_s.pop(peer, None)
