"""Pairwise exchange: offered -> answered -> mixed, or given up.

Knows exchange ids, peers, deadlines and how many may be open. Does not know arrays, sockets or
clocks: bodies pass through untouched, and `now` (seconds, monotonic) is always an argument.

The rule everything here serves: an answer is a displacement the peer has already applied to its
own model, so we apply our half exactly once per exchange id, however late it comes. A deadline
therefore frees the slot and the blocks, never the id; ids are forgotten only when the table of
LATE_MAX is full, and that is a named, counted loss.
"""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from gossip.protocol.events import Apply, Effect, Emit, Forget, GiveUp, PickBlocks, Respond, Send, SendPayload
from gossip.protocol.messages import Header, PayloadKind, Refusal
from gossip.protocol.queues import lag, stamp

OPEN_MAX = 4
LATE_MAX = 64
SERVED_MAX = 512  # answered ids remembered, so that a duplicated offer does not move us twice
ANSWERING_MAX = 8  # offers in work at once; beyond that we are BUSY
ROADS_MAX = 64  # peers whose round trips are remembered
SLOW_MIN_S = 0.02
SLOW_FACTOR = 2  # an exchange older than so many round trips takes no slot: one slow peer must not block the only one
DEADLINE_FIRST_S = 3.0
DEADLINE_MIN_S = 0.2  # a slot lost to a lost message: at 0.5 a swarm losing 20 % mixed a third as often
DEADLINE_MAX_S = 15.0


@dataclass(slots=True)
class _Offer:
    """One exchange we began."""

    peer: bytes
    fraction: float  # of the model
    began_at: float
    deadline: float
    sent: bool = False
    late: bool = False
    sent_at: float = math.inf
    mixing: bool = False  # its answer is being applied

    @property
    def is_awaited(self) -> bool:
        """Nothing has come back yet."""
        return self.sent and not self.mixing


