"""How many bytes may leave under a cap that somebody set. What a slow line takes without one: windows.py.

Bucket only says what fits; pacing.py decides what is made of it.
"""

from __future__ import annotations

import math

PAYLOAD_OVERHEAD_BYTES = 150  # header frame, CURVE and framing of a payload; the ledger's count corrects it each second
# Tokens saved while nobody had anything to send, or this process no CPU to do it. With the debt of an offer (below
# 0.2 s) this is how far a window of any length may be off: 0.4 s are 4 % of 10 s.
SAVED_S = 0.2
DEBT_MAX_S = 0.2  # deeper in debt we take no new obligations: offers to answer, fragments to send


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