@dataclass(slots=True)
class _Road:
    """Smoothed round trip and its deviation, as TCP has them (RFC 6298). 0 before the first."""

    round_trip_s: float = 0.0
    deviation_s: float = 0.0

    def measure(self, seconds: float) -> None:
        """One trip. A peer that was paused does not spoil it."""
        if self.round_trip_s == 0.0:
            self.round_trip_s, self.deviation_s = seconds, seconds / 2
            return
        seconds = min(seconds, 2 * self.patience_s())
        self.deviation_s += (abs(seconds - self.round_trip_s) - self.deviation_s) / 4
        self.round_trip_s += (seconds - self.round_trip_s) / 8

    def patience_s(self) -> float:
        if self.round_trip_s == 0.0:
            return DEADLINE_FIRST_S
        return min(DEADLINE_MAX_S, max(DEADLINE_MIN_S, 2 * self.round_trip_s + 4 * self.deviation_s))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many exchanges stand where."""

    open: int  # offered, and their slot is taken
    late: int  # given up, remembered for a late answer
    answering: int  # others' offers in work


class Exchanges:
    """Our side of every exchange we begin, and the ones we answer."""

    def __init__(self, incarnation: int = 0, first_id: int = 1) -> None:
        """first_id: a random one keeps a restarted node's exchanges apart from those of its former life."""
        self.completed = 0
        self.failed = 0
        self.answered = 0
        self._incarnation = incarnation
        self._next_id = first_id
        self._offers: dict[int, _Offer] = {}  # in the order they began
        self._served: OrderedDict[tuple[bytes, int, int], None] = OrderedDict()
        self._answering: dict[tuple[bytes, int], tuple[Header, int]] = {}  # the offer's, and its lag
        self._roads: OrderedDict[bytes, _Road] = OrderedDict()  # by peer: a slow one answers between two slow steps
        self._any_road = _Road()  # for a peer we know nothing of

    # -- What others ask of us -----------------------------------------------------------------------

    @property
    def round_trip_s(self) -> float:
        """Smoothed time from an offer's choice to its answer's application, of a typical peer; 0 before the first."""
        return statistics.median_low([road.round_trip_s for road in self._roads.values()]) if self._roads else 0.0

    def round_trip_with(self, peer: bytes) -> float:
        """That peer's; a typical one's where we have not met."""
        road = self._roads.get(peer)
        return self.round_trip_s if road is None else road.round_trip_s

    @property
    def preparing(self) -> float:
        """Shares of the model in offers that are being made: their bytes are not spent yet."""
        return sum(offer.fraction for offer in self._offers.values() if not offer.sent and not offer.late)

    @property
    def under_way(self) -> float:
        """Shares of the model in all open exchanges."""
        return sum(offer.fraction for offer in self._offers.values() if not offer.late)

    def under_way_with(self, peer: bytes) -> float:
        """Shares of the model in open exchanges with that peer."""
        return sum(offer.fraction for offer in self._offers.values() if not offer.late and offer.peer == peer)

    def share_of(self, exchange_id: int) -> float | None:
        """Share of the model in an exchange we began and have not closed."""
        offer = self._offers.get(exchange_id)
        return None if offer is None else offer.fraction

    def awaited_from(self, peer: bytes, exchange_id: int) -> tuple[float, float] | None:
        """(when it was sent, share of the model) of an offer `peer` has not answered yet."""
        offer = self._offers.get(exchange_id)
        is_theirs = offer is not None and offer.peer == peer and offer.is_awaited
        return (offer.sent_at, offer.fraction) if offer is not None and is_theirs else None

    def notes(self) -> dict[str, int]:
        """Counts that go on after a restart; what was open is over."""
        return {"completed": self.completed, "failed": self.failed, "answered": self.answered}

    def restore(self, notes: Mapping[str, int]) -> None:
        self.completed, self.failed, self.answered = notes["completed"], notes["failed"], notes["answered"]

    def open_with(self) -> list[bytes]:
        return [offer.peer for offer in self._offers.values() if not offer.late]

    def counts(self) -> Counts:
        opened = len(self.open_with())
        return Counts(opened, len(self._offers) - opened, len(self._answering))

    def next_deadline(self) -> float:
        return min((o.deadline for o in self._offers.values() if not o.late and not o.mixing), default=math.inf)

    # -- Exchanges we begin --------------------------------------------------------------------------

    def begin(
        self,
        peer: bytes,
        fraction: float,
        every_s: float,
        now: float,
        with_momentum: bool = False,
        slots: int | None = None,
    ) -> list[Effect]:
        """Offer `fraction` of the blocks to `peer`, if a slot is free.

        every_s: time between two exchanges. slots: how many may be open; None for as many as are useful: with
        messages one way taking D steps and an exchange every H steps that is ceil(D/H), later answers are stale.
        """
        if slots is None:
            slots = OPEN_MAX if every_s <= 0 else min(OPEN_MAX, max(1, math.ceil(self.round_trip_s / 2 / every_s)))
        if self.taken(now) >= slots or len(self.open_with()) >= OPEN_MAX:
            return [Emit("exchange_skipped", {"why": "as many are open as are useful", "open": slots})]
        exchange_id = self._next_id
        self._next_id += 1
        # From a round trip of one period on. Without this rule four nodes that offer everything every 4 steps end
        # at 15 % instead of 96 when an answer takes 8 (analysis/exchange_convergence.py); below it nothing changes.
        skip_in_flight = self.round_trip_s > every_s or any(
            not offer.late and now - offer.began_at > every_s for offer in self._offers.values()
        )
        patience_s = self._roads.get(peer, self._any_road).patience_s()
        self._offers[exchange_id] = _Offer(peer, fraction, now, now + patience_s)
        return [*self._evict(), PickBlocks(exchange_id, fraction, skip_in_flight, with_momentum)]

    def taken(self, now: float) -> int:
        """Slots in use. Who takes far longer than a typical peer is waited for beside them, not instead of others."""
        slow_s = max(SLOW_MIN_S, SLOW_FACTOR * self.round_trip_s) if self._roads else math.inf
        return sum(not o.late and now - o.began_at <= slow_s for o in self._offers.values())

    def on_offer_ready(self, exchange_id: int, body: bytes | None, step: int, now: float) -> list[Effect]:
        offer = self._offers.get(exchange_id)
        if offer is None:
            return []
        if body is None or offer.late:
            # Nothing left our node: nobody can answer, so there is nothing to remember.
            del self._offers[exchange_id]
            why = "its deadline passed before it was sent" if offer.late else "no block is free to be offered"
            return [Forget(exchange_id), Emit("exchange_skipped", {"why": why})]
        offer.sent, offer.sent_at = True, now
        header = Header(PayloadKind.OFFER, self._incarnation, exchange_id, step, stamp(now))
        return [SendPayload(offer.peer, header, body)]

    def on_answer(self, peer: bytes, header: Header, body: bytes) -> list[Effect]:
        """Mix once per exchange, however late: the peer has already moved by the same amount.

        A second answer, one nobody asked for, or one from somebody else changes nothing.
        """
        offer = self._offers.get(header.number)
        if offer is None or offer.peer != peer or not offer.is_awaited:
            return [self._dropped("answer", peer, header.number)]
        if header.incarnation != self._incarnation:
            # An answer to a former life of ours: its blocks and steps are not the ones we remember.
            return [self._dropped("answer of a former start", peer, header.number)]
        offer.mixing = True
        return [Apply(peer, header, body)]

    def on_mixed(self, exchange_id: int, blocks: int, failed: int, now: float, momentum_mixed: int = 0) -> list[Effect]:
        offer = self._offers.pop(exchange_id, None)
        if offer is None:
            return []
        self.completed += 1
        self._measure(offer.peer, now - offer.began_at)
        fields = {"id": exchange_id, "peer": offer.peer.hex()[:8], "blocks": blocks, "blocks_failed": failed,
                  "momentum_mixed": momentum_mixed, "seconds": round(now - offer.began_at, 4),
                  "late": offer.late}  # fmt: skip
        return [Emit("exchange_mixed", fields)]

    def on_refusal(self, peer: bytes, exchange_id: int, code: str) -> list[Effect]:
        offer = self._offers.get(exchange_id)
        if offer is None or offer.peer != peer or not offer.is_awaited:
            return [self._dropped("refusal", peer, exchange_id)]
        return self._fail(exchange_id, code)

    def on_unreadable(self, exchange_id: int, code: str) -> list[Effect]:
        """The answer did not decode: what it would have moved stays as disagreement."""
        return self._fail(exchange_id, code) if exchange_id in self._offers else []

    def on_link_down(self, peer: bytes) -> list[Effect]:
        """Its answers can still come over another link: slots and blocks are freed, ids kept."""
        self._roads.pop(peer, None)
        effects: list[Effect] = []
        for exchange_id, offer in list(self._offers.items()):
            if offer.peer == peer and not offer.late and not offer.mixing:
                effects += self._give_up(exchange_id, "link lost")
        return effects

    def on_tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for exchange_id, offer in list(self._offers.items()):
            if offer.deadline <= now and not offer.late and not offer.mixing:
                # Not measured: the wait for what was lost says nothing of the road (Karn's rule), and
                # fed back into the deadline it would double it until every slot waits DEADLINE_MAX_S.
                effects += self._give_up(exchange_id, "no answer in time")
        return effects

    # -- Exchanges we answer -------------------------------------------------------------------------

    def on_offer(
        self, peer: bytes, header: Header, body: bytes, now: float, able: bool, in_debt: bool = False
    ) -> list[Effect]:
        """Answer an offer once. Our own blocks in flight are no reason to refuse: that starves.

        in_debt: what we may send is spent, and an answer would have to wait.
        """
        key = (peer, header.incarnation, header.number)
        if key in self._served or (peer, header.number) in self._answering:
            return [self._dropped("offer", peer, header.number)]
        if not able or in_debt or len(self._answering) >= ANSWERING_MAX:
            code = "BUSY" if able else "NOT_READY"
            return [Send(peer, Refusal(PayloadKind.OFFER, header.number, code)),
                    Emit("offer_refused", {"peer": peer.hex()[:8], "id": header.number, "code": code})]  # fmt: skip
        self._served[key] = None
        while len(self._served) > SERVED_MAX:
            self._served.popitem(last=False)
        self._answering[peer, header.number] = header, lag(header.sent_at, now)
        return [Respond(peer, header, body)]

    def on_answer_ready(
        self,
        peer: bytes,
        exchange_id: int,
        body: bytes,
        blocks: int,
        failed: int,
        step: int,
        now: float,
        momentum_mixed: int = 0,
    ) -> list[Effect]:
        header, offer_lag = self._answering.pop((peer, exchange_id))
        self.answered += 1
        # The offer's own incarnation goes back: it tells the asker which of its lives this answers.
        answer = Header(PayloadKind.ANSWER, header.incarnation, exchange_id, step, stamp(now), offer_lag)
        fields = {"peer": peer.hex()[:8], "id": exchange_id, "blocks": blocks, "blocks_failed": failed,
                  "momentum_mixed": momentum_mixed}  # fmt: skip
        return [SendPayload(peer, answer, body), Emit("exchange_answered", fields)]

    def on_offer_unreadable(self, peer: bytes, exchange_id: int, code: str) -> list[Effect]:
        self._answering.pop((peer, exchange_id), None)
        return [Send(peer, Refusal(PayloadKind.OFFER, exchange_id, code)),
                Emit("offer_refused", {"peer": peer.hex()[:8], "id": exchange_id, "code": code})]  # fmt: skip

    # -- How it is done ------------------------------------------------------------------------------

    def _give_up(self, exchange_id: int, why: str) -> list[Effect]:
        offer = self._offers[exchange_id]
        offer.late = True
        self.failed += 1
        fields = {"id": exchange_id, "peer": offer.peer.hex()[:8], "why": why}
        return [GiveUp(exchange_id), Emit("exchange_failed", fields)]

    def _fail(self, exchange_id: int, code: str) -> list[Effect]:
        """Over for good: the peer has not moved, or nothing can be learnt of how it did."""
        offer = self._offers.pop(exchange_id)
        if offer.late:
            return [Forget(exchange_id)]
        self.failed += 1
        fields = {"id": exchange_id, "peer": offer.peer.hex()[:8], "why": code}
        return [Forget(exchange_id), Emit("exchange_failed", fields)]

    def _evict(self) -> list[Effect]:
        late = [exchange_id for exchange_id, offer in self._offers.items() if offer.late and not offer.mixing]
        if len(late) <= LATE_MAX:
            return []
        oldest = self._offers.pop(late[0])
        fields = {"id": late[0], "peer": oldest.peer.hex()[:8]}
        return [Forget(late[0]), Emit("exchange_evicted", fields)]

    def _dropped(self, what: str, peer: bytes, exchange_id: int) -> Emit:
        return Emit("exchange_dropped", {"what": what, "peer": peer.hex()[:8], "id": exchange_id})

    def _measure(self, peer: bytes, seconds: float) -> None:
        self._any_road.measure(seconds)
        road = self._roads.setdefault(peer, _Road())
        road.measure(seconds)
        self._roads.move_to_end(peer)
        while len(self._roads) > ROADS_MAX:
            self._roads.popitem(last=False)
